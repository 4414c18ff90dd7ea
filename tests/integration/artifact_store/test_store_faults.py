"""Kills, full and read-only disks, failing ``fsync``, flipped bits: old or new, never a part, and recovery unaided."""

import asyncio
import errno
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from loopai_artifact_store.adapters import sqlite
from loopai_artifact_store.adapters.file_storage import prepare_storage
from loopai_artifact_store.adapters.memory_catalog import MemoryCatalog
from loopai_artifact_store.adapters.memory_executions import MemoryExecutionLog
from loopai_artifact_store.adapters.sqlite_catalog import prepare_catalog
from loopai_artifact_store.domain import digest_of
from loopai_artifact_store.operations import verification
from loopai_artifact_store.operations.verification import verify
from loopai_artifact_store.ports import Store
from loopai_artifact_store.service import ArtifactStore
from loopai_common.contracts.artifacts import FetchProgram, GetArtifact, ListArtifacts, ProgramArtifact
from loopai_common.contracts.base import TaskId, Version
from loopai_common.contracts.tasks import GetTask, TaskSpecification
from loopai_common.errors import ArtifactCorrupt, StoreUnavailable
from loopai_common.identifiers import new_uuid
from tests.contract.artifact_store.builders import (
    creating,
    labeller_on,
    open_files,
    open_sqlite,
    publishing,
    store_on,
)
from tests.integration.artifact_store.publishers import STRACE, Publisher

needs_strace = pytest.mark.skipif(STRACE is None, reason="strace is not installed")
_EVERY_FEW_PAGES = 4  # SQLite writes some fifty times, header and page in turn


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[ArtifactStore]:
    catalog = open_sqlite(tmp_path)
    yield store_on(catalog, open_files(tmp_path))
    await catalog.close()


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else changes these stores while they are verified, so there is nothing to wait for."""
    monkeypatch.setattr(verification, "_SETTLED_AFTER_SECONDS", 0.0)


async def all_versions(store: ArtifactStore, task: str) -> list[ProgramArtifact]:
    found: list[ProgramArtifact] = []
    cursor = None
    while True:
        page = await store.list_artifacts(ListArtifacts(task=task, include_code=True, limit=200, cursor=cursor))
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            return found


async def check_invariants(directory: Path, task_id: TaskId) -> int:
    """Opens the directory as a new process would, labels what is behind, and returns how many versions there are."""
    catalog = open_sqlite(directory)
    try:
        storage = open_files(directory)
        store = store_on(catalog, storage)
        task = await store.get_task(GetTask(task=str(task_id)))
        versions = await all_versions(store, task.name)
        history = (await catalog.activations(task_id, before=None, limit=100_000)).items
        events = await catalog.pending_events(10_000)
        await labeller_on(catalog, storage).catch_up()
        assert (await catalog.backlog()).changes == 0
        assert (await verify(Store(catalog, MemoryExecutionLog(), storage))).problems == ()
    finally:
        await catalog.close()
    assert [artifact.version for artifact in versions] == list(range(1, task.total_versions + 1))
    assert all(digest_of((artifact.code or "").encode()) == artifact.digest for artifact in versions)
    assert task.active_version == (task.total_versions or None)
    assert [move.to_version for move in history[::-1]] == list(range(1, task.total_versions + 1))
    assert len(events) == 1 + 2 * task.total_versions
    with closing(sqlite3.connect(directory / "catalog.sqlite3")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    return task.total_versions


def temporary_files(directory: Path) -> list[str]:
    return [path.name for path in directory.rglob(".tmp-*")]


def program_files(directory: Path) -> list[Path]:
    return list(directory.glob("artifacts/*/sha256:*/program.py"))


def remount(disk: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", str(disk)], check=True)


async def created_task(directory: Path) -> TaskSpecification:
    catalog = open_sqlite(directory)
    task = await store_on(catalog, open_files(directory)).create_task(creating())
    await catalog.close()
    return task


@needs_strace
@pytest.mark.parametrize(
    ("syscall", "step", "least_kills"),
    [
        ("mkdir", 1, 2),
        ("fsync", 1, 7),
        ("rename", 1, 5),
        ("symlink", 1, 3),
        ("fdatasync", 1, 2),
        ("pwrite64", _EVERY_FEW_PAGES, 5),
    ],
)
async def test_a_kill_at_any_write_leaves_the_old_or_the_new(
    tmp_path: Path, syscall: str, step: int, least_kills: int
) -> None:
    task_id = (await created_task(tmp_path)).id
    acknowledged = kills = 0
    for number in range(1, 200, step):
        publisher = Publisher(tmp_path, task_id, fault=f"{syscall}:signal=KILL:when={number}").go()
        acknowledged = max([acknowledged, *map(int, publisher.finish())])
        kills += publisher.killed
        assert await check_invariants(tmp_path, task_id) >= acknowledged
        if not publisher.killed:
            break
    assert kills >= least_kills
    before = await check_invariants(tmp_path, task_id)
    assert Publisher(tmp_path, task_id).go().finish() == [str(before + 1)]


async def test_several_processes_publish_without_gaps(tmp_path: Path) -> None:
    task_id = (await created_task(tmp_path)).id
    publishers = [Publisher(tmp_path, task_id, 25) for _ in range(4)]
    for publisher in publishers:
        publisher.go()
    published = [int(version) for publisher in publishers for version in publisher.finish()]
    assert sorted(published) == list(range(1, 101))
    assert await check_invariants(tmp_path, task_id) == 100


async def test_several_processes_publish_without_gaps_while_all_are_killed(tmp_path: Path) -> None:
    task_id = (await created_task(tmp_path)).id
    publishers = [Publisher(tmp_path, task_id, 10_000) for _ in range(3)]
    for publisher in publishers:
        publisher.go()
    acknowledged: list[int] = []
    for publisher in publishers:
        acknowledged += [publisher.next_version() for _ in range(5)]
        publisher.process.kill()
        acknowledged += map(int, publisher.finish())
        assert publisher.killed
    assert len(set(acknowledged)) == len(acknowledged) >= 15
    assert await check_invariants(tmp_path, task_id) >= max(acknowledged)


@needs_strace
@pytest.mark.parametrize(("syscall", "error"), [("fsync", "EIO"), ("fdatasync", "EIO"), ("pwrite64", "ENOSPC")])
async def test_a_failing_write_is_a_typed_error_and_nothing_half_done_stays(
    tmp_path: Path, syscall: str, error: str
) -> None:
    task_id = (await created_task(tmp_path)).id
    assert Publisher(tmp_path, task_id, fault=f"{syscall}:error={error}:when=1+").go().finish() == [
        "refused",
        "store_unavailable",
    ]
    assert await check_invariants(tmp_path, task_id) == 0
    assert temporary_files(tmp_path) == []
    assert Publisher(tmp_path, task_id).go().finish() == ["1"]
    assert await check_invariants(tmp_path, task_id) == 1


@pytest.mark.parametrize("failing_call", range(4))
async def test_the_same_process_recovers_from_a_failing_fsync(
    tmp_path: Path, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, failing_call: int
) -> None:
    task = await store.create_task(creating())
    calls = 0

    def failing_fsync(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls - 1 == failing_call:
            raise OSError(errno.EIO, "Input/output error")

    command = publishing(task.id)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing_fsync)
        with pytest.raises(StoreUnavailable):
            await store.publish(command)
    assert calls > failing_call
    assert temporary_files(tmp_path) == []
    assert (await store.publish(command)).version == 1
    assert (await store.get_artifact(GetArtifact(task=task.name, include_code=True))).code == command.code


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    assert shutil.disk_usage(disk).free == 0
    return filler


async def test_a_full_disk_is_a_typed_error_and_passes(small_disk: Path) -> None:
    catalog = open_sqlite(small_disk)
    store = store_on(catalog, open_files(small_disk))
    task = await store.create_task(creating())
    await store.publish(publishing(task.id))
    filler = fill(small_disk)
    with pytest.raises(StoreUnavailable):
        await store.create_task(creating("too-late", description="x" * 5000))
    with pytest.raises(StoreUnavailable):
        await store.publish(publishing(task.id, code="x" * 100_000))
    assert (await store.get_artifact(GetArtifact(task=task.name, include_code=True))).version == 1
    filler.unlink()
    assert temporary_files(small_disk) == []
    assert (await store.create_task(creating("too-late", description="x" * 5000))).name == "too-late"
    assert (await store.publish(publishing(task.id, code="x" * 100_000))).version == 2
    await catalog.close()


async def test_a_read_only_disk_is_a_typed_error_and_passes(small_disk: Path) -> None:
    catalog, storage = open_sqlite(small_disk), open_files(small_disk)
    store = store_on(catalog, storage)
    task = await store.create_task(creating())
    artifact = await store.publish(publishing(task.id))
    await catalog.close()

    remount(small_disk, "ro")
    with pytest.raises(StoreUnavailable):
        prepare_catalog(small_disk / "catalog.sqlite3")
    with pytest.raises(StoreUnavailable):
        prepare_storage(small_disk / "artifacts")
    with pytest.raises(StoreUnavailable):
        await storage.put(task.id, digest_of(b"new"), b"new")
    with pytest.raises(StoreUnavailable):
        await storage.check()
    fetched = await store.fetch_program(FetchProgram(task_id=task.id, digest=artifact.digest))
    assert fetched.digest == artifact.digest

    remount(small_disk, "rw")
    await storage.check()
    catalog = open_sqlite(small_disk)
    assert (await store_on(catalog, storage).publish(publishing(task.id))).version == 2
    await catalog.close()


async def test_a_flipped_bit_is_found_named_and_never_served(tmp_path: Path, store: ArtifactStore) -> None:
    task = await store.create_task(creating())
    artifact = await store.publish(publishing(task.id))
    (file,) = program_files(tmp_path)
    content = bytearray(file.read_bytes())
    content[10] ^= 1
    file.write_bytes(content)
    with pytest.raises(ArtifactCorrupt, match=f"{artifact.digest} of task {task.id}"):
        await store.fetch_program(FetchProgram(task_id=task.id, digest=artifact.digest))
    assert (await store.publish(publishing(task.id))).digest == artifact.digest  # publishing the same code heals it
    await store.fetch_program(FetchProgram(task_id=task.id, digest=artifact.digest))


async def test_a_damaged_catalog_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "catalog.sqlite3").write_bytes(b"this is no database, whatever its name says" * 100)
    with pytest.raises(StoreUnavailable, match="SQLITE_NOTADB"):
        prepare_catalog(tmp_path / "catalog.sqlite3")


async def test_a_catalog_of_a_newer_release_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite3"
    prepare_catalog(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 1000")
    with pytest.raises(StoreUnavailable, match="newer release"):
        prepare_catalog(path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1000,)


async def test_preparing_a_catalog_again_and_at_once_is_harmless(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite3"
    await asyncio.gather(*(asyncio.to_thread(prepare_catalog, path) for _ in range(8)))
    task = await created_task(tmp_path)
    prepare_catalog(path)
    assert await check_invariants(tmp_path, task.id) == 0


async def test_the_catalog_itself_refuses_a_pointer_to_nowhere(tmp_path: Path) -> None:
    task = await created_task(tmp_path)
    with closing(sqlite3.connect(tmp_path / "catalog.sqlite3")) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("UPDATE tasks SET active_version = 7 WHERE id = ?", (str(task.id),))
        with pytest.raises(sqlite3.IntegrityError):
            connection.commit()


async def test_a_write_that_finds_the_catalog_locked_waits_and_then_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_BUSY_SECONDS", 0.2)
    task = await created_task(tmp_path)
    catalog = open_sqlite(tmp_path)
    store = store_on(catalog, open_files(tmp_path))
    with closing(sqlite3.connect(tmp_path / "catalog.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="SQLITE_BUSY"):
            await store.publish(publishing(task.id))
        assert (await store.get_task(GetTask(task=task.name))).total_versions == 0  # reads go on
        other.execute("ROLLBACK")
    assert (await store.publish(publishing(task.id))).version == 1
    await catalog.close()


async def test_abandoned_temporary_files_are_swept_and_young_ones_kept(tmp_path: Path) -> None:
    catalog, storage = MemoryCatalog(), open_files(tmp_path)
    store = store_on(catalog, storage)
    task = await store.create_task(creating())
    await store.publish(publishing(task.id))
    await labeller_on(catalog, storage).catch_up()
    (program,) = program_files(tmp_path)
    root = tmp_path / "artifacts"
    places = [root, program.parent, program.parent.parent, program.parent.parent / "versions"]
    long_ago = time.time() - 3600
    for place in places:
        (place / ".tmp-old").write_bytes(b"half")
        os.utime(place / ".tmp-old", (long_ago, long_ago))
        (place / ".tmp-young").write_bytes(b"half")
    (root / ".tmp-link").symlink_to("nowhere")
    os.utime(root / ".tmp-link", (long_ago, long_ago), follow_symlinks=False)
    prepare_storage(root)
    assert temporary_files(tmp_path) == [".tmp-young"] * len(places)
    assert (await store.get_artifact(GetArtifact(task=task.name, include_code=True))).code is not None


@pytest.mark.parametrize("failing_call", range(6))
async def test_labels_recover_from_a_failing_fsync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing_call: int
) -> None:
    catalog, storage = open_sqlite(tmp_path), open_files(tmp_path)
    task = await store_on(catalog, storage).create_task(creating())
    await store_on(catalog, storage).publish(publishing(task.id))
    calls = 0

    def failing_fsync(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls - 1 == failing_call:
            raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing_fsync)
        with pytest.raises(StoreUnavailable):
            await labeller_on(catalog, storage).catch_up()
    assert temporary_files(tmp_path) == []
    assert (await catalog.backlog()).changes == 2
    await catalog.close()
    assert await check_invariants(tmp_path, task.id) == 1


async def test_the_layout_is_one_that_people_can_read(tmp_path: Path) -> None:
    catalog, storage = open_sqlite(tmp_path), open_files(tmp_path)
    store = store_on(catalog, storage)
    task = await store.create_task(creating())
    one = await store.publish(publishing(task.id, code="first = 1"))
    await store.publish(publishing(task.id, code="second = 2"))
    await labeller_on(catalog, storage).catch_up()
    await catalog.close()
    root = tmp_path / "artifacts" / str(task.id)
    assert (root / one.digest / "program.py").read_text() == "first = 1"
    assert (root / "versions" / "000001" / "program.py").read_text() == "first = 1"
    assert (root / "active" / "program.py").read_text() == "second = 2"
    assert [os.readlink(root / name) for name in ("active", "versions/000001")] == [
        "versions/000002",
        f"../{one.digest}",
    ]


async def test_orphaned_bytes_of_a_task_that_never_was_are_swept(tmp_path: Path, store: ArtifactStore) -> None:
    storage = open_files(tmp_path)
    task = await store.create_task(creating())
    artifact = await store.publish(publishing(task.id))
    ghost = TaskId(new_uuid())
    await storage.put(ghost, digest_of(b"ghost"), b"ghost")
    (tmp_path / "artifacts" / "README").mkdir()
    long_ago = time.time() - 2 * 24 * 3600
    for program in program_files(tmp_path):
        os.utime(program, (long_ago, long_ago))
    assert await store.sweep_orphans(datetime.now(UTC)) == 1
    assert [(p.task_id, p.digest) async for p in storage.stored()] == [(task.id, artifact.digest)]
    assert (await store.get_artifact(GetArtifact(task=task.name, version=Version(1), include_code=True))).version == 1
