"""The log of executions in memory, for tests: the same behaviour, nothing survives."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from loopai_artifact_store.domain import Page, RecordPosition, execution_not_found, take_page
from loopai_common.contracts.base import ExecutionId, TaskId
from loopai_common.contracts.execution import ExecutionRecord, RecordStatus

_COUNTED: Final = 20_000


class MemoryExecutionLog:
    """A log whose writes are atomic because nothing in them waits."""

    def __init__(self) -> None:
        self._records: dict[ExecutionId, ExecutionRecord] = {}

    async def add(self, records: Sequence[ExecutionRecord]) -> None:
        await asyncio.sleep(0)
        for given in records:
            record = ExecutionRecord.model_validate_json(given.model_dump_json())  # times in whole milliseconds
            known = self._records.setdefault(record.id, record)
            if known.status is RecordStatus.ACCEPTED:
                self._records[record.id] = known if record.status is RecordStatus.ACCEPTED else record

    async def get(self, execution_id: ExecutionId) -> ExecutionRecord:
        if execution_id not in self._records:
            raise execution_not_found(execution_id)
        return self._records[execution_id]

    async def page(
        self,
        task_id: TaskId,
        *,
        status: RecordStatus | None,
        since: datetime | None,
        before: RecordPosition | None,
        limit: int,
    ) -> Page[ExecutionRecord]:
        ordered = sorted(self._records.values(), key=RecordPosition.of, reverse=True)
        matching = (
            record
            for record in ordered
            if record.task_id == task_id
            and (status is None or record.status is status)
            and (since is None or record.executed_at >= since)
            and (before is None or RecordPosition.of(record) < before)
        )
        return take_page(matching, limit, lambda record: len(record.model_dump_json()))

    async def popular(self, limit: int) -> tuple[TaskId, ...]:
        newest = sorted(self._records.values(), key=RecordPosition.of)[-_COUNTED:]
        counts = Counter(record.task_id for record in newest if record.task_id is not None)
        return tuple(sorted(counts, key=lambda task_id: (-counts[task_id], task_id))[:limit])

    async def remove_before(self, moment: datetime) -> int:
        old = [record.id for record in self._records.values() if record.executed_at < moment]
        for execution_id in old:
            del self._records[execution_id]
        return len(old)

    async def check(self) -> None:
        return None
