"""The log of executions in an SQLite file of its own, so that its bulk writes never hold up the catalog's."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from loopai_artifact_store.adapters.sqlite import SqliteFile, prepare
from loopai_artifact_store.domain import Page, RecordPosition, execution_not_found, take_page
from loopai_common.contracts.base import ExecutionId, TaskId, format_timestamp
from loopai_common.contracts.execution import ExecutionRecord, RecordStatus

_REMOVED_AT_ONCE: Final = 5000
_COUNTED: Final = 20_000

# One entry a schema version, only ever appended to.
_MIGRATIONS: Final = (
    """
    CREATE TABLE executions (
        id TEXT PRIMARY KEY,
        task_id TEXT,
        executed_at TEXT NOT NULL,
        status TEXT NOT NULL,
        document TEXT NOT NULL
    ) STRICT;
    CREATE INDEX executions_by_task ON executions (task_id, executed_at, id, status);
    CREATE INDEX executions_by_age ON executions (executed_at);
    """,
    """
    DROP INDEX executions_by_age;
    CREATE INDEX executions_by_age ON executions (executed_at, task_id);
    """,
)


def prepare_executions(path: Path) -> None:
    """Makes the file where it is missing and brings its schema up to date. Safe for several processes at once.

    Raises :class:`~loopai_common.errors.StoreUnavailable` when it cannot be written or is newer than this program.
    """
    prepare(path, _MIGRATIONS)


class SqliteExecutionLog(SqliteFile):
    """An execution log in the file that :func:`prepare_executions` made."""

    async def add(self, records: Sequence[ExecutionRecord]) -> None:
        def work(connection: sqlite3.Connection) -> None:
            connection.executemany(
                "INSERT INTO executions (id, task_id, executed_at, status, document)"
                " VALUES (:id, :task_id, :executed_at, :status, :document)"
                " ON CONFLICT (id) DO UPDATE SET task_id = excluded.task_id, executed_at = excluded.executed_at,"
                " status = excluded.status, document = excluded.document"
                " WHERE status = 'accepted' AND excluded.status <> 'accepted'",
                map(_row, records),
            )

        await self._write("add", work)

    async def get(self, execution_id: ExecutionId) -> ExecutionRecord:
        def work(connection: sqlite3.Connection) -> ExecutionRecord:
            row = connection.execute("SELECT document FROM executions WHERE id = ?", (str(execution_id),)).fetchone()
            if row is None:
                raise execution_not_found(execution_id)
            return _record(row)

        return await self._read("get", work)

    async def page(
        self,
        task_id: TaskId,
        *,
        status: RecordStatus | None,
        since: datetime | None,
        before: RecordPosition | None,
        limit: int,
    ) -> Page[ExecutionRecord]:
        conditions, values = ["task_id = ?"], [str(task_id)]
        if status is not None:
            conditions.append("status = ?")
            values.append(status.value)
        if since is not None:
            conditions.append("executed_at >= ?")
            values.append(format_timestamp(since))
        if before is not None:
            conditions.append("(executed_at, id) < (?, ?)")
            values += [format_timestamp(before.at), str(before.id)]
        query = (
            f"SELECT document FROM executions WHERE {' AND '.join(conditions)}"  # noqa: S608  # constants only
            " ORDER BY executed_at DESC, id DESC"
        )

        def work(connection: sqlite3.Connection) -> Page[ExecutionRecord]:
            with closing(connection.execute(query, values)) as rows:
                page = take_page(rows, limit, lambda row: len(row["document"]))
            return Page(tuple(map(_record, page.items)), page.more)

        return await self._read("page", work)

    async def popular(self, limit: int) -> tuple[TaskId, ...]:
        def work(connection: sqlite3.Connection) -> tuple[TaskId, ...]:
            rows = connection.execute(
                "SELECT task_id FROM (SELECT task_id FROM executions ORDER BY executed_at DESC LIMIT ?)"
                " WHERE task_id IS NOT NULL GROUP BY task_id ORDER BY count(*) DESC, task_id LIMIT ?",
                (_COUNTED, limit),
            )
            return tuple(TaskId(UUID(row["task_id"])) for row in rows)

        return await self._read("popular", work)

    async def remove_before(self, moment: datetime) -> int:
        def work(connection: sqlite3.Connection) -> int:
            return connection.execute(
                "DELETE FROM executions WHERE rowid IN (SELECT rowid FROM executions WHERE executed_at < ? LIMIT ?)",
                (format_timestamp(moment), _REMOVED_AT_ONCE),
            ).rowcount

        return await self._write("remove_before", work)


def _row(record: ExecutionRecord) -> dict[str, Any]:
    return {
        "id": str(record.id),
        "task_id": None if record.task_id is None else str(record.task_id),
        "executed_at": format_timestamp(record.executed_at),
        "status": record.status.value,
        "document": record.model_dump_json(),
    }


def _record(row: sqlite3.Row) -> ExecutionRecord:
    return ExecutionRecord.model_validate_json(row["document"])
