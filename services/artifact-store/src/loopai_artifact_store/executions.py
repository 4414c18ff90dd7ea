"""The use cases of execution records: accepting, keeping, showing and forgetting them."""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from loopai_artifact_store.domain import (
    RecordPosition,
    decode_cursor,
    encode_cursor,
    runnable_version,
    task_key,
)
from loopai_artifact_store.ports import Catalog, ExecutionLog
from loopai_common.contracts.base import TaskId
from loopai_common.contracts.execution import (
    AcceptExecution,
    ExecutionPage,
    ExecutionRecord,
    GetExecution,
    ListExecutions,
    RecordStatus,
)
from loopai_common.runtime import context


class ExecutionRecords:
    """The only owner of execution records, which are kept for ``kept_for``."""

    def __init__(self, catalog: Catalog, log: ExecutionLog, *, kept_for: timedelta) -> None:
        self._catalog = catalog
        self._log = log
        self._kept_for = kept_for
        self._group = _Group()
        self._turn = asyncio.Lock()

    async def accept(self, command: AcceptExecution) -> ExecutionRecord:
        """Notes that an execution is to run, before it is asked for, so that whoever polls finds it from then on.

        Raises ``TaskNotFound``, ``TaskArchived``, ``TaskNotReady`` and ``ArtifactNotFound``.
        """
        task = await self._catalog.task(task_key(command.task))
        await self._catalog.artifact(task, runnable_version(task, command.version))
        record = ExecutionRecord(
            id=command.execution_id,
            task_id=task.id,
            version=command.version,
            status=RecordStatus.ACCEPTED,
            executed_at=datetime.now(UTC),
            correlation_id=context.current().correlation_id,
        )
        await self.keep(record)
        return record

    async def keep(self, record: ExecutionRecord) -> None:
        """Returns when the record is stored durably, in one write with all that came while the last one was written.

        How an execution ended is kept as it was first told; that it was accepted gives way to that.
        """
        group = self._group
        group.records.append(record)
        async with self._turn:
            if group.written is None:
                self._group = _Group()
                group.written = asyncio.create_task(self._log.add(group.records))
            # Others wait for the same write: it goes on when one of them is cancelled.
            await asyncio.shield(group.written)

    async def get(self, query: GetExecution) -> ExecutionRecord:
        """One record; raises ``ExecutionNotFound``."""
        return await self._log.get(query.execution_id)

    async def list(self, query: ListExecutions) -> ExecutionPage:
        """A page of a task's records, newest first. A page ends early when its records are large.

        Raises ``TaskNotFound``, and ``ValidationFailed`` for a cursor of another list.
        """
        task = await self._catalog.task(task_key(query.task))
        scope = _scope(task.id)
        before = None if query.cursor is None else RecordPosition.from_bytes(decode_cursor(scope, query.cursor))
        page = await self._log.page(task.id, status=query.status, since=query.since, before=before, limit=query.limit)
        next_cursor = encode_cursor(scope, RecordPosition.of(page.items[-1]).to_bytes()) if page.more else None
        return ExecutionPage(items=page.items, next_cursor=next_cursor)

    async def sweep(self, now: datetime) -> int:
        """Forgets what is older than it is kept; returns how many records that were."""
        removed = 0
        while some := await self._log.remove_before(now - self._kept_for):
            removed += some
        return removed


@dataclass(slots=True)
class _Group:
    """Records that are stored together."""

    records: list[ExecutionRecord] = field(default_factory=list)
    written: asyncio.Task[None] | None = None


def _scope(task_id: TaskId) -> bytes:
    return b"executions" + task_id.bytes
