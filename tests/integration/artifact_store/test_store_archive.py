"""Archives: what comes out goes in again, everywhere; and what is not as it was written is refused before a write."""

import asyncio
import io
import json
import os
import random
import shutil
import zipfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from loopai_artifact_store.adapters.memory_catalog import MemoryCatalog
from loopai_artifact_store.adapters.memory_executions import MemoryExecutionLog
from loopai_artifact_store.adapters.memory_storage import MemoryStorage
from loopai_artifact_store.documents import encode_copy
from loopai_artifact_store.domain import TaskCopy, digest_of
from loopai_artifact_store.operations.archive import Archive, ArchiveWriter, BadArchive
from loopai_artifact_store.operations.transfer import Imported, ImportRefused, export_tasks, import_tasks
from loopai_artifact_store.ports import ArtifactStorage, Store
from loopai_artifact_store.service import ArtifactStore
from loopai_common.contracts.base import Digest, TaskId
from loopai_common.contracts.tasks import TaskStatus
from loopai_common.errors import ArtifactCorrupt, StoreUnavailable, TaskNotFound
from loopai_common.identifiers import new_uuid
from tests.contract.artifact_store.builders import (
    creating,
    mongodb_of,
    open_azure,
    open_executions,
    open_files,
    open_sqlite,
    publishing,
    record,
    store_on,
)
from tests.contract.artifact_store.test_store_copies import lively_task
from tests.support.servers import Azurite

FULL = Path("/dev/full")


def in_memory() -> Store:
    return Store(MemoryCatalog(), MemoryExecutionLog(), MemoryStorage())


def use_cases(store: Store) -> ArtifactStore:
    return store_on(store.catalog, store.storage)


async def everything(store: Store) -> dict[str, str]:
    """All tasks of a store, as documents."""
    tasks = (await store.catalog.tasks(after=None, limit=1000, status=None, name_prefix=None)).items
    return {task.name: encode_copy(await store.catalog.copy_of(task.id)) for task in tasks}


@dataclass
class Filled:
    """A store with three tasks that share a program, and its archive."""

    store: Store
    tasks: list[TaskId]
    archive: Path


@pytest.fixture
async def filled(tmp_path: Path) -> Filled:
    store = in_memory()
    cases = use_cases(store)
    tasks = []
    for number in range(3):
        task = await cases.create_task(creating(f"task-{number}"))
        for version in range(number):
            await cases.publish(publishing(task.id, code=f"def run(input):\n    return {version}\n"))
        tasks.append(task.id)
        await store.executions.add([record(task.id) for _ in range(number)])
    archive = tmp_path / "archive.zip"
    await export_tasks(store, archive, [], executions=True)
    return Filled(store, tasks, archive)


@pytest.fixture(params=["memory", "sqlite and files", "sqlite and azure", "mongodb"])
async def elsewhere(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield in_memory()
        return
    if request.param == "mongodb":
        async with mongodb_of(request.getfixturevalue("mongo")) as opened:
            yield Store(opened.catalog, opened.executions, opened.storage)
        return
    azure = None
    storage: ArtifactStorage
    if request.param == "sqlite and azure":
        azurite: Azurite = request.getfixturevalue("azurite")
        storage = azure = open_azure(azurite.connection_string)
    else:
        storage = open_files(tmp_path)
    catalog, executions = open_sqlite(tmp_path / "there"), open_executions(tmp_path / "there")
    yield Store(catalog, executions, storage)
    await executions.close()
    await catalog.close()
    if azure is not None:
        await azure.close()


async def test_an_archive_goes_into_every_backend_and_comes_out_the_same(
    filled: Filled, elsewhere: Store, tmp_path: Path
) -> None:
    assert await import_tasks(elsewhere, filled.archive, dry_run=False) == Imported(3, 0, 3, 3)
    assert await everything(elsewhere) == await everything(filled.store)
    await export_tasks(elsewhere, tmp_path / "again.zip", [], executions=True)
    assert (tmp_path / "again.zip").read_bytes() == filled.archive.read_bytes()
    assert await import_tasks(elsewhere, filled.archive, dry_run=False) == Imported(0, 3, 0, 3)
    kept = await elsewhere.executions.page(filled.tasks[2], status=None, since=None, before=None, limit=10)
    assert len(kept.items) == 2


async def test_a_dry_run_writes_nothing(filled: Filled, elsewhere: Store) -> None:
    assert await import_tasks(elsewhere, filled.archive, dry_run=True) == Imported(3, 0, 3, 3)
    assert await everything(elsewhere) == {}
    assert [program async for program in elsewhere.storage.stored()] == []
    page = await elsewhere.executions.page(filled.tasks[2], status=None, since=None, before=None, limit=10)
    assert page.items == ()


async def test_named_tasks_are_exported_and_no_others(filled: Filled, tmp_path: Path) -> None:
    names = ["task-2", str(filled.tasks[1]), "task-2"]
    done = await export_tasks(filled.store, tmp_path / "two.zip", names, executions=False)
    assert (done.tasks, done.versions, done.executions) == (2, 3, 0)
    with pytest.raises(TaskNotFound):
        await export_tasks(filled.store, tmp_path / "none.zip", ["task-2", "nobody"], executions=False)
    kept = [name for name in await asyncio.to_thread(os.listdir, tmp_path) if name.endswith(".zip")]
    assert sorted(kept) == ["archive.zip", "two.zip"]


async def test_an_export_with_a_program_that_is_not_what_it_was_makes_no_archive(
    filled: Filled, tmp_path: Path
) -> None:
    storage = filled.store.storage
    assert isinstance(storage, MemoryStorage)
    key = next(iter(storage.contents))
    storage.contents[key] = b"changed"
    before = filled.archive.read_bytes()
    with pytest.raises(ArtifactCorrupt):
        await export_tasks(filled.store, filled.archive, [], executions=False)
    assert filled.archive.read_bytes() == before
    assert [name for name in await asyncio.to_thread(os.listdir, tmp_path) if name[0] == "."] == []


async def test_tasks_that_clash_are_refused_before_anything_is_written(filled: Filled) -> None:
    other = in_memory()
    cases = use_cases(other)
    await import_tasks(other, filled.archive, dry_run=False)
    await cases.publish(publishing(filled.tasks[1]))  # the same id with other content
    third = in_memory()
    await use_cases(third).create_task(creating("task-0"))  # another id with the same name
    for store, sentence in ((other, "is here with other content"), (third, "is named 'task-0' here")):
        before = await everything(store)
        for dry_run in (True, False):
            with pytest.raises(ImportRefused, match="1 of 3 tasks clash") as refused:
                await import_tasks(store, filled.archive, dry_run=dry_run)
            assert [sentence in detail.message for detail in refused.value.details] == [True]
        assert await everything(store) == before


class _FailingStorage(MemoryStorage):
    def __init__(self, puts: int) -> None:
        super().__init__()
        self.puts_left = puts

    async def put(self, task_id: TaskId, digest: Digest, content: bytes) -> None:
        if self.puts_left == 0:
            raise StoreUnavailable("the storage is full")
        self.puts_left -= 1
        await super().put(task_id, digest, content)


@pytest.mark.parametrize("puts", [0, 1, 2])
async def test_an_import_that_was_interrupted_is_run_again(filled: Filled, puts: int) -> None:
    storage = _FailingStorage(puts)
    store = Store(MemoryCatalog(), MemoryExecutionLog(), storage)
    with pytest.raises(StoreUnavailable):
        await import_tasks(store, filled.archive, dry_run=False)
    assert storage.puts_left == 0
    assert len(await everything(store)) < 3
    storage.puts_left = 100
    done = await import_tasks(store, filled.archive, dry_run=False)
    assert done.tasks + done.skipped == 3
    assert await everything(store) == await everything(filled.store)


async def test_imports_at_the_same_time_leave_each_task_once(filled: Filled, tmp_path: Path) -> None:
    catalog = open_sqlite(tmp_path / "shared")
    store = Store(catalog, MemoryExecutionLog(), open_files(tmp_path))
    await asyncio.gather(*(import_tasks(store, filled.archive, dry_run=False) for _ in range(4)))
    assert await everything(store) == await everything(filled.store)
    assert len(await catalog.pending_events(100)) == 3
    await catalog.close()


async def test_the_sweep_takes_nothing_that_an_import_is_about_to_refer_to(filled: Filled, elsewhere: Store) -> None:
    """The bytes lie there as orphans from an import of days ago; the sweep has listed them when they are put again."""
    programs = filled.store.storage
    for task_id in filled.tasks:
        for digest in await filled.store.catalog.digests(task_id):
            await elsewhere.storage.put(task_id, digest, await programs.get(task_id, digest))
    orphans = [program async for program in elsewhere.storage.stored()]
    assert len(orphans) == 3
    await import_tasks(elsewhere, filled.archive, dry_run=False)
    for orphan in orphans:
        await elsewhere.storage.delete(replace(orphan, touched_at=orphan.touched_at - timedelta(days=2)))
    for task_id in filled.tasks:
        for digest in await elsewhere.catalog.digests(task_id):
            assert await elsewhere.storage.get(task_id, digest)
    assert await use_cases(elsewhere).sweep_orphans(datetime.now(UTC) + timedelta(days=3)) == 0


async def test_orphans_go_after_a_day(elsewhere: Store) -> None:
    task = await use_cases(elsewhere).create_task(creating())
    await elsewhere.storage.put(task.id, digest_of(b"orphan"), b"orphan")
    assert await use_cases(elsewhere).sweep_orphans(datetime.now(UTC)) == 0
    assert await use_cases(elsewhere).sweep_orphans(datetime.now(UTC) + timedelta(days=1, minutes=1)) == 1
    assert [program async for program in elsewhere.storage.stored()] == []


async def refused(archive: Path) -> str:
    """Why an import refuses the file, without having written anything."""
    store = in_memory()
    with pytest.raises(BadArchive) as error:
        await import_tasks(store, archive, dry_run=False)
    assert await everything(store) == {}
    assert [program async for program in store.storage.stored()] == []
    return error.value.message


async def test_a_truncated_archive_is_refused_wherever_it_ends(filled: Filled, tmp_path: Path) -> None:
    whole = filled.archive.read_bytes()
    cut = tmp_path / "cut.zip"
    for length in (*range(0, len(whole), 97), len(whole) - 1):
        cut.write_bytes(whole[:length])
        await refused(cut)


async def test_a_flipped_bit_is_refused_or_changes_nothing(filled: Filled, tmp_path: Path) -> None:
    whole = filled.archive.read_bytes()
    before = await everything(filled.store)
    changed = tmp_path / "changed.zip"
    choose = random.Random(1)
    refusals = 0
    for _ in range(300):
        flipped = bytearray(whole)
        flipped[choose.randrange(len(whole))] ^= 1 << choose.randrange(8)
        changed.write_bytes(flipped)
        store = in_memory()
        try:
            await import_tasks(store, changed, dry_run=False)
        except BadArchive:
            refusals += 1
            assert await everything(store) == {}
        else:  # a time or a mode in a header, which means nothing
            assert await everything(store) == before
    assert refusals > 150


def repacked(archive: Path, change: Callable[[dict[str, bytes]], None], *, seal: bool = True) -> None:
    """Packs the archive again with other members; with ``seal`` the manifest fits them."""
    with zipfile.ZipFile(archive) as old:
        members = {name: old.read(name) for name in old.namelist() if name != "manifest.json"}
        manifest = json.loads(old.read("manifest.json"))
    change(members)
    if seal:
        manifest["members"] = [
            {"path": path, "digest": digest_of(content), "size_bytes": len(content)}
            for path, content in members.items()
        ]
    manifest = json.loads(members.pop("manifest.json", json.dumps(manifest).encode())) if members else manifest
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as new:
        for name, content in members.items():
            new.writestr(name, content)
        new.writestr("manifest.json", json.dumps(manifest))


@pytest.mark.parametrize(
    "name",
    [
        "../outside.json",
        "/etc/passwd",
        "tasks/../../outside.json",
        "tasks\\outside.json",
        "programs/../x.py",
        "notes.txt",
        "tasks/",
    ],
)
async def test_members_that_an_archive_does_not_have_are_refused(filled: Filled, name: str) -> None:
    repacked(filled.archive, lambda members: members.update({name: b"x"}))
    assert "members that an archive of Loopai does not have" in await refused(filled.archive)


async def test_other_formats_and_other_files_are_refused(filled: Filled, tmp_path: Path) -> None:
    def newer(members: dict[str, bytes]) -> None:
        members["manifest.json"] = b'{"format": "loopai-archive", "format_version": 2, "more": {}}'

    repacked(filled.archive, newer, seal=False)
    assert await refused(filled.archive) == "the archive has format 2, and this release reads format 1"
    foreign = tmp_path / "foreign.zip"
    foreign.write_bytes(b"no archive at all")
    assert "no whole ZIP archive" in await refused(foreign)
    with zipfile.ZipFile(foreign, "w"):
        pass
    assert "no manifest.json" in await refused(foreign)
    with pytest.raises(FileNotFoundError):
        await import_tasks(in_memory(), tmp_path / "missing.zip", dry_run=False)


async def test_contents_that_do_not_fit_together_are_refused(filled: Filled) -> None:
    whole = filled.archive.read_bytes()
    task = f"tasks/{filled.tasks[2]}.json"

    def changed(change: Callable[[dict[str, object]], object]) -> Callable[[dict[str, bytes]], None]:
        def apply(members: dict[str, bytes]) -> None:
            document = json.loads(members[task])
            change(document)
            members[task] = json.dumps(document).encode()

        return apply

    def without_program(members: dict[str, bytes]) -> None:
        del members[next(name for name in members if name.startswith("programs/"))]

    def other_program(members: dict[str, bytes]) -> None:
        members[next(name for name in members if name.startswith("programs/"))] = b"import os\n"

    def foreign_record(members: dict[str, bytes]) -> None:
        members[f"executions/{filled.tasks[0]}.jsonl"] = members[f"executions/{filled.tasks[2]}.jsonl"]

    corpus: list[tuple[Callable[[dict[str, bytes]], None], str]] = [
        (without_program, "is not there"),
        (other_program, "is not there"),
        (foreign_record, "another task"),
        (changed(lambda document: document["versions"].pop()), "without a gap"),  # type: ignore[attr-defined]
        (changed(lambda document: document["task"].update(active_version=9)), "not there"),  # type: ignore[attr-defined]
        (changed(lambda document: document["task"].update(id=str(new_uuid()))), "another task"),  # type: ignore[attr-defined]
        (changed(lambda document: document["task"].update(status="odd")), "status"),  # type: ignore[attr-defined]
        (changed(lambda document: document.update(examples=[])), "examples"),
        (lambda members: members.update({task: members[task] + b"x"}), "Extra data"),
        (lambda members: members.update({task: b'{"task": NaN}'}), "tasks/"),
        (lambda members: members.update({task: b"[" * 100_000}), "nested"),
    ]
    for change, why in corpus:
        filled.archive.write_bytes(whole)
        repacked(filled.archive, change)
        assert why in await refused(filled.archive)


async def test_a_manifest_that_does_not_fit_is_refused(filled: Filled) -> None:
    whole = filled.archive.read_bytes()
    for change in (
        lambda members: members.update({f"tasks/{filled.tasks[2]}.json": b"{}"}),
        lambda members: members.pop(f"tasks/{filled.tasks[2]}.json"),
        lambda members: members.update({f"tasks/{new_uuid()}.json": b"{}"}),
    ):
        filled.archive.write_bytes(whole)
        repacked(filled.archive, change, seal=False)
        assert "manifest" in await refused(filled.archive)


async def test_two_members_of_one_name_are_refused(filled: Filled) -> None:
    with zipfile.ZipFile(filled.archive, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(f"tasks/{filled.tasks[0]}.json", b"{}")
    assert "two members of one name" in await refused(filled.archive)


async def test_what_unpacks_to_too_much_is_refused_without_unpacking_it(filled: Filled) -> None:
    bomb = b"\x00" * (2 * 1024 * 1024)
    name = f"programs/{'0' * 64}.py"
    repacked(filled.archive, lambda members: members.update({name: bomb}))
    assert filled.archive.stat().st_size < 100_000
    assert "of at most 1048576" in await refused(filled.archive)


async def test_members_that_share_bytes_are_refused(tmp_path: Path) -> None:
    """Fifield, "A better zip bomb" (2019): many entries of the directory over the same compressed bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"tasks/{new_uuid()}.json", b"0" * 100_000)
        (info,) = archive.infolist()
        again = zipfile.ZipInfo(f"tasks/{new_uuid()}.json")
        again.compress_type, again.header_offset, again.CRC = info.compress_type, info.header_offset, info.CRC
        again.compress_size, again.file_size = info.compress_size, info.file_size
        again.external_attr = info.external_attr
        archive.filelist.append(again)
        archive.NameToInfo[again.filename] = again
        archive.writestr("manifest.json", b"{}")
    path = tmp_path / "overlapping.zip"
    path.write_bytes(buffer.getvalue())
    assert "overlap" in await refused(path)


def test_a_full_disk_is_an_error_of_the_system() -> None:
    if not FULL.exists():
        pytest.skip("not on this platform: there is no /dev/full")

    def write() -> None:
        with FULL.open("r+b", buffering=0) as file, ArchiveWriter(file) as writer:
            writer.add_program(digest_of(b"x"), b"x")
            writer.finish()

    with pytest.raises(OSError, match="space"):
        write()


async def test_an_archive_of_the_first_format_is_still_read() -> None:
    """The file in the repository was written by the release that began the format."""
    store = in_memory()
    path = Path(__file__).parents[2] / "data" / "archive-v1.zip"
    assert await import_tasks(store, path, dry_run=False) == Imported(2, 0, 4, 2)
    task = await store.catalog.task("mood")
    assert (task.status, task.active_version, task.total_versions) == (TaskStatus.READY, 1, 3)
    with Archive(path) as archive:
        assert isinstance(archive.task(task.id), TaskCopy)


async def test_a_task_with_all_there_can_be_goes_out_and_in(tmp_path: Path) -> None:
    here, there = in_memory(), in_memory()
    task_id = await lively_task(here.catalog)
    for version in range(3):
        code = f"def run(input):\n    return {version}\n".encode()
        await here.storage.put(task_id, digest_of(code), code)
    await export_tasks(here, tmp_path / "a.zip", [], executions=False)
    await import_tasks(there, tmp_path / "a.zip", dry_run=False)
    assert await everything(there) == await everything(here)
    shutil.copy(tmp_path / "a.zip", tmp_path / "b.zip")
    await export_tasks(there, tmp_path / "b.zip", [], executions=False)
    assert (tmp_path / "b.zip").read_bytes() == (tmp_path / "a.zip").read_bytes()
