"""The catalog in one SQLite file. Any number of processes may share the file; their writers take turns."""

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from loopai_artifact_store.adapters.sqlite import SqliteFile, moment, prepare, snapshot
from loopai_artifact_store.domain import (
    Activation,
    Artifact,
    Backlog,
    Census,
    Change,
    Decision,
    Event,
    Generation,
    IdempotencyClaim,
    Origin,
    Page,
    Task,
    TaskCopy,
    TaskCreation,
    TaskKey,
    TaskState,
    Undocumented,
    artifact_not_found,
    artifact_status,
    share_of,
    take_page,
    task_not_found,
)
from loopai_artifact_store.ports import VersionKey
from loopai_common.contracts.artifacts import ArtifactStatus, ProgramArtifact
from loopai_common.contracts.base import Digest, GenerationId, TaskId, Version, format_timestamp
from loopai_common.contracts.tasks import Comparison, Isolation, Rollout, TaskStatus
from loopai_common.errors import TaskAlreadyExists

T = TypeVar("T")

# One entry a schema version, only ever appended to.
_MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE tasks (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        description TEXT NOT NULL,
        input_schema TEXT NOT NULL,
        output_schema TEXT NOT NULL,
        total_examples INTEGER NOT NULL,
        accuracy_target REAL NOT NULL,
        latency_target_ms INTEGER NOT NULL,
        sampling_rate REAL NOT NULL,
        status TEXT NOT NULL,
        status_reason TEXT,
        active_version INTEGER,
        total_versions INTEGER NOT NULL,
        created_at TEXT NOT NULL,
        updated_at TEXT NOT NULL,
        FOREIGN KEY (id, active_version) REFERENCES artifacts (task_id, version) DEFERRABLE INITIALLY DEFERRED
    ) STRICT;
    CREATE INDEX tasks_by_status ON tasks (status, id);
    CREATE TABLE examples (
        task_id TEXT PRIMARY KEY REFERENCES tasks (id),
        examples TEXT NOT NULL
    ) STRICT;
    CREATE TABLE artifacts (
        task_id TEXT NOT NULL REFERENCES tasks (id),
        version INTEGER NOT NULL CHECK (version >= 1),
        generation_id TEXT NOT NULL,
        digest TEXT NOT NULL,
        verdict TEXT NOT NULL,
        deployed_at TEXT,
        document TEXT NOT NULL,
        PRIMARY KEY (task_id, version),
        UNIQUE (task_id, generation_id)
    ) STRICT;
    CREATE TABLE activations (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT,
        task_id TEXT NOT NULL,
        at TEXT NOT NULL,
        actor TEXT NOT NULL,
        from_version INTEGER,
        to_version INTEGER NOT NULL,
        percentage REAL NOT NULL,
        reason TEXT NOT NULL,
        FOREIGN KEY (task_id, to_version) REFERENCES artifacts (task_id, version)
    ) STRICT;
    CREATE INDEX activations_by_task ON activations (task_id, sequence);
    CREATE TABLE generations (
        task_id TEXT NOT NULL REFERENCES tasks (id),
        id TEXT NOT NULL,
        version INTEGER,
        PRIMARY KEY (task_id, id),
        FOREIGN KEY (task_id, version) REFERENCES artifacts (task_id, version)
    ) STRICT;
    CREATE TABLE idempotency_keys (
        key TEXT PRIMARY KEY,
        definition_digest TEXT NOT NULL,
        task_id TEXT NOT NULL REFERENCES tasks (id),
        created_at TEXT NOT NULL
    ) STRICT;
    CREATE TABLE outbox (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        subject TEXT NOT NULL,
        task_id TEXT NOT NULL,
        body TEXT NOT NULL,
        at TEXT NOT NULL,
        correlation_id TEXT NOT NULL,
        traceparent TEXT NOT NULL
    ) STRICT;
    """,
    """
    ALTER TABLE tasks ADD COLUMN isolation TEXT NOT NULL DEFAULT 'call';
    ALTER TABLE tasks ADD COLUMN examples_bytes INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE tasks ADD COLUMN rollout_version INTEGER;
    ALTER TABLE tasks ADD COLUMN rollout_percentage REAL;
    ALTER TABLE tasks ADD COLUMN revision INTEGER NOT NULL DEFAULT 1;
    UPDATE tasks SET examples_bytes =
        (SELECT length(CAST(examples AS BLOB)) FROM examples WHERE task_id = tasks.id);
    CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);
    """,
    """
    ALTER TABLE tasks ADD COLUMN comparison TEXT NOT NULL DEFAULT 'exact';
    ALTER TABLE tasks ADD COLUMN comparison_threshold REAL NOT NULL DEFAULT 0.8;
    """,
    """
    CREATE TABLE undocumented (
        task_id TEXT NOT NULL REFERENCES tasks (id),
        revision INTEGER NOT NULL,
        version INTEGER NOT NULL,
        at TEXT NOT NULL,
        PRIMARY KEY (task_id, revision, version)
    ) STRICT, WITHOUT ROWID;
    """,
)


def prepare_catalog(path: Path) -> None:
    """Makes the file where it is missing and brings its schema up to date. Safe for several processes at once.

    Raises :class:`~loopai_common.errors.StoreUnavailable` when the file cannot be written or is newer than this
    program.
    """
    prepare(path, _MIGRATIONS)


class SqliteCatalog(SqliteFile):
    """A catalog in the file that :func:`prepare_catalog` made."""

    async def create_task(self, creation: TaskCreation) -> TaskId:
        def work(connection: sqlite3.Connection) -> TaskId:
            claim, task = creation.claim, creation.task
            claimed = None if claim is None else _find_claim(connection, claim)
            if claimed is not None:
                return claimed
            if connection.execute("SELECT 1 FROM tasks WHERE name = ?", (task.name,)).fetchone() is not None:
                raise TaskAlreadyExists(f"there is a task named '{task.name}' already")
            _insert(connection, "tasks", _task_row(task))
            _insert(connection, "examples", {"task_id": str(task.id), "examples": creation.examples.text})
            if claim is not None:
                _insert(connection, "idempotency_keys", _claim_row(task.id, claim))
            _insert(connection, "outbox", _event_row(creation.event))
            _note_undocumented(connection, task, [None])
            return task.id

        return await self._write("create_task", work)

    async def change_task(
        self,
        key: TaskKey,
        decide: Decision,
        *,
        generation_id: GenerationId | None = None,
        version: Version | None = None,
        claim: IdempotencyClaim | None = None,
    ) -> Change:
        def work(connection: sqlite3.Connection) -> Change:
            task = _find_task(connection, key)
            generation = None if generation_id is None else _find_generation(connection, task.id, generation_id)
            target = None if version is None else _find_artifact(connection, task.id, version)
            claimed = claim is not None and _find_claim(connection, claim) is not None
            change = decide(TaskState(task, generation, target, claimed))
            if claim is not None and not claimed:
                _insert(connection, "idempotency_keys", _claim_row(task.id, claim))
            _apply(connection, task, change)
            return change

        return await self._write("change_task", work)

    async def task(self, key: TaskKey) -> Task:
        return await self._read("task", lambda connection: _find_task(connection, key))

    async def find_tasks(self, keys: Sequence[TaskKey]) -> Mapping[TaskKey, Task]:
        ids = json.dumps([str(key) for key in keys if isinstance(key, UUID)])
        names = json.dumps([key for key in keys if isinstance(key, str)])
        query = (
            "SELECT * FROM tasks WHERE id IN (SELECT value FROM json_each(?))"
            " OR name IN (SELECT value FROM json_each(?))"
        )

        def work(connection: sqlite3.Connection) -> Mapping[TaskKey, Task]:
            found = [_task(row) for row in connection.execute(query, (ids, names))]
            known: dict[TaskKey, Task] = {task.name: task for task in found} | {task.id: task for task in found}
            return {key: known[key] for key in keys if key in known}

        return await self._read("find_tasks", work)

    async def examples(self, task_id: TaskId) -> str:
        return await self._read("examples", lambda connection: _find_examples(connection, task_id))

    async def copy_of(self, task_id: TaskId) -> TaskCopy:
        def work(connection: sqlite3.Connection) -> TaskCopy:
            with snapshot(connection):
                return _copy_of(connection, task_id)

        return await self._read("copy_of", work)

    async def add_copy(self, copy: TaskCopy, events: Sequence[Event]) -> None:
        task = copy.task

        def work(connection: sqlite3.Connection) -> None:
            query = "SELECT 1 FROM tasks WHERE id = ? OR name = ?"
            if connection.execute(query, (str(task.id), task.name)).fetchone() is not None:
                raise TaskAlreadyExists(f"there is a task {task.id}, or one named '{task.name}', already")
            _insert(connection, "tasks", _task_row(task))
            _insert(connection, "examples", {"task_id": str(task.id), "examples": copy.examples})
            for artifact in copy.artifacts:
                _insert(connection, "artifacts", _artifact_row(str(task.id), artifact))
            for activation in copy.activations:
                _insert(connection, "activations", _activation_row(str(task.id), activation))
            for made in copy.generations:
                row = {"task_id": str(task.id), "id": str(made.id), "version": made.version}
                _insert(connection, "generations", row)
            for event in events:
                _insert(connection, "outbox", _event_row(event))
            _note_undocumented(connection, task, [None, *(artifact.version for artifact in copy.artifacts)])

        await self._write("add_copy", work)

    async def tasks(
        self, *, after: TaskId | None, limit: int, status: TaskStatus | None, name_prefix: str | None
    ) -> Page[Task]:
        conditions, values = ["id > ?"], ["" if after is None else str(after)]
        if status is not None:
            conditions.append("status = ?")
            values.append(status.value)
        if name_prefix:
            conditions.append("substr(name, 1, length(?)) = ?")
            values += [name_prefix, name_prefix]
        query = f"SELECT * FROM tasks WHERE {' AND '.join(conditions)} ORDER BY id"  # noqa: S608  # constants only

        def work(connection: sqlite3.Connection) -> Page[Task]:
            with closing(connection.execute(query, values)) as rows:
                return take_page(map(_task, rows), limit, lambda task: task.size_bytes)

        return await self._read("tasks", work)

    async def artifact(self, task: Task, version: Version) -> Artifact:
        def work(connection: sqlite3.Connection) -> Artifact:
            found = _find_artifact(connection, task.id, version)
            if found is None:
                raise artifact_not_found(task, version)
            return found

        return await self._read("artifact", work)

    async def find_artifacts(self, wanted: Sequence[tuple[Task, Version]]) -> Mapping[VersionKey, Artifact]:
        keys = json.dumps([(str(task.id), version) for task, version in wanted])

        def work(connection: sqlite3.Connection) -> Mapping[VersionKey, Artifact]:
            found = map(_artifact, connection.execute(_SELECT_ARTIFACTS, (keys,)))
            return {(artifact.document.task_id, artifact.version): artifact for artifact in found}

        return await self._read("find_artifacts", work)

    async def artifacts(self, task_id: TaskId, *, after: Version, limit: int) -> Page[Artifact]:
        def work(connection: sqlite3.Connection) -> Page[Artifact]:
            query = f"{_SELECT_ARTIFACT} AND artifacts.version > ? ORDER BY artifacts.version"
            with closing(connection.execute(query, (str(task_id), after))) as rows:
                page = take_page(rows, limit, lambda row: len(row["document"]))
            return Page(tuple(map(_artifact, page.items)), page.more)

        return await self._read("artifacts", work)

    async def activations(self, task_id: TaskId, *, before: int | None, limit: int) -> Page[Activation]:
        def work(connection: sqlite3.Connection) -> Page[Activation]:
            query = "SELECT * FROM activations WHERE task_id = ? AND sequence < ? ORDER BY sequence DESC"
            values = (str(task_id), _NO_SEQUENCE if before is None else before)
            with closing(connection.execute(query, values)) as rows:
                return take_page(map(_activation, rows), limit, lambda activation: len(activation.reason))

        return await self._read("activations", work)

    async def generation(self, task_id: TaskId, generation_id: GenerationId) -> Generation | None:
        return await self._read("generation", lambda connection: _find_generation(connection, task_id, generation_id))

    async def digests(self, task_id: TaskId) -> frozenset[Digest]:
        def work(connection: sqlite3.Connection) -> frozenset[Digest]:
            rows = connection.execute("SELECT DISTINCT digest FROM artifacts WHERE task_id = ?", (str(task_id),))
            return frozenset(Digest(row["digest"]) for row in rows)

        return await self._read("digests", work)

    async def pending_events(self, limit: int) -> tuple[Event, ...]:
        def work(connection: sqlite3.Connection) -> tuple[Event, ...]:
            return tuple(map(_event, connection.execute("SELECT * FROM outbox ORDER BY sequence LIMIT ?", (limit,))))

        return await self._read("pending_events", work)

    async def remove_events(self, ids: Sequence[str]) -> None:
        def work(connection: sqlite3.Connection) -> None:
            connection.executemany("DELETE FROM outbox WHERE id = ?", [(id_,) for id_ in ids])

        await self._write("remove_events", work)

    async def undocumented(self, *, after: TaskId | None, limit: int) -> Page[Undocumented]:
        query = (
            "SELECT task_id, max(revision) AS revision, json_group_array(version) AS versions FROM undocumented"
            " WHERE task_id > ? GROUP BY task_id ORDER BY task_id"
        )

        def work(connection: sqlite3.Connection) -> Page[Undocumented]:
            with closing(connection.execute(query, ("" if after is None else str(after),))) as rows:
                return take_page(map(_undocumented, rows), limit, lambda _: 0)

        return await self._read("undocumented", work)

    async def documented(self, task_id: TaskId, revision: int) -> None:
        def work(connection: sqlite3.Connection) -> None:
            query = "DELETE FROM undocumented WHERE task_id = ? AND revision <= ?"
            connection.execute(query, (str(task_id), revision))

        await self._write("documented", work)

    async def forget_claims(self, before: datetime) -> int:
        def work(connection: sqlite3.Connection) -> int:
            query = "DELETE FROM idempotency_keys WHERE created_at < ?"
            return connection.execute(query, (format_timestamp(before),)).rowcount

        return await self._write("forget_claims", work)

    async def backlog(self) -> Backlog:
        def work(connection: sqlite3.Connection) -> Backlog:
            (events,) = connection.execute("SELECT count(*) FROM outbox").fetchone()
            first = connection.execute("SELECT at FROM outbox ORDER BY sequence LIMIT 1").fetchone()
            changes, since = connection.execute("SELECT count(*), min(at) FROM undocumented").fetchone()
            return Backlog(
                events,
                None if first is None else moment(first["at"]),
                changes,
                None if since is None else moment(since),
            )

        return await self._read("backlog", work)

    async def census(self) -> Census:
        def work(connection: sqlite3.Connection) -> Census:
            tasks = connection.execute("SELECT status, count(*) AS n FROM tasks GROUP BY status")
            artifacts = connection.execute(
                "SELECT verdict, deployed_at IS NOT NULL AS deployed, version IS active_version AS active,"
                " count(*) AS n FROM artifacts JOIN tasks ON tasks.id = task_id GROUP BY 1, 2, 3"
            )
            counts = dict.fromkeys(ArtifactStatus, 0)
            for row in artifacts:
                verdict = ArtifactStatus(row["verdict"])
                status = artifact_status(verdict, active=bool(row["active"]), deployed=bool(row["deployed"]))
                counts[status] += row["n"]
            known = {TaskStatus(row["status"]): row["n"] for row in tasks}
            return Census({status: known.get(status, 0) for status in TaskStatus}, counts)

        return await self._read("census", work)


def _insert(connection: sqlite3.Connection, table: str, row: dict[str, Any]) -> None:
    columns, marks = ", ".join(row), ", ".join(f":{column}" for column in row)
    connection.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks})", row)  # noqa: S608  # constants only


def _apply(connection: sqlite3.Connection, before: Task, change: Change) -> None:
    task_id = str(before.id)
    if change.artifact is not None:
        _insert(connection, "artifacts", _artifact_row(task_id, change.artifact))
    if change.activation is not None:
        _insert(connection, "activations", _activation_row(task_id, change.activation))
        if change.activation.moves_pointer:
            connection.execute(
                "UPDATE artifacts SET deployed_at = ? WHERE task_id = ? AND version = ?",
                (format_timestamp(change.activation.at), task_id, change.activation.to_version),
            )
    if change.examples is not None:
        (known,) = connection.execute("SELECT examples FROM examples WHERE task_id = ?", (task_id,)).fetchone()
        more = change.examples.text if known == "[]" else f"{known[:-1]},{change.examples.text[1:]}"
        connection.execute("UPDATE examples SET examples = ? WHERE task_id = ?", (more, task_id))
    if change.generation is not None:
        connection.execute(
            "INSERT INTO generations (task_id, id, version) VALUES (?, ?, ?)"
            " ON CONFLICT (task_id, id) DO UPDATE SET version = excluded.version",
            (task_id, str(change.generation.id), change.generation.version),
        )
    if change.task != before:
        row = _task_row(change.task)
        columns = ", ".join(f"{column} = :{column}" for column in row)
        connection.execute(f"UPDATE tasks SET {columns} WHERE id = :id", row)  # noqa: S608  # constants only
        _note_undocumented(connection, change.task, [change.version])
    for event in change.events:
        _insert(connection, "outbox", _event_row(event))


def _note_undocumented(connection: sqlite3.Connection, task: Task, versions: Iterable[Version | None]) -> None:
    at = format_timestamp(datetime.now(UTC))
    rows = [(str(task.id), task.revision, version or _TASK_ALONE, at) for version in versions]
    connection.executemany("INSERT OR IGNORE INTO undocumented VALUES (?, ?, ?, ?)", rows)


def _undocumented(row: sqlite3.Row) -> Undocumented:
    versions = sorted(set(json.loads(row["versions"])) - {_TASK_ALONE})
    return Undocumented(TaskId(UUID(row["task_id"])), row["revision"], tuple(map(Version, versions)))


def _find_task(connection: sqlite3.Connection, key: TaskKey) -> Task:
    column = "id" if isinstance(key, UUID) else "name"
    row = connection.execute(f"SELECT * FROM tasks WHERE {column} = ?", (str(key),)).fetchone()  # noqa: S608  # as above
    if row is None:
        raise task_not_found(key)
    return _task(row)


def _find_claim(connection: sqlite3.Connection, claim: IdempotencyClaim) -> TaskId | None:
    query = "SELECT definition_digest, task_id FROM idempotency_keys WHERE key = ?"
    row = connection.execute(query, (claim.key,)).fetchone()
    if row is None:
        return None
    claim.check(row["definition_digest"])
    return TaskId(UUID(row["task_id"]))


def _claim_row(task_id: TaskId, claim: IdempotencyClaim) -> dict[str, Any]:
    return {
        "key": claim.key,
        "definition_digest": claim.digest,
        "task_id": str(task_id),
        "created_at": format_timestamp(claim.at),
    }


def _find_examples(connection: sqlite3.Connection, task_id: TaskId) -> str:
    row = connection.execute("SELECT examples FROM examples WHERE task_id = ?", (str(task_id),)).fetchone()
    if row is None:
        raise task_not_found(task_id)
    return str(row["examples"])


def _copy_of(connection: sqlite3.Connection, task_id: TaskId) -> TaskCopy:
    values = (str(task_id),)
    artifacts = connection.execute(f"{_SELECT_ARTIFACT} ORDER BY version", values)
    activations = connection.execute("SELECT * FROM activations WHERE task_id = ? ORDER BY sequence", values)
    generations = connection.execute("SELECT * FROM generations WHERE task_id = ? ORDER BY id", values)
    return TaskCopy(
        _find_task(connection, task_id),
        _find_examples(connection, task_id),
        tuple(map(_artifact, artifacts)),
        tuple(replace(_activation(row), number=0) for row in activations),
        tuple(Generation(GenerationId(UUID(row["id"])), row["version"]) for row in generations),
    )


def _find_generation(connection: sqlite3.Connection, task_id: TaskId, generation_id: GenerationId) -> Generation | None:
    row = connection.execute(
        "SELECT version FROM generations WHERE task_id = ? AND id = ?", (str(task_id), str(generation_id))
    ).fetchone()
    return None if row is None else Generation(generation_id, row["version"])


_COLUMNS = "artifacts.*, active_version, rollout_version, rollout_percentage"
_SELECT_ARTIFACT = f"SELECT {_COLUMNS} FROM artifacts JOIN tasks ON tasks.id = task_id WHERE task_id = ?"  # noqa: S608
_SELECT_ARTIFACTS = (
    f"SELECT {_COLUMNS} FROM json_each(?) AS wanted"  # noqa: S608  # constants only
    " JOIN artifacts ON task_id = json_extract(wanted.value, '$[0]') AND version = json_extract(wanted.value, '$[1]')"
    " JOIN tasks ON tasks.id = task_id"
)


def _find_artifact(connection: sqlite3.Connection, task_id: TaskId, version: Version) -> Artifact | None:
    row = connection.execute(f"{_SELECT_ARTIFACT} AND version = ?", (str(task_id), version)).fetchone()
    return None if row is None else _artifact(row)


_TASK_COLUMNS = tuple(column.name for column in fields(Task) if column.name != "rollout")
_NO_SEQUENCE = 2**63 - 1
_TASK_ALONE = 0


def _task_row(task: Task) -> dict[str, Any]:
    row = {column: getattr(task, column) for column in _TASK_COLUMNS}
    return row | {
        "id": str(task.id),
        "isolation": task.isolation.value,
        "comparison": task.comparison.value,
        "status": task.status.value,
        "rollout_version": None if task.rollout is None else task.rollout.version,
        "rollout_percentage": None if task.rollout is None else task.rollout.percentage,
        "created_at": format_timestamp(task.created_at),
        "updated_at": format_timestamp(task.updated_at),
    }


def _task(row: sqlite3.Row) -> Task:
    values = {column: row[column] for column in _TASK_COLUMNS}
    values |= {
        "id": TaskId(UUID(row["id"])),
        "isolation": Isolation(row["isolation"]),
        "comparison": Comparison(row["comparison"]),
        "status": TaskStatus(row["status"]),
        "rollout": _rollout(row),
        "created_at": moment(row["created_at"]),
        "updated_at": moment(row["updated_at"]),
    }
    return Task(**values)


def _rollout(row: sqlite3.Row) -> Rollout | None:
    if row["rollout_version"] is None:
        return None
    return Rollout(version=row["rollout_version"], percentage=row["rollout_percentage"])


def _artifact_row(task_id: str, artifact: Artifact) -> dict[str, Any]:
    document = artifact.document
    return {
        "task_id": task_id,
        "version": document.version,
        "generation_id": str(artifact.generation_id),
        "digest": document.digest,
        "verdict": document.status.value,
        "deployed_at": None if artifact.deployed_at is None else format_timestamp(artifact.deployed_at),
        "document": document.model_dump_json(),
    }


def _artifact(row: sqlite3.Row) -> Artifact:
    return Artifact(
        ProgramArtifact.model_validate_json(row["document"]),
        GenerationId(UUID(row["generation_id"])),
        None if row["deployed_at"] is None else moment(row["deployed_at"]),
        row["version"] == row["active_version"],
        share_of(row["version"], row["active_version"], _rollout(row)),
    )


_ACTIVATION_COLUMNS = tuple(column.name for column in fields(Activation) if column.name != "number")


def _activation_row(task_id: str, activation: Activation) -> dict[str, Any]:
    row = {column: getattr(activation, column) for column in _ACTIVATION_COLUMNS}
    return row | {"task_id": task_id, "at": format_timestamp(activation.at)}


def _activation(row: sqlite3.Row) -> Activation:
    values = {column: row[column] for column in _ACTIVATION_COLUMNS}
    return Activation(**values | {"at": moment(row["at"]), "number": row["sequence"]})


def _event_row(event: Event) -> dict[str, Any]:
    return {
        "id": event.id,
        "subject": event.subject,
        "task_id": str(event.task_id),
        "body": event.body,
        "at": format_timestamp(event.origin.at),
        "correlation_id": event.origin.correlation_id,
        "traceparent": event.origin.traceparent,
    }


def _event(row: sqlite3.Row) -> Event:
    origin = Origin(moment(row["at"]), row["correlation_id"], row["traceparent"])
    return Event(row["id"], row["subject"], TaskId(UUID(row["task_id"])), row["body"], origin)
