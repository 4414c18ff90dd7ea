"""A generator over HTTP, and everything that keeps a bad one from doing harm.

In this order, from the outside: total deadline → retry → deadline of the attempt → HTTP call. The circuit breaker
stands between the first two, in :meth:`HttpGenerator.generate`.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx
import pydantic

from loopai_common import json_text
from loopai_common.contracts.artifacts import MAX_CODE_BYTES, SynthesisStrategy
from loopai_common.contracts.base import GenerationId
from loopai_common.contracts.generation import MAX_RESPONSE_BYTES, GenerationRequest, GenerationResponse
from loopai_common.errors import GeneratorFailed, GeneratorUnavailable, MalformedJson
from loopai_common.runtime import context
from loopai_common.runtime.logging import get_logger
from loopai_generator_proxy.domain import Program, RetryPolicy
from loopai_generator_proxy.metrics import GenerationMetrics

_RETRIED_STATUSES = frozenset({408, 429})
_MAX_OWN_MESSAGE = 1500

log = get_logger()


class _Failed(Exception):
    """An attempt that gave no program. ``kind`` is its outcome in the metrics; ``retry_after`` is in seconds."""

    def __init__(self, kind: str, message: str, *, retried: bool = False, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.retried = retried
        self.retry_after = retry_after


class HttpGenerator:
    """Any generator that speaks the contract, at ``url``.

    ``sleep`` and ``draw`` (0 ≤ x < 1) are what the pauses between attempts are made with.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        url: str,
        metrics: GenerationMetrics,
        *,
        api_key: str | None,
        policy: RetryPolicy,
        attempt_timeout_seconds: float,
        total_timeout_seconds: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._client = client
        self._url = url.rstrip("/")
        self._metrics = metrics
        self._authorization = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._policy = policy
        self._attempt_timeout_seconds = attempt_timeout_seconds
        self._total_timeout_seconds = total_timeout_seconds
        self._sleep = sleep
        self._draw = draw

    async def generate(self, request: GenerationRequest, generation_id: GenerationId) -> Program:
        """A program; raises :class:`GeneratorFailed`, or :class:`GeneratorUnavailable` when every attempt failed."""
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "X-Correlation-ID": context.current().correlation_id,
            "Idempotency-Key": str(generation_id),
            **self._authorization,
        }
        body = await asyncio.to_thread(lambda: request.model_dump_json().encode())
        try:
            async with asyncio.timeout(self._total_timeout_seconds):
                return await self._with_retries(body, headers)
        except TimeoutError as error:
            raise GeneratorUnavailable(
                f"the generator gave no program within {self._total_timeout_seconds:g} seconds in total"
            ) from error

    async def check(self) -> str | None:
        """Readiness: ``None``, or a sentence that says how the generator's own health check failed."""
        try:
            response = await self._client.get(f"{self._url}/health")
        except httpx.HTTPError as error:
            return f"the generator does not answer ({type(error).__name__})"
        return None if response.is_success else f"the generator's health check answers {response.status_code}"

    async def _with_retries(self, body: bytes, headers: dict[str, str]) -> Program:
        until = time.monotonic() + self._total_timeout_seconds
        failures = 0
        while True:
            try:
                return await self._attempt(body, headers)
            except _Failed as failure:
                failures += 1
                pause = self._policy.pause(failures, failure.retry_after, self._draw) if failure.retried else None
                log.warning(
                    "generator_attempt_failed", kind=failure.kind, reason=failure.message, attempt=failures, pause=pause
                )
                if not failure.retried:
                    raise GeneratorFailed(failure.message) from failure
                if pause is None:
                    raise GeneratorUnavailable(f"{failure.message} ({failures} attempts)") from failure
                if time.monotonic() + pause >= until:
                    raise GeneratorUnavailable(
                        f"{failure.message}, and asks to wait longer than a generation may take"
                    ) from failure
            await self._sleep(pause)
            self._metrics.retries.inc()

    async def _attempt(self, body: bytes, headers: dict[str, str]) -> Program:
        started = time.perf_counter()
        outcome = "cancelled"
        try:
            # httpx's own time-out is for each read: a server that drips bytes would never meet it.
            async with asyncio.timeout(self._attempt_timeout_seconds):
                program = await self._call(body, headers)
            outcome = "ok"
            return program
        except TimeoutError as error:
            outcome = "timeout"
            raise _Failed(
                outcome,
                f"the generator did not answer within {self._attempt_timeout_seconds:g} seconds",
                retried=True,
            ) from error
        except httpx.TransportError as error:
            outcome = "connection"
            raise _Failed(
                outcome, f"the connection to the generator failed ({type(error).__name__})", retried=True
            ) from error
        except _Failed as failure:
            outcome = failure.kind
            raise
        finally:
            self._metrics.attempts.labels(outcome).inc()
            self._metrics.attempt_duration.observe(time.perf_counter() - started)

    async def _call(self, body: bytes, headers: dict[str, str]) -> Program:
        async with self._client.stream("POST", f"{self._url}/generate", content=body, headers=headers) as response:
            _refuse_status(response)
            answer = await _read(response)
        return await asyncio.to_thread(program_of, answer)


def http_client(connections: int) -> httpx.AsyncClient:
    """A client that follows no redirect, reads nothing from the environment, and leaves deadlines to its caller."""
    return httpx.AsyncClient(
        timeout=None,  # noqa: S113  # every call stands inside asyncio.timeout
        follow_redirects=False,
        trust_env=False,
        limits=httpx.Limits(max_connections=2 * connections, max_keepalive_connections=connections),
    )


def program_of(answer: bytes) -> Program:
    """The program in a generator's answer; the failure says what is wrong with any other answer."""
    try:
        response = GenerationResponse.model_validate(json_text.loads(answer))
    except MalformedJson as error:
        raise _Failed("invalid", f"the generator's answer is not JSON: {error.message}") from error
    except pydantic.ValidationError as error:
        fields = ", ".join(sorted({"/".join(map(str, item["loc"])) for item in error.errors(include_input=False)}))
        raise _Failed("invalid", f"the generator's answer breaks the contract in: {fields or 'its type'}") from error
    if not response.success:
        raise _Failed("declined", (response.error_message or "the generator gave no reason")[:_MAX_OWN_MESSAGE])
    if not response.code:
        raise _Failed("invalid", "the generator says success and sends no code")
    if len(response.code.encode()) > MAX_CODE_BYTES:
        raise _Failed("invalid", f"the generated program is larger than {MAX_CODE_BYTES} bytes")
    return Program(
        code=response.code,
        entry_point=response.entry_point or "run",
        strategy=response.synthesis_strategy or SynthesisStrategy.AUTO,
        llm_provider=response.llm_provider,
        llm_model=response.llm_model,
        cost=response.generation_cost or 0.0,
        own_confidence=_own_confidence(response),
    )


def retry_after_seconds(value: str | None, now: datetime) -> float | None:
    """The pause that ``Retry-After`` asks for (RFC 9110: seconds, or a date); ``None`` for none or nonsense."""
    if value is None:
        return None
    if value.strip().isascii() and value.strip().isdigit():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())


def _refuse_status(response: httpx.Response) -> None:
    status = response.status_code
    if response.is_success:
        return
    if response.is_redirect or 300 <= status < 400:
        raise _Failed("redirect", f"the generator answered with a redirect (HTTP {status}), and none is followed")
    raise _Failed(
        "status_5xx" if status >= 500 else "status_4xx",
        f"the generator answered HTTP {status}",
        retried=status >= 500 or status in _RETRIED_STATUSES,
        retry_after=retry_after_seconds(response.headers.get("Retry-After"), datetime.now(UTC)),
    )


async def _read(response: httpx.Response) -> bytes:
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise _Failed("invalid", "the generator's answer is compressed, which was not asked for")
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MAX_RESPONSE_BYTES:
            raise _Failed("invalid", f"the generator's answer is larger than {MAX_RESPONSE_BYTES} bytes")
    return bytes(body)


def _own_confidence(response: GenerationResponse) -> float:
    value = (response.metadata or {}).get("confidence")
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and 0.0 <= value <= 1.0
    return float(value) if known and isinstance(value, (int, float)) else 0.0
