"""Giving a worker a program, and what of a worker's failures is believed."""

import asyncio
import contextlib
from typing import Final

import msgspec

from loopai_common.contracts.execution import ExecutionError
from loopai_common.contracts.failure import Failure
from loopai_common.contracts.frames import AnswerKind
from loopai_common.contracts.tasks import Isolation
from loopai_common.errors import LoopaiError
from loopai_common.runtime.errors import failure_of
from loopai_executor.domain import Program, error_payload
from loopai_executor.sandbox.limits import PoolLimits
from loopai_executor.sandbox.process import Death, WorkerProcess
from loopai_executor.sandbox.protocol import Answer, Answers, LoadRequest, encode

ERROR_PAYLOAD: Final = msgspec.json.Decoder(tuple[ExecutionError, str])
FORGED: Final[Answer] = (
    AnswerKind.ERROR,
    error_payload(ExecutionError.CRASHED, "the worker broke the protocol: its failure is none"),
)
_REFUSALS_OF_A_WORKER: Final = frozenset({"input_schema_violation", "malformed_json"})


class WorkerDied(Exception):
    """A worker died while it loaded a program, or ran one on trial."""

    def __init__(self, death: Death) -> None:
        super().__init__(death.message)
        self.death = death


async def load(worker: WorkerProcess, number: int, program: Program, limits: PoolLimits) -> Answer:
    """Gives an idle worker a program, to be known by ``number``; returns its answer, or raises :class:`WorkerDied`."""
    request = LoadRequest(
        number,
        program.code,
        program.entry_point,
        program.input_schema,
        program.output_schema,
        limits.load_timeout_ms,
        limits.output_bytes,
        program.isolation is not Isolation.NONE,
    )
    return believable(await ask(worker, encode(request), limits.load_timeout_ms / 1000))


async def ask(worker: WorkerProcess, payload: bytes, seconds: float) -> Answer:
    """What the worker answers to a frame with a single answer; raises :class:`WorkerDied`."""
    answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def on_answers(answers: list[Answers], _: float) -> None:
        kind, payloads = answers[0]
        if not answered.done():
            answered.set_result((kind, payloads[0]))

    def on_death(death: Death) -> None:
        if not answered.done():
            answered.set_exception(WorkerDied(death))

    worker.submit(payload, 1, lambda: seconds, on_answers, on_death)
    return await answered


def believable(answer: Answer) -> Answer:
    """The answer of a worker, or :data:`FORGED` where it is a failure that has not the shape of one."""
    return answer if answer[0] == AnswerKind.SUCCESS or _well_formed(*answer) else FORGED


def refused(error: LoopaiError) -> Answer:
    """The answer of an execution that never ran."""
    return AnswerKind.REFUSED, msgspec.Raw(failure_of(error).model_dump_json().encode())


def _well_formed(kind: int, payload: msgspec.Raw) -> bool:
    """Whether a failure that a worker reports has the shape of one; anybody may have written it."""
    with contextlib.suppress(msgspec.DecodeError, ValueError, RecursionError):
        if kind in (AnswerKind.ERROR, AnswerKind.TIMEOUT):
            return len(ERROR_PAYLOAD.decode(payload)[1]) <= 1000
        if kind == AnswerKind.REFUSED:
            return Failure.model_validate_json(bytes(payload)).code in _REFUSALS_OF_A_WORKER
    return False
