"""The executor reads any frame, and whatever it answers the api can read."""

import asyncio
import hashlib
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from loopai_common.contracts.artifacts import (
    FetchProgram,
    ProgramCode,
    ResolvedProgram,
    ResolvedRollout,
    ResolveProgram,
    ResolvePrograms,
)
from loopai_common.contracts.base import ArtifactId, Contract, Digest, TaskId, Version
from loopai_common.contracts.execution import EncodedRecord, ExecutionError, ExecutionRecord
from loopai_common.contracts.frames import FRAME_FORMAT, AnswerKind, Frame, FrameGroup, FrameMark, FramePart
from loopai_common.errors import MalformedJson, Overloaded, TaskNotFound
from loopai_common.runtime.errors import failure_of
from loopai_common.runtime.rpc import RpcClient
from loopai_executor.adapters.nats_program_source import NatsProgramSource
from loopai_executor.catalogue import Catalogue
from loopai_executor.domain import Counts, Jobs, Program, error_payload
from loopai_executor.ports import Trial
from loopai_executor.recording import Recorder, encode_record
from loopai_executor.service import ExecutionService
from tests.fuzz.invariants import Choices, Stage, require
from tests.support.frames import answered

T = TypeVar("T", bound=Contract)

_CODE = "def run(input): return 1\n"


def _frame(*groups: FrameGroup, version: int = FRAME_FORMAT) -> bytes:
    return b"\x00" + msgspec.json.encode(Frame(version, list(groups)))


def _group(task: str, version: int, count: int) -> FrameGroup:
    ids = ["01938f5e-3a6b-7c4d-9e1f-2a3b4c5d6e7f"] * count
    marks = {0: FrameMark("mine", force_validation=True)} if count > 1 else {}
    return FrameGroup(task, version, 100, ids, [msgspec.Raw(b'{"text":"x"}')] * count, marks)


SEEDS = (
    _frame(_group("known", 0, 2), _group("unknown", 3, 1)),
    _frame(_group("known", 2**40, 1), _group("no name", -1, 1), _group("", 0, 0)),
    _frame(_group("known", 0, 257)),
    _frame(_group("known", 0, 1), version=1),
    b"\x00[2,[" + b"[" * 2000,
    b'\x00[2,[["\xff",0,1,["\xff"],["\xff"]]]]',
    b'\x00[2,[["known",0,1,["",""],[1]]]]',
    b'\x00[2,[["known",0,1,[""],[1],{"-1":["",false,""],"7":["c",true,"t"]}]]]',
    b"\x01" + bytes(range(64)),
)
DICTIONARY = (
    *(b"[2,[", b'["known",0,1,', b'["",""],', b"[1,2]", b'{"0":["",true,""]}', b"]]]"),
    *(b"-1", b"1e999", b"18446744073709551616", b"\\u0000"),
)

_stage = Stage()


class StoreInMemory(RpcClient):
    """An artifact store that knows one task, with a version being rolled out.

    It is asked through the executor's own adapter, which checks the question.
    """

    def __init__(self) -> None:
        """Has no bus."""

    async def call(self, subject: str, request: Contract, answer: type[T], *, timeout: float) -> T:
        if isinstance(request, FetchProgram):
            return answer.model_validate(ProgramCode(digest=request.digest, code=_CODE).model_dump())
        if isinstance(request, ResolvePrograms):
            return answer.model_validate({"outcomes": [self._outcome(query) for query in request.queries]})
        assert isinstance(request, ResolveProgram)
        return answer.model_validate(self._resolved(request).model_dump())

    def _outcome(self, query: ResolveProgram) -> dict[str, Any]:
        try:
            return self._resolved(query).model_dump()
        except TaskNotFound as error:
            return failure_of(error).model_dump()

    def _resolved(self, query: ResolveProgram) -> ResolvedProgram:
        if query.task != "known":
            raise TaskNotFound("there is no such task")
        digest = Digest(f"sha256:{hashlib.sha256(_CODE.encode()).hexdigest()}")
        rollout = ResolvedRollout(
            artifact_id=ArtifactId(UUID(int=3)), version=Version(2), digest=digest, entry_point="run", percentage=50.0
        )
        return ResolvedProgram(
            task_id=TaskId(UUID(int=1)),
            task_name="known",
            artifact_id=ArtifactId(UUID(int=2)),
            version=Version(1),
            digest=digest,
            entry_point="run",
            input_schema=True,
            output_schema=True,
            sampling_rate=0.5,
            rollout=rollout if query.version is None else None,
        )


class PoolInMemory:
    """A :class:`~loopai_executor.ports.ProgramPool` that answers at once: every third execution fails."""

    queued = 0

    def submit(self, program: Program, work: Sequence[Jobs]) -> None:
        if sum(map(len, work)) > 200:
            raise Overloaded("too many executions are waiting; try again later")
        for jobs in work:
            for job in jobs.each():
                if job.indexes[0] % 3 == 2:
                    job.answer(AnswerKind.ERROR, error_payload(ExecutionError.RAISED, "asked to"))
                else:
                    job.answer(AnswerKind.SUCCESS, msgspec.Raw(b"1"))

    def warm(self, program: Program) -> None:
        """Everything is warm."""

    def trial(self, program: Program) -> AbstractAsyncContextManager[Trial]:
        """Frames check no programs."""
        raise NotImplementedError


class PartsInMemory:
    """A :class:`~loopai_executor.ports.PartPublisher` that keeps what it is given, as bytes."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.owed = 0

    def opened(self) -> None:
        self.owed += 1

    def publish(self, reply: str, part: FramePart) -> None:
        self.parts.append(msgspec.json.encode(part))

    def closed(self) -> None:
        self.owed -= 1


class RecordsInMemory:
    """Reads every record as the artifact store does."""

    async def publish(self, record: EncodedRecord) -> None:
        ExecutionRecord.model_validate_json(encode_record(record, 1 << 20))


def fuzz(data: bytes) -> None:
    """Every item of a readable frame is answered exactly once, and the reply ends; any other frame is refused."""
    choices = Choices(data)
    body = _built(choices) if choices.below(2) else choices.rest()
    _stage.run(_scenario(body))


async def _scenario(body: bytes) -> None:
    parts, counts = PartsInMemory(), Counts()
    catalogue = Catalogue(NatsProgramSource(StoreInMemory()), counts, max_code_bytes=1 << 20)
    recorder = Recorder(RecordsInMemory(), counts, max_per_second=50)
    service = ExecutionService(catalogue, PoolInMemory(), parts, recorder, counts, default_timeout_ms=1000)
    try:
        service.run_frame(body, "reply", deadline=None)
    except MalformedJson:
        require(parts.owed == 0 and not parts.parts, "a frame that is refused leaves no reply open")
        return
    items = sum(len(group.inputs) for group in msgspec.json.decode(body, type=Frame).groups)
    for _ in range(1000):
        if not parts.owed:
            break
        await asyncio.sleep(0)
    require(parts.owed == 0, "the reply to a frame ends")
    answers = answered(msgspec.json.decode(part, type=FramePart) for part in parts.parts)
    require(sorted(a.index for a in answers) == list(range(items)), "every item is answered exactly once")
    await service.close()
    await recorder.close()


def _built(choices: Choices) -> bytes:
    """A frame with the right shape and odd content."""
    groups: list[FrameGroup] = []
    while not choices.exhausted and len(groups) < 20:
        task = ("known", "unknown", choices.some(20).decode("latin-1"))[choices.below(3)]
        version = (0, 1, -1, 2**31, 2**63, 2**70)[choices.below(6)]
        count = choices.below(24)
        marks = {
            choices.below(30) - 1: FrameMark(
                choices.some(8).decode("latin-1"), bool(choices.below(2)), choices.some(8).decode("latin-1")
            )
            for _ in range(choices.below(3))
        }
        group = FrameGroup(
            task,
            version,
            (0, 1, -1, 60_001, 2**70)[choices.below(5)],
            [choices.some(8).decode("latin-1")] * count,
            [msgspec.Raw((b"1", b"null", b'"\xff"', b"1e999")[choices.below(4)])] * count,
            marks,
        )
        if choices.below(20) == 0:
            group.execution_ids.append("")
        groups.append(group)
    return msgspec.json.encode(Frame((2, 2, 2, 1)[choices.below(4)], groups))
