"""The use case: a program for a request."""

import time
from datetime import UTC, datetime

from loopai_common.contracts.generation import GenerationRequest, GenerationResponse
from loopai_common.errors import LoopaiError, ValidationFailed
from loopai_common.runtime import tracing
from loopai_common.schemas import schema_violations
from loopai_generator.ports import Observer, Provider


class Generator:
    """Has programs written by its provider."""

    def __init__(self, provider: Provider, observer: Observer) -> None:
        self._provider = provider
        self._observer = observer

    async def generate(self, request: GenerationRequest, idempotency_key: str | None = None) -> GenerationResponse:
        """Answers with a program, or with ``success=False`` and what to do instead.

        ``idempotency_key`` is the caller's, for what the provider asks of others. Raises :class:`ValidationFailed` for
        schemas that are none, and what the provider raises.
        """
        violations = schema_violations(request.input_schema, "input_schema")
        violations += schema_violations(request.output_schema, "output_schema")
        if violations:
            raise ValidationFailed("the request breaks its contract", details=violations)
        started = time.perf_counter()
        outcome = "cancelled"
        self._observer.started()
        try:
            with tracing.span("learning") as span:
                response = await self._provider.generate(request, idempotency_key)
                outcome = "program" if response.success else "declined"
                span.set({"loopai.outcome": outcome})
            return response.model_copy(update={"generated_at": datetime.now(UTC)})
        except LoopaiError as error:
            outcome = error.code
            raise
        finally:
            self._observer.finished(outcome, time.perf_counter() - started)
