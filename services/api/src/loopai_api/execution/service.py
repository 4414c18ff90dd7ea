"""The use case of the ordinary lane: one execution, awaited."""

import asyncio
import time
from dataclasses import dataclass

import msgspec

from loopai_api.execution.engine import Execution, ExecutionEngine
from loopai_api.execution.rendering import Origin, Renderer, server_timing
from loopai_api.execution.requests import ExecuteBody
from loopai_common.contracts.frames import FrameMark
from loopai_common.errors import LoopaiError
from loopai_common.identifiers import new_id
from loopai_common.runtime.context import RequestContext


@dataclass(frozen=True, slots=True)
class ExecutionAnswer:
    """What a client is answered; ``timing`` is the value of ``Server-Timing``."""

    status: int
    body: bytes
    timing: str


class ExecutionService:
    """Runs executions through the engine."""

    def __init__(self, engine: ExecutionEngine, default_timeout_ms: int) -> None:
        self._engine = engine
        self._default_timeout_ms = default_timeout_ms

    async def execute(
        self, task: str, request: ExecuteBody, context: RequestContext, render: Renderer
    ) -> ExecutionAnswer:
        """Runs one input and returns the answer as ``render`` writes it; raises what keeps the program from running."""
        started = time.perf_counter()
        sent = None if context.generated else context.correlation_id
        execution_id = context.correlation_id if sent is None else new_id()
        program = task, request.version or 0, request.timeout_ms or self._default_timeout_ms
        mark = FrameMark(sent or "", request.force_validation, context.sampled_traceparent)
        execution = AwaitedExecution()
        self._engine.submit(execution, program, execution_id, request.input, mark)
        origin, payload = await execution.outcome
        status, body = render(origin, payload, execution_id, sent, task)
        return ExecutionAnswer(status, b"".join(body), server_timing(time.perf_counter() - started, origin))


class AwaitedExecution(Execution):
    """An execution whose ``outcome`` is awaited."""

    __slots__ = ("outcome",)

    def __init__(self) -> None:
        self.outcome: asyncio.Future[tuple[Origin, msgspec.Raw]]
        self.outcome = asyncio.get_running_loop().create_future()

    def answered(self, origin: Origin, payload: msgspec.Raw) -> None:
        if not self.outcome.done():
            self.outcome.set_result((origin, payload))

    def failed(self, error: LoopaiError) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(error)
