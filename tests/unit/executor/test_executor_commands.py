"""When a command comes again, and when its record says that it will not."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
import pytest

from loopai_common.contracts.execution import EncodedRecord, RecordStatus
from loopai_common.contracts.frames import AnswerKind, FramePart
from loopai_common.errors import BusUnavailable, LoopaiError, Overloaded, StoreUnavailable
from loopai_common.identifiers import new_id
from loopai_executor import commands as commands_module
from loopai_executor.catalogue import Catalogue
from loopai_executor.commands import CommandService
from loopai_executor.domain import Counts, Jobs, Program
from loopai_executor.ports import Trial
from loopai_executor.recording import Recorder
from loopai_executor.service import ExecutionService
from tests.unit.executor.test_executor_catalogue import TASK, Store


class Pool:
    """A pool in memory that gives every input back."""

    queued = 0

    def submit(self, program: Program, work: Sequence[Jobs]) -> None:
        for jobs in work:
            jobs.sink.answer(jobs.indexes, AnswerKind.SUCCESS, jobs.inputs, 1000)

    def warm(self, program: Program) -> None:
        raise NotImplementedError

    def trial(self, program: Program) -> AbstractAsyncContextManager[Trial]:
        raise NotImplementedError


class NoFrames:
    """Nobody sends frames here."""

    def opened(self) -> None:
        raise NotImplementedError

    def publish(self, reply: str, part: FramePart) -> None:
        raise NotImplementedError

    def closed(self) -> None:
        raise NotImplementedError


class Records:
    """What was published; ``away`` refuses."""

    def __init__(self) -> None:
        self.published: list[EncodedRecord] = []
        self.away = False

    async def publish(self, record: EncodedRecord) -> None:
        if self.away:
            raise BusUnavailable("not connected")
        self.published.append(record)


class Bench:
    """The service on ports in memory."""

    def __init__(self) -> None:
        self.store = Store()
        self.pool = Pool()
        self.records = Records()
        self.gives_up = False
        counts = Counts()
        recorder = Recorder(self.records, counts, max_per_second=50)
        catalogue = Catalogue(self.store, counts, max_code_bytes=1 << 20)
        executions = ExecutionService(catalogue, self.pool, NoFrames(), recorder, counts, default_timeout_ms=1000)
        self.commands = CommandService(executions, self.pool, self.records, max_queued_items=20)

    async def run(self, message_id: str = "m1", **changes: Any) -> None:
        body = msgspec.json.encode({"task": "spam", "input": [1], **changes})
        await self.commands.run(body, message_id, self._gives_up)

    def _gives_up(self, error: LoopaiError) -> bool:
        return self.gives_up or not error.retryable


@pytest.fixture
async def bench() -> Bench:
    return Bench()


async def test_a_command_that_ran_is_one_record(bench: Bench) -> None:
    execution_id = new_id()
    await bench.run(execution_id=execution_id, force_validation=True)
    (record,) = bench.records.published
    assert (record.id, record.task_id, record.version) == (execution_id, str(TASK), 1)
    assert (record.status, bytes(record.output), record.sampled_for_validation) == ("success", b"[1]", True)


async def test_an_id_made_from_the_message_is_the_same_at_every_delivery(bench: Bench) -> None:
    for message_id in ("m1", "m1", "m2"):
        await bench.run(message_id)
    first, again, other = (record.id for record in bench.records.published)
    assert first == again != other


async def test_what_may_pass_is_raised_and_leaves_no_record(bench: Bench) -> None:
    bench.store.failure = StoreUnavailable("not there")
    with pytest.raises(StoreUnavailable):
        await bench.run()
    assert bench.records.published == []


async def test_what_did_not_pass_in_time_is_a_record_and_a_dead_letter(bench: Bench) -> None:
    bench.store.failure = StoreUnavailable("not there")
    bench.gives_up = True
    with pytest.raises(StoreUnavailable):
        await bench.run(task=str(TASK))
    (record,) = bench.records.published
    assert (record.status, record.error_code) == (RecordStatus.ERROR, "store_unavailable")
    assert (record.task_id, bytes(record.input), record.program_id) == (str(TASK), b"[1]", None)


async def test_what_can_never_run_is_a_record_and_no_dead_letter(bench: Bench) -> None:
    await bench.run(version=9)
    (record,) = bench.records.published
    assert (record.status, record.error_code, record.version) == (RecordStatus.ERROR, "artifact_not_found", 9)
    assert record.task_id is None, "a name that was not resolved says nothing about the task's id"


async def test_a_broken_command_still_says_which_execution_it_was(bench: Bench) -> None:
    execution_id = new_id()
    await bench.run(execution_id=execution_id, timeout_ms=0)
    (record,) = bench.records.published
    assert (record.id, record.error_code) == (execution_id, "validation_error")
    assert record.error_message is not None
    assert "timeout_ms" in record.error_message


async def test_a_record_that_cannot_be_published_brings_the_command_back(bench: Bench) -> None:
    bench.records.away = True
    for version in (1, 9):
        with pytest.raises(BusUnavailable):
            await bench.run(version=version)


async def test_a_busy_pool_is_left_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands_module, "_ROOM_SECONDS", 0.0)
    bench.pool.queued = 10
    with pytest.raises(Overloaded):
        await bench.run()
    bench.pool.queued = 9
    await bench.run()
    assert len(bench.records.published) == 1
