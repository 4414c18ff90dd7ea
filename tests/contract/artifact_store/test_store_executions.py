"""What every log of executions does, alone and under the use cases that share its writes."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from loopai_artifact_store.adapters.memory_catalog import MemoryCatalog
from loopai_artifact_store.adapters.memory_executions import MemoryExecutionLog
from loopai_artifact_store.domain import MAX_PAGE_BYTES, RecordPosition
from loopai_artifact_store.executions import ExecutionRecords
from loopai_artifact_store.ports import ExecutionLog
from loopai_common.contracts.base import ExecutionId, TaskId, Version
from loopai_common.contracts.execution import (
    AcceptExecution,
    ExecutionRecord,
    GetExecution,
    ListExecutions,
    RecordStatus,
)
from loopai_common.contracts.tasks import TaskSpecification
from loopai_common.errors import (
    ArtifactNotFound,
    ExecutionNotFound,
    StoreUnavailable,
    TaskNotFound,
    TaskNotReady,
    ValidationFailed,
)
from loopai_common.identifiers import new_uuid
from tests.contract.artifact_store.builders import creating, publishing, record, store_on

TASK = TaskId(new_uuid())
START = datetime(2026, 1, 5, 9, tzinfo=UTC)


async def stored(log: ExecutionLog, task_id: TaskId = TASK, **filters: Any) -> list[ExecutionRecord]:
    page = await log.page(task_id, **{"status": None, "since": None, "before": None, "limit": 200, **filters})
    assert not page.more
    return list(page.items)


class TestAdding:
    async def test_a_record_is_given_back_as_it_was(self, execution_log: ExecutionLog) -> None:
        full = record(
            TASK,
            input={"text": "grüße 日本語", "n": [1, 2.5, None, True, 10**30]},
            output={"nested": {"deep": []}},
            status="error",
            error_code="program_raised",
            error_message="ValueError: no",
            memory_usage_mb=12.5,
            sampled_for_validation=True,
            validation_id=new_uuid(),
        )
        await execution_log.add([full])
        assert await execution_log.get(full.id) == full
        assert await stored(execution_log) == [full]

    async def test_a_record_without_a_task_is_found_by_its_id(self, execution_log: ExecutionLog) -> None:
        nameless = record(None, program_id=None, version=None, status="error", latency_ms=None)
        await execution_log.add([nameless])
        assert await execution_log.get(nameless.id) == nameless
        assert await stored(execution_log) == []

    async def test_the_same_record_again_changes_nothing(self, execution_log: ExecutionLog) -> None:
        records = [record(TASK, executed_at=START + timedelta(seconds=n)) for n in range(3)]
        await execution_log.add(records)
        await execution_log.add([*records, *records])
        assert await stored(execution_log) == records[::-1]

    async def test_how_it_ended_stays_as_it_was_first_told(self, execution_log: ExecutionLog) -> None:
        first = record(TASK, output="spam")
        await execution_log.add([first])
        await execution_log.add([record(TASK, id=first.id, output="ham", status="timeout")])
        assert await execution_log.get(first.id) == first

    @pytest.mark.parametrize("together", [True, False])
    @pytest.mark.parametrize("accepted_first", [True, False])
    async def test_accepted_gives_way_to_the_end_in_whatever_order_they_come(
        self, execution_log: ExecutionLog, accepted_first: bool, together: bool
    ) -> None:
        ended = record(TASK, executed_at=START + timedelta(seconds=5))
        accepted = record(TASK, id=ended.id, status="accepted", output=None)
        both = [accepted, ended] if accepted_first else [ended, accepted]
        for batch in [both] if together else [[one] for one in both]:
            await execution_log.add(batch)
        assert await execution_log.get(ended.id) == ended
        assert await stored(execution_log) == [ended]

    async def test_nothing_is_no_write(self, execution_log: ExecutionLog) -> None:
        await execution_log.add([])
        assert await stored(execution_log) == []

    async def test_an_unknown_id_is_not_found(self, execution_log: ExecutionLog) -> None:
        with pytest.raises(ExecutionNotFound):
            await execution_log.get(ExecutionId(new_uuid()))

    async def test_it_says_that_it_can_be_written(self, execution_log: ExecutionLog) -> None:
        await execution_log.check()


class TestPages:
    async def test_newest_first_and_each_exactly_once_over_pages(self, execution_log: ExecutionLog) -> None:
        # Three of each moment, so that pages also end between records of the same time.
        records = [record(TASK, executed_at=START + timedelta(milliseconds=n // 3)) for n in range(20)]
        await execution_log.add([*records, record(TaskId(new_uuid()))])
        seen: list[ExecutionRecord] = []
        before = None
        for _ in range(10):
            page = await execution_log.page(TASK, status=None, since=None, before=before, limit=4)
            seen += page.items
            if not page.more:
                break
            before = RecordPosition.from_bytes(RecordPosition.of(page.items[-1]).to_bytes())
        assert seen == sorted(records, key=RecordPosition.of, reverse=True)

    async def test_filters_by_status_and_time_go_together(self, execution_log: ExecutionLog) -> None:
        records = [
            record(TASK, status="success" if n % 2 else "error", executed_at=START + timedelta(seconds=n))
            for n in range(10)
        ]
        await execution_log.add(records)
        found = await stored(execution_log, status=RecordStatus.ERROR, since=START + timedelta(seconds=4))
        assert found == [records[8], records[6], records[4]]

    async def test_a_page_ends_early_when_its_records_are_large(self, execution_log: ExecutionLog) -> None:
        large = [
            record(TASK, input="x" * (MAX_PAGE_BYTES // 2), executed_at=START + timedelta(seconds=n)) for n in range(3)
        ]
        await execution_log.add(large)
        page = await execution_log.page(TASK, status=None, since=None, before=None, limit=10)
        assert (page.items, page.more) == ((large[2],), True)


class TestForgetting:
    async def test_what_is_older_goes_and_the_rest_stays(self, execution_log: ExecutionLog) -> None:
        records = [record(TASK, executed_at=START + timedelta(days=n)) for n in range(4)]
        await execution_log.add(records)
        assert await execution_log.remove_before(START + timedelta(days=2)) == 2
        assert await execution_log.remove_before(START + timedelta(days=2)) == 0
        assert await stored(execution_log) == [records[3], records[2]]


class TestCounting:
    async def test_tasks_with_most_records_come_first(self, execution_log: ExecutionLog) -> None:
        tasks = [TaskId(new_uuid()) for _ in range(3)]
        for number, task_id in enumerate(tasks, start=1):
            await execution_log.add([record(task_id, executed_at=START + timedelta(days=n)) for n in range(number)])
        await execution_log.add([record(None) for _ in range(9)])
        assert await execution_log.popular(10) == (tasks[2], tasks[1], tasks[0])
        assert await execution_log.popular(2) == (tasks[2], tasks[1])

    async def test_nothing_recorded_is_nothing_popular(self, execution_log: ExecutionLog) -> None:
        assert await execution_log.popular(10) == ()


class CountingLog(MemoryExecutionLog):
    """Counts its writes, which take until ``gate`` is open; fails while ``broken``."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[int] = []
        self.gate = asyncio.Event()
        self.broken = False

    async def add(self, records: Sequence[ExecutionRecord]) -> None:
        self.writes.append(len(records))
        await self.gate.wait()
        if self.broken:
            raise StoreUnavailable("the disk is full")
        await super().add(records)


def records_on(log: ExecutionLog, catalog: MemoryCatalog | None = None) -> ExecutionRecords:
    return ExecutionRecords(catalog or MemoryCatalog(), log, kept_for=timedelta(days=30))


class TestSharingWrites:
    async def test_what_comes_during_a_write_is_one_write_afterwards(self) -> None:
        log = CountingLog()
        records = records_on(log)
        kept = [asyncio.create_task(records.keep(record(TASK))) for _ in range(100)]
        for _ in range(3):
            await asyncio.sleep(0)
        late = [asyncio.create_task(records.keep(record(TASK))) for _ in range(50)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in [*kept, *late]), "nothing is acknowledged before it is stored"
        log.gate.set()
        await asyncio.gather(*kept, *late)
        assert sum(log.writes) == 150
        assert len(log.writes) <= 3
        assert len(await stored(log)) == 150

    async def test_a_failed_write_fails_for_all_in_it_and_for_nobody_else(self) -> None:
        log = CountingLog()
        log.gate.set()
        log.broken = True
        records = records_on(log)
        outcomes = await asyncio.gather(*(records.keep(record(TASK)) for _ in range(10)), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
        log.broken = False
        await records.keep(record(TASK))
        assert len(await stored(log)) == 1

    async def test_one_that_is_cancelled_takes_nobody_with_it(self) -> None:
        log = CountingLog()
        records = records_on(log)
        first, *others = [asyncio.create_task(records.keep(record(TASK))) for _ in range(5)]
        for _ in range(3):
            await asyncio.sleep(0)
        first.cancel()
        log.gate.set()
        await asyncio.gather(*others)
        assert len(await stored(log)) >= 4


class TestUseCases:
    @pytest.fixture
    def catalog(self) -> MemoryCatalog:
        return MemoryCatalog()

    @pytest.fixture
    async def task(self, catalog: MemoryCatalog) -> TaskSpecification:
        store = store_on(catalog)
        task = await store.create_task(creating("spam"))
        await store.publish(publishing(task.id))
        return task

    async def test_an_accepted_execution_is_found_at_once(
        self, execution_log: ExecutionLog, catalog: MemoryCatalog, task: TaskSpecification
    ) -> None:
        records = records_on(execution_log, catalog)
        execution_id = ExecutionId(new_uuid())
        accepted = await records.accept(AcceptExecution(execution_id=execution_id, task="spam"))
        assert (accepted.status, accepted.task_id, accepted.version) == (RecordStatus.ACCEPTED, task.id, None)
        found = await records.get(GetExecution(execution_id=execution_id))
        assert (found.id, found.status, found.output) == (execution_id, RecordStatus.ACCEPTED, None)

    @pytest.mark.usefixtures("task")
    async def test_what_cannot_run_is_not_accepted(self, execution_log: ExecutionLog, catalog: MemoryCatalog) -> None:
        records = records_on(execution_log, catalog)
        await store_on(catalog).create_task(creating("unready"))
        execution_id = ExecutionId(new_uuid())
        for reference, version, error in [
            ("nobody", None, TaskNotFound),
            ("unready", None, TaskNotReady),
            ("spam", Version(7), ArtifactNotFound),
        ]:
            with pytest.raises(error):
                await records.accept(AcceptExecution(execution_id=execution_id, task=reference, version=version))
        with pytest.raises(ExecutionNotFound):
            await records.get(GetExecution(execution_id=execution_id))

    async def test_a_list_goes_on_where_its_cursor_says_and_takes_no_other_ones(
        self, execution_log: ExecutionLog, catalog: MemoryCatalog, task: TaskSpecification
    ) -> None:
        records = records_on(execution_log, catalog)
        for n in range(5):
            await records.keep(record(task.id, executed_at=START + timedelta(seconds=n), output=n))
        first = await records.list(ListExecutions(task="spam", limit=3))
        second = await records.list(ListExecutions(task=str(task.id), limit=3, cursor=first.next_cursor))
        assert [item.output for item in (*first.items, *second.items)] == [4, 3, 2, 1, 0]
        assert second.next_cursor is None
        await store_on(catalog).create_task(creating("other"))
        for task_name, cursor in [("other", first.next_cursor), ("spam", "nonsense")]:
            with pytest.raises(ValidationFailed):
                await records.list(ListExecutions(task=task_name, cursor=cursor))
        with pytest.raises(TaskNotFound):
            await records.list(ListExecutions(task="nobody"))

    async def test_the_sweep_keeps_thirty_days(self, execution_log: ExecutionLog) -> None:
        records = records_on(execution_log)
        old, young = record(TASK, executed_at=START), record(TASK, executed_at=START + timedelta(days=1))
        await execution_log.add([old, young])
        assert await records.sweep(START + timedelta(days=30, hours=1)) == 1
        assert await stored(execution_log) == [young]
