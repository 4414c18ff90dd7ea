"""The use case of the ordinary lane: one execution, awaited."""

import asyncio
import time
from dataclasses import dataclass

from loopai_api.execution.engine import Execution, ExecutionEngine
from loopai_api.execution.rendering import Origin, Renderer, server_timing
from loopai_api.execution.requests import ExecuteBody, frame_item
from loopai_common.contracts.frames import FrameAnswer
from loopai_common.errors import LoopaiError
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
        item = frame_item(
            request,
            self._default_timeout_ms,
            execution_id=context.correlation_id,
            sent=sent,
            traceparent=context.sampled_traceparent,
        )
        execution = AwaitedExecution()
        self._engine.submit(execution, task, request.version or 0, item, len(bytes(request.input)))
        origin, answer = await execution.outcome
        status, body = render(item, origin, answer, task)
        return ExecutionAnswer(status, body, server_timing(time.perf_counter() - started, answer))


class AwaitedExecution(Execution):
    """An execution whose ``outcome`` is awaited."""

    __slots__ = ("outcome",)

    def __init__(self) -> None:
        self.outcome: asyncio.Future[tuple[Origin, FrameAnswer]]
        self.outcome = asyncio.get_running_loop().create_future()

    def answered(self, origin: Origin, answer: FrameAnswer) -> None:
        if not self.outcome.done():
            self.outcome.set_result((origin, answer))

    def failed(self, error: LoopaiError) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(error)
