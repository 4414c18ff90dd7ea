"""The use case of the ordinary lane: one execution, awaited."""

import asyncio

from loopai_api.execution.engine import Execution, ExecutionEngine
from loopai_api.execution.rendering import render_execution
from loopai_api.execution.requests import ExecuteBody
from loopai_common.contracts.frames import FORCE_VALIDATION, FrameAnswer, FrameAnswerGroup, FrameItem
from loopai_common.errors import LoopaiError
from loopai_common.identifiers import new_id


class ExecutionService:
    """Runs executions through the engine."""

    def __init__(self, engine: ExecutionEngine, default_timeout_ms: int) -> None:
        self._engine = engine
        self._default_timeout_ms = default_timeout_ms

    async def execute(self, task: str, request: ExecuteBody, correlation_id: str) -> bytes:
        """Runs one input and returns the body of the response; raises what keeps the program from running."""
        timeout_ms = request.timeout_ms or self._default_timeout_ms
        item = FrameItem(
            execution_id=new_id(),
            correlation_id=correlation_id,
            timeout_ms=timeout_ms,
            flags=FORCE_VALIDATION if request.force_validation else 0,
            input=request.input,
        )
        answer: asyncio.Future[tuple[FrameAnswerGroup, FrameAnswer]] = asyncio.get_running_loop().create_future()

        def answered(group: FrameAnswerGroup, frame_answer: FrameAnswer) -> None:
            if not answer.done():
                answer.set_result((group, frame_answer))

        def failed(error: LoopaiError) -> None:
            if not answer.done():
                answer.set_exception(error)

        self._engine.submit(Execution(task, request.version or 0, item, timeout_ms / 1000, answered, failed))
        return render_execution(item, *await answer)
