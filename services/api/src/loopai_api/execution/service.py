"""The use case of the ordinary lane: one execution, awaited."""

import asyncio

from loopai_api.execution.engine import Execution, ExecutionEngine
from loopai_api.execution.rendering import render_execution
from loopai_api.execution.requests import ExecuteBody, frame_item
from loopai_common.contracts.frames import FrameAnswer, FrameAnswerGroup
from loopai_common.errors import LoopaiError
from loopai_common.runtime.context import RequestContext


class ExecutionService:
    """Runs executions through the engine."""

    def __init__(self, engine: ExecutionEngine, default_timeout_ms: int) -> None:
        self._engine = engine
        self._default_timeout_ms = default_timeout_ms

    async def execute(self, task: str, request: ExecuteBody, context: RequestContext) -> bytes:
        """Runs one input and returns the body of the response; raises what keeps the program from running."""
        sent = None if context.generated else context.correlation_id
        item = frame_item(request, self._default_timeout_ms, execution_id=context.correlation_id, sent=sent)
        execution = AwaitedExecution()
        execution.prepare(task, request.version or 0, item, len(bytes(request.input)))
        self._engine.submit(execution)
        return render_execution(item, *await execution.outcome)


class AwaitedExecution(Execution):
    """An execution whose ``outcome`` is awaited."""

    __slots__ = ("outcome",)

    def __init__(self) -> None:
        self.outcome: asyncio.Future[tuple[FrameAnswerGroup, FrameAnswer]]
        self.outcome = asyncio.get_running_loop().create_future()

    def answered(self, group: FrameAnswerGroup, answer: FrameAnswer) -> None:
        if not self.outcome.done():
            self.outcome.set_result((group, answer))

    def failed(self, error: LoopaiError) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(error)
