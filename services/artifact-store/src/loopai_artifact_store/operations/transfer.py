"""The use cases of export and import: whole tasks into an archive, and out of it into any store."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Final

from loopai_artifact_store.documents import encode_copy
from loopai_artifact_store.domain import RecordPosition, Task, TaskCopy, import_events, task_key
from loopai_artifact_store.labelling import everything_of, label
from loopai_artifact_store.operations.archive import Archive, ArchiveWriter
from loopai_artifact_store.origin import current_origin
from loopai_artifact_store.ports import Catalog, ExecutionLog, Store, all_tasks
from loopai_common.contracts.base import TaskId
from loopai_common.errors import LoopaiError, TaskAlreadyExists, TaskNotFound, Violation

_RECORDS_AT_ONCE: Final = 500
_CLASHES_TOLD: Final = 20


class ImportRefused(LoopaiError):
    """Tasks of the archive clash with tasks that are here; nothing was imported."""

    code = "import_refused"
    remedy = "Import into another store, or leave these tasks out when you export."


@dataclass(frozen=True, slots=True)
class Exported:
    """What went into an archive."""

    tasks: int
    versions: int
    executions: int


@dataclass(frozen=True, slots=True)
class Imported:
    """What came out of an archive. ``skipped`` tasks were here already, with the same content."""

    tasks: int
    skipped: int
    versions: int
    executions: int


async def export_tasks(store: Store, path: Path, names: Sequence[str], *, executions: bool) -> Exported:
    """Writes the tasks (none named: all) into an archive, each as it is at one moment; the store may be in use.

    The file appears when it is whole, in the place of one that was there. Raises ``TaskNotFound``, ``ArtifactNotFound``
    and ``ArtifactCorrupt``, ``PayloadTooLarge``, and ``StoreUnavailable``.
    """
    tasks = versions = records = 0
    with _replacing(path) as file, ArchiveWriter(file) as writer:
        async for task in _chosen(store.catalog, names):
            copy = await store.catalog.copy_of(task.id)
            for artifact in copy.artifacts:
                digest = artifact.document.digest
                if not writer.has_program(digest):
                    content = await store.storage.get(task.id, digest)
                    await asyncio.to_thread(writer.add_program, digest, content)
            await asyncio.to_thread(_add_task, writer, copy)
            if executions:
                records += await _export_records(store.executions, writer, task.id)
            tasks, versions = tasks + 1, versions + len(copy.artifacts)
        await asyncio.to_thread(writer.finish)
    return Exported(tasks, versions, records)


async def import_tasks(store: Store, path: Path, *, dry_run: bool) -> Imported:
    """Stores what the archive holds with its ids, numbers and times; what is here already is left alone.

    Nothing is written before the whole archive is verified and no task of it clashes with one that is here. Each task
    is one transaction: an import that was interrupted is run again. With ``dry_run`` nothing is written at all.
    Raises ``BadArchive``, :class:`ImportRefused`, and ``StoreUnavailable``.
    """
    with Archive(path) as archive:
        await asyncio.to_thread(archive.verify)
        new = await _new_tasks(store.catalog, archive)
        versions = executions = 0
        for task_id in new:
            copy = await asyncio.to_thread(archive.task, task_id)
            versions += len(copy.artifacts)
            if not dry_run:
                await _import_task(store, archive, copy)
        for task_id in archive.record_ids():
            executions += await _import_records(store.executions, archive, task_id, dry_run=dry_run)
        return Imported(len(new), len(archive.task_ids()) - len(new), versions, executions)


async def _chosen(catalog: Catalog, names: Sequence[str]) -> AsyncIterator[Task]:
    if not names:
        async for task in all_tasks(catalog):
            yield task
        return
    chosen = {task.id: task for task in [await catalog.task(task_key(name)) for name in names]}
    for task_id in sorted(chosen):
        yield chosen[task_id]


def _add_task(writer: ArchiveWriter, copy: TaskCopy) -> None:
    writer.add_task(copy.task.id, encode_copy(copy))


async def _export_records(log: ExecutionLog, writer: ArchiveWriter, task_id: TaskId) -> int:
    before: RecordPosition | None = None
    count = 0
    page = await log.page(task_id, status=None, since=None, before=before, limit=_RECORDS_AT_ONCE)
    if not page.items:
        return 0
    with writer.records(task_id) as write:
        while True:
            for record in page.items:
                write(record)
            count += len(page.items)
            if not page.more:
                return count
            before = RecordPosition.of(page.items[-1])
            page = await log.page(task_id, status=None, since=None, before=before, limit=_RECORDS_AT_ONCE)


async def _new_tasks(catalog: Catalog, archive: Archive) -> list[TaskId]:
    """The tasks that are not here yet; raises :class:`ImportRefused` for those that cannot come."""
    new: list[TaskId] = []
    clashes: list[Violation] = []
    for task_id in archive.task_ids():
        copy = await asyncio.to_thread(archive.task, task_id)
        try:
            if not await _is_here(catalog, copy):
                new.append(task_id)
        except TaskAlreadyExists as error:
            clashes.append(Violation(copy.task.name, error.message, error.code))
    if clashes:
        raise ImportRefused(
            f"{len(clashes)} of {len(archive.task_ids())} tasks clash with tasks that are here; nothing was imported",
            details=clashes[:_CLASHES_TOLD],
        )
    return new


async def _is_here(catalog: Catalog, copy: TaskCopy) -> bool:
    """Whether this very task is here; raises :class:`TaskAlreadyExists` when another one has its id or its name."""
    task = copy.task
    try:
        known = await catalog.copy_of(task.id)
    except TaskNotFound:
        with suppress(TaskNotFound):
            other = await catalog.task(task.name)
            raise TaskAlreadyExists(f"another task ({other.id}) is named '{task.name}' here") from None
        return False
    if encode_copy(known) != encode_copy(copy):
        raise TaskAlreadyExists(f"task '{task.name}' ({task.id}) is here with other content")
    return True


async def _import_task(store: Store, archive: Archive, copy: TaskCopy) -> None:
    task_id = copy.task.id
    # Bytes first, as with a publish; putting them touches what is there, so that no sweep takes it in between.
    for digest in {artifact.document.digest for artifact in copy.artifacts}:
        await store.storage.put(task_id, digest, await asyncio.to_thread(archive.program, digest))
    try:
        await store.catalog.add_copy(copy, import_events(copy.task, copy.artifacts, current_origin()))
    except TaskAlreadyExists:
        if not await _is_here(store.catalog, copy):  # who was faster may have imported the same
            raise
    await label(store.catalog, store.storage, everything_of(copy.task))


async def _import_records(log: ExecutionLog, archive: Archive, task_id: TaskId, *, dry_run: bool) -> int:
    records = archive.records(task_id)
    count = 0
    while some := await asyncio.to_thread(lambda: list(islice(records, _RECORDS_AT_ONCE))):
        if not dry_run:
            await log.add(some)
        count += len(some)
    return count


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of ``path`` when the block ends well, and is gone otherwise."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
