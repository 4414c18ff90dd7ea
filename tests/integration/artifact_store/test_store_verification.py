"""Damage of every kind is planted, and found; and a catalog that is lost is made again from the storage."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from loopai_artifact_store.adapters.azure_storage import AzureStorage
from loopai_artifact_store.adapters.memory_catalog import MemoryCatalog
from loopai_artifact_store.adapters.memory_executions import MemoryExecutionLog
from loopai_artifact_store.adapters.sqlite_catalog import SqliteCatalog
from loopai_artifact_store.documents import encode_copy
from loopai_artifact_store.domain import digest_of
from loopai_artifact_store.labelling import label_all
from loopai_artifact_store.operations import verification
from loopai_artifact_store.operations.recovery import CatalogNotEmpty, Rebuilt, rebuild
from loopai_artifact_store.operations.verification import verify
from loopai_artifact_store.ports import ArtifactStorage, Store
from loopai_common.contracts import subjects
from loopai_common.contracts.artifacts import ActivateArtifact, ArtifactStatus, GetArtifact
from loopai_common.contracts.base import Digest, TaskId, Version
from loopai_common.contracts.tasks import ArchiveTask, GetTask, TaskStatus, UpdateTask
from loopai_common.identifiers import new_uuid
from loopai_common.runtime.background import running
from tests.contract.artifact_store.builders import (
    creating,
    labeller_on,
    mongodb_of,
    open_azure,
    open_files,
    open_sqlite,
    publishing,
    store_on,
)
from tests.support.servers import Azurite


@dataclass
class Damaged:
    """A store with one task of three versions, the second one active, that a test harms."""

    store: Store
    task_id: TaskId
    directory: Path
    digests: list[Digest]

    @property
    def artifacts(self) -> Path:
        return self.directory / "artifacts" / str(self.task_id)

    def program(self, version: int) -> Path:
        return self.artifacts / self.digests[version - 1] / "program.py"

    def sql(self, statement: str) -> None:
        """Changes the catalog behind its back, without its constraints."""
        with closing(sqlite3.connect(self.directory / "catalog.sqlite3", isolation_level=None)) as connection:
            assert connection.execute(statement).rowcount == 1

    async def kinds(self) -> set[str]:
        return {problem.kind for problem in (await verify(self.store)).problems}


async def fill(store: Store) -> tuple[TaskId, list[Digest]]:
    cases = store_on(store.catalog, store.storage)
    task = await cases.create_task(creating("mood", examples=[{"input": {"n": 1.0}, "output": "ham"}]))
    digests = []
    for number in range(3):
        published = await cases.publish(publishing(task.id, code=f"def run(input):\n    return '{number}'\n"))
        digests.append(published.digest)
    move = ActivateArtifact(task=task.name, version=Version(2), expected_version=Version(3))
    await cases.activate(move)
    await label_all(store)
    return task.id, digests


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else changes these stores, so there is nothing to wait for."""
    monkeypatch.setattr(verification, "_SETTLED_AFTER_SECONDS", 0.0)


@pytest.fixture
async def damaged(tmp_path: Path) -> AsyncIterator[Damaged]:
    catalog = open_sqlite(tmp_path)
    store = Store(catalog, MemoryExecutionLog(), open_files(tmp_path))
    task_id, digests = await fill(store)
    yield Damaged(store, task_id, tmp_path, digests)
    await catalog.close()


async def test_a_store_in_order_has_no_problems(damaged: Damaged) -> None:
    await damaged.store.storage.put(damaged.task_id, digest_of(b"orphan"), b"orphan")
    found = await verify(damaged.store)
    assert (found.problems, found.tasks, found.versions, found.programs, found.orphans) == ((), 1, 3, 4, 1)
    assert found.waiting_events == (await damaged.store.catalog.backlog()).events > 0


def replace_link(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


def flip_a_bit(d: Damaged) -> None:
    content = bytearray(d.program(1).read_bytes())
    content[5] ^= 1
    d.program(1).write_bytes(content)


OTHER = digest_of(b"other")
PLANTED: dict[str, tuple[str, Callable[[Damaged], object]]] = {
    "a flipped bit": ("wrong_bytes", flip_a_bit),
    "cut bytes": ("wrong_bytes", lambda d: d.program(2).write_bytes(b"")),
    "bytes that are gone": ("missing_bytes", lambda d: d.program(3).unlink()),
    "a pointer to nowhere": ("dangling_pointer", lambda d: d.sql("UPDATE tasks SET active_version = 9")),
    "a pointer that moved alone": ("wrong_history", lambda d: d.sql("UPDATE tasks SET active_version = 1")),
    "a pointer that is lost": ("wrong_status", lambda d: d.sql("UPDATE tasks SET active_version = NULL")),
    "a task that is ready and says no": ("wrong_status", lambda d: d.sql("UPDATE tasks SET status = 'failed'")),
    "a rollout of nothing": (
        "dangling_rollout",
        lambda d: d.sql("UPDATE tasks SET rollout_version = 7, rollout_percentage = 5.0"),
    ),
    "a gap": ("gap", lambda d: d.sql("DELETE FROM artifacts WHERE version = 1")),
    "a version too few": ("gap", lambda d: d.sql("UPDATE tasks SET total_versions = 4")),
    "a history of what is not there": (
        "dangling_history",
        lambda d: d.sql("UPDATE activations SET to_version = 8 WHERE sequence = 1"),
    ),
    "a generation of what is not there": (
        "dangling_generation",
        lambda d: d.sql("UPDATE generations SET version = 8 WHERE version = 1"),
    ),
    "another digest": (
        "missing_bytes",
        lambda d: d.sql(
            f"UPDATE artifacts SET document = replace(document, '{d.digests[0]}', '{OTHER}') WHERE version = 1"
        ),
    ),
    "another size": (
        "wrong_size",
        lambda d: d.sql(
            "UPDATE artifacts SET document = replace(document, '\"size_bytes\":', '\"size_bytes\":1') WHERE version = 1"
        ),
    ),
    "a label that is gone": ("missing_label", lambda d: (d.artifacts / "versions/000001").unlink()),
    "a label of another version": (
        "wrong_label",
        lambda d: (d.artifacts / "versions/000001").rename(d.artifacts / "versions/000003"),
    ),
    "a label of another active version": (
        "wrong_label",
        lambda d: replace_link(d.artifacts / "active", "versions/000001"),
    ),
    "a document of a version that is gone": (
        "missing_document",
        lambda d: (d.artifacts / "versions/000002.json").unlink(),
    ),
    "a document of a version that is cut": (
        "wrong_document",
        lambda d: (d.artifacts / "versions/000002.json").write_bytes(b'{"artifact": {'),
    ),
    "a document of the task that is gone": ("missing_document", lambda d: (d.artifacts / "task.json").unlink()),
    "a document of the task that is old": ("wrong_document", lambda d: d.sql("UPDATE tasks SET revision = 99")),
    "an event that cannot be read": (
        "bad_event",
        lambda d: d.sql("UPDATE outbox SET body = '{' WHERE sequence = (SELECT max(sequence) FROM outbox)"),
    ),
    "an event of nothing": (
        "bad_event",
        lambda d: d.sql("UPDATE outbox SET subject = 'x' WHERE sequence = (SELECT max(sequence) FROM outbox)"),
    ),
    "an event about nobody": (
        "bad_event",
        lambda d: d.sql(
            f"UPDATE outbox SET task_id = '{new_uuid()}' WHERE sequence = (SELECT max(sequence) FROM outbox)"
        ),
    ),
}


@pytest.mark.parametrize("damage", PLANTED)
async def test_planted_damage_is_found(damaged: Damaged, damage: str) -> None:
    kind, plant = PLANTED[damage]
    assert await damaged.kinds() == set()
    plant(damaged)
    assert kind in await damaged.kinds()


async def test_a_task_that_the_catalog_lost_is_found(damaged: Damaged) -> None:
    for table in ("activations", "generations", "artifacts", "examples"):
        with closing(sqlite3.connect(damaged.directory / "catalog.sqlite3", isolation_level=None)) as connection:
            connection.execute(f"DELETE FROM {table}")
    damaged.sql("DELETE FROM tasks")
    assert "unknown_task" in await damaged.kinds()


async def test_labels_that_are_wrong_are_written_again(damaged: Damaged) -> None:
    for _, plant in (PLANTED["a label of another version"], PLANTED["a document of the task that is gone"]):
        plant(damaged)
    (damaged.artifacts / "active").unlink()
    assert await damaged.kinds() == {"missing_label", "wrong_label", "missing_document"}
    assert await label_all(damaged.store) == 1
    assert await damaged.kinds() == set()


async def test_a_store_in_use_has_no_problems(damaged: Damaged, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "_SETTLED_AFTER_SECONDS", 0.5)
    cases = store_on(damaged.store.catalog, damaged.store.storage)

    async def change() -> None:
        for number in range(12):
            await cases.publish(publishing(damaged.task_id, code=f"def run(input):\n    return {number}\n"))

    looked = 0
    async with running(labeller_on(damaged.store.catalog, damaged.store.storage).run):
        changing = asyncio.create_task(change())
        while not changing.done():
            assert (await verify(damaged.store)).problems == ()
            looked += 1
        await changing
    assert looked >= 1


async def test_parallel_changes_leave_the_documents_of_the_last_one(damaged: Damaged) -> None:
    cases = store_on(damaged.store.catalog, damaged.store.storage)
    await asyncio.gather(
        *(
            cases.update_task(
                UpdateTask.model_validate({"task": "mood", "changes": {"description": f"Change {number}."}})
            )
            for number in range(8)
        ),
        *(cases.publish(publishing(damaged.task_id)) for _ in range(4)),
    )
    await labeller_on(damaged.store.catalog, damaged.store.storage).catch_up()
    assert await damaged.kinds() == set()


@pytest.fixture(params=["files", "azure", "mongodb"])
async def storage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ArtifactStorage]:
    if request.param == "files":
        yield open_files(tmp_path)
        return
    if request.param == "mongodb":
        async with mongodb_of(request.getfixturevalue("mongo")) as opened:
            yield opened.storage
        return
    azurite: Azurite = request.getfixturevalue("azurite")
    azure: AzureStorage = open_azure(azurite.connection_string)
    yield azure
    await azure.close()


@pytest.fixture
async def empty(tmp_path: Path) -> AsyncIterator[SqliteCatalog]:
    catalog = open_sqlite(tmp_path / "new")
    yield catalog
    await catalog.close()


async def test_a_lost_catalog_is_made_again(storage: ArtifactStorage, empty: SqliteCatalog) -> None:
    old = Store(MemoryCatalog(), MemoryExecutionLog(), storage)
    task_id, _ = await fill(old)
    cases = store_on(old.catalog, storage)
    gone = await cases.create_task(creating("gone"))
    await cases.archive_task(ArchiveTask(task="gone"))
    waiting = await cases.create_task(creating("waiting"))
    await label_all(old)
    new = Store(empty, MemoryExecutionLog(), storage)
    assert await rebuild(new) == Rebuilt(3, 3, ())
    before, after = await old.catalog.copy_of(task_id), await empty.copy_of(task_id)
    last = replace(after, activations=before.activations)
    assert encode_copy(last) == encode_copy(before)
    assert [(each.from_version, each.to_version) for each in after.activations] == [(None, 2)]
    assert (await empty.task(gone.id)).status is TaskStatus.ARCHIVED
    subjects_sent = {(event.subject, event.task_id) for event in await empty.pending_events(10)}
    assert subjects_sent == {(subjects.ARTIFACT_ACTIVATED, task_id), (subjects.TASK_CREATED, waiting.id)}
    assert (await verify(new)).problems == ()
    served = await store_on(empty, storage).get_artifact(GetArtifact(task="mood", include_code=True))
    assert served.code == "def run(input):\n    return '1'\n"
    assert (await store_on(empty, storage).publish(publishing(task_id))).version == 4


async def test_only_an_empty_catalog_is_made_again(damaged: Damaged) -> None:
    with pytest.raises(CatalogNotEmpty):
        await rebuild(damaged.store)


async def test_a_version_that_is_lost_keeps_its_number(damaged: Damaged, empty: SqliteCatalog) -> None:
    damaged.program(1).write_bytes(b"changed")
    (damaged.artifacts / "versions/000003.json").unlink()
    new = Store(empty, MemoryExecutionLog(), damaged.store.storage)
    done = await rebuild(new)
    assert (done.tasks, done.versions, len(done.losses)) == (1, 1, 2)
    versions = (await empty.copy_of(damaged.task_id)).artifacts
    assert [artifact.status for artifact in versions] == [
        ArtifactStatus.FAILED,
        ArtifactStatus.ACTIVE,
        ArtifactStatus.FAILED,
    ]
    assert (await verify(new)).problems == ()


async def test_a_task_whose_active_version_is_lost_says_so(damaged: Damaged, empty: SqliteCatalog) -> None:
    damaged.program(2).unlink()
    new = Store(empty, MemoryExecutionLog(), damaged.store.storage)
    assert len((await rebuild(new)).losses) == 2
    cases = store_on(empty, damaged.store.storage)
    task = await cases.get_task(GetTask(task="mood"))
    assert (task.status, task.active_version) == (TaskStatus.FAILED, None)
    assert "version 2, the active one, was lost" in (task.status_reason or "")
    await cases.activate(ActivateArtifact(task="mood", version=Version(3), expected_version=None))
    assert (await cases.get_task(GetTask(task="mood"))).status is TaskStatus.READY
    assert (await verify(new)).problems == ()


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"task": 1}', b"[" * 100_000])
async def test_a_task_without_its_document_is_told_and_the_others_come_back(
    damaged: Damaged, empty: SqliteCatalog, content: bytes | None
) -> None:
    other = await store_on(damaged.store.catalog, damaged.store.storage).create_task(creating("other"))
    await label_all(damaged.store)
    document = damaged.artifacts / "task.json"
    document.unlink() if content is None else document.write_bytes(content)
    done = await rebuild(Store(empty, MemoryExecutionLog(), damaged.store.storage))
    assert [loss.task for loss in done.losses] == [str(damaged.task_id)]
    assert (await empty.task("other")).id == other.id
