"""Programs as files, which people and backups can read::

    <root>/<task_id>/<digest>/program.py
    <root>/<task_id>/versions/000001 -> ../<digest>
    <root>/<task_id>/versions/000001.json
    <root>/<task_id>/active          -> versions/000001
    <root>/<task_id>/task.json
    <root>/<task_id>/versions/.written -> a random word, another one each time that labels are written

Everything is written beside its place and moved there when it is complete, with an ``fsync`` of the file before and of
the directory after: a reader, and a restart after a power cut, sees the old or the new. Any number of processes may
share the directory.
"""

import asyncio
import fcntl
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar
from uuid import UUID

from loopai_artifact_store.domain import checked_digest, digest_of
from loopai_artifact_store.ports import Labels, LabelsMoved, LabelTags, StoredProgram, Timer
from loopai_common.contracts.base import Digest, TaskId, Version
from loopai_common.errors import ArtifactCorrupt, ArtifactNotFound, StoreUnavailable, ValidationFailed

T = TypeVar("T")

_PROGRAM = "program.py"
_VERSIONS = "versions"
_ACTIVE = "active"
_TASK = "task.json"
_WRITTEN = ".written"
_TEMPORARY = ".tmp-"
_ABANDONED_AFTER_SECONDS = 600.0
"""No write takes this long: what is still temporary after it belongs to a process that is no more."""


def prepare_storage(root: Path) -> None:
    """Makes the directory and removes what writes that never finished left there.

    Raises :class:`StoreUnavailable` when the directory cannot be written.
    """
    prepare_directory(root)
    with _translated():
        _probe(root)
        for pattern in (f"{_TEMPORARY}*", f"*/{_TEMPORARY}*", f"*/*/{_TEMPORARY}*"):
            for path in root.glob(pattern):
                _remove_abandoned(path)


def prepare_directory(path: Path) -> None:
    """Makes the directory and those above it, durably; raises :class:`StoreUnavailable` when it cannot."""
    with _translated():
        missing = [directory for directory in (path, *path.parents) if not directory.exists()]
        for directory in reversed(missing):
            _make_directory(directory)


class FileStorage:
    """Programs below a directory that :func:`prepare_storage` made."""

    def __init__(self, root: Path, timer: Timer) -> None:
        self._root = root
        self._timer = timer

    async def put(self, task_id: TaskId, digest: Digest, content: bytes) -> None:
        directory = self._directory(task_id, digest)

        def work() -> None:
            _make_directory(directory.parent)
            with _locked(directory.parent):
                _make_directory(directory)
                path = directory / _PROGRAM
                if _holds(path, content):
                    os.utime(path)
                else:
                    _write(path, content)
                # Also where the file was there: who wrote it may not have come this far.
                _sync_directory(directory)

        await self._run("put", work)

    async def get(self, task_id: TaskId, digest: Digest) -> bytes:
        path = self._directory(task_id, digest) / _PROGRAM

        def work() -> bytes:
            try:
                content = path.read_bytes()
            except FileNotFoundError as error:
                raise ArtifactNotFound(f"program {digest} of task {task_id} is not stored") from error
            if digest_of(content) != digest:
                raise ArtifactCorrupt(f"the stored bytes of program {digest} of task {task_id} do not match the digest")
            return content

        return await self._run("get", work)

    async def delete(self, program: StoredProgram) -> None:
        directory = self._directory(program.task_id, program.digest)
        path = directory / _PROGRAM

        def work() -> None:
            with suppress(FileNotFoundError), _locked(directory.parent):
                if _touched_at(path) <= program.touched_at:
                    path.unlink()
                    directory.rmdir()
                    _sync_directory(directory.parent)

        await self._run("delete", work)

    async def label_tags(self, task_id: TaskId, versions: Sequence[Version] = ()) -> LabelTags:
        return await self._run("label_tags", lambda: _tags(self._root / str(task_id) / _VERSIONS))

    async def label(self, task_id: TaskId, labels: Labels, *, since: LabelTags) -> None:
        for digest in labels.digests.values():
            checked_digest(digest)

        def work() -> None:
            directory = self._root / str(task_id)
            versions = directory / _VERSIONS
            if not versions.is_dir():
                _make_directory(directory)
                _make_directory(versions)
            with _locked(versions):  # not the task's: a publish that puts bytes there waits for no document
                if _tags(versions) != since:
                    raise LabelsMoved(f"task {task_id} was labelled by another one; try again")
                _link(versions / _WRITTEN, Path(secrets.token_hex(8)))
                _write_labels(directory, labels)

        await self._run("label", work)

    async def labels(self, task_id: TaskId) -> Labels:
        return await self._run("labels", lambda: _labels(self._root / str(task_id)))

    async def labelled(self) -> AsyncIterator[TaskId]:
        for task_id in await self._run("labelled", lambda: list(_tasks(self._root))):
            yield task_id

    async def stored(self) -> AsyncIterator[StoredProgram]:
        for program in await self._run("stored", lambda: list(_walk(self._root))):
            yield program

    async def check(self) -> None:
        await self._run("check", lambda: _probe(self._root))

    def _directory(self, task_id: TaskId, digest: Digest) -> Path:
        return self._root / str(task_id) / checked_digest(digest)

    async def _run(self, operation: str, work: Callable[[], T]) -> T:
        def translated() -> T:
            with _translated():
                return work()

        with self._timer(operation):
            return await asyncio.to_thread(translated)


def _label(version: Version) -> str:
    return f"{version:06d}"


def _tags(versions: Path) -> LabelTags:
    with suppress(FileNotFoundError):
        return {_WRITTEN: str((versions / _WRITTEN).readlink())}
    return {}


def _write_labels(directory: Path, labels: Labels) -> None:
    versions = directory / _VERSIONS
    for version, document in labels.documents.items():
        _write(versions / f"{_label(version)}.json", document.encode())
    for version, digest in labels.digests.items():
        _link(versions / _label(version), Path("..") / digest)
    if labels.digests:
        _sync_directory(versions)
    if labels.task is not None and not _holds(directory / _TASK, labels.task.encode()):
        _write(directory / _TASK, labels.task.encode())
    if labels.active is not None:
        _link(directory / _ACTIVE, Path(_VERSIONS) / _label(labels.active))
    _sync_directory(directory)


def _labels(directory: Path) -> Labels:
    digests: dict[Version, Digest] = {}
    documents: dict[Version, str] = {}
    for path in directory.glob(f"{_VERSIONS}/*"):
        if not path.stem.isdecimal():
            continue  # not everything in there need be ours
        version = Version(int(path.stem))
        if path.suffix == ".json":
            documents[version] = path.read_text("utf-8", "replace")
        elif path.is_symlink():
            digests[version] = Digest(path.readlink().name)
    task, active = directory / _TASK, directory / _ACTIVE
    return Labels(
        task.read_text("utf-8", "replace") if task.exists() else None,
        digests,
        documents,
        Version(int(active.readlink().name)) if active.is_symlink() and active.readlink().name.isdecimal() else None,
    )


def _tasks(root: Path) -> Iterator[TaskId]:
    for path in root.iterdir():
        with suppress(ValueError):  # as above
            yield TaskId(UUID(path.name))


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except FileNotFoundError:
        return False


def _make_directory(path: Path) -> None:
    path.mkdir(exist_ok=True)
    _sync_directory(path.parent)


def _write(path: Path, content: bytes) -> None:
    temporary = _temporary(path.parent)
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def _link(path: Path, target: Path) -> None:
    temporary = _temporary(path.parent)
    try:
        temporary.symlink_to(target)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def _temporary(directory: Path) -> Path:
    return directory / f"{_TEMPORARY}{secrets.token_hex(8)}"


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Keeps those apart who change the same, in other processes too; the kernel frees the lock of one that ends."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _touched_at(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _probe(root: Path) -> None:
    path = _temporary(root)
    try:
        path.write_bytes(b"probe")
        if path.read_bytes() != b"probe":
            raise OSError("what was written cannot be read back")
    finally:
        with suppress(OSError):
            path.unlink()


def _remove_abandoned(path: Path) -> None:
    with suppress(FileNotFoundError):
        if time.time() - path.lstat().st_mtime > _ABANDONED_AFTER_SECONDS:
            path.unlink()


def _walk(root: Path) -> Iterator[StoredProgram]:
    for path in root.glob(f"*/sha256:*/{_PROGRAM}"):
        with suppress(FileNotFoundError, ValueError, ValidationFailed):  # not everything in there need be ours
            task_id, digest = TaskId(UUID(path.parts[-3])), checked_digest(Digest(path.parts[-2]))
            yield StoredProgram(task_id, digest, _touched_at(path))


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(f"the program storage cannot be used: {error.strerror or error}") from error
