"""Labels and recovery documents follow every catalog into every storage, whatever comes in between."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress

import pytest

from loopai_artifact_store.adapters.memory_catalog import MemoryCatalog
from loopai_artifact_store.adapters.memory_executions import MemoryExecutionLog
from loopai_artifact_store.adapters.memory_storage import MemoryStorage
from loopai_artifact_store.documents import encode_copy
from loopai_artifact_store.domain import Undocumented, import_events
from loopai_artifact_store.labelling import label_all
from loopai_artifact_store.operations import verification
from loopai_artifact_store.operations.recovery import rebuild
from loopai_artifact_store.operations.verification import verify
from loopai_artifact_store.origin import current_origin
from loopai_artifact_store.ports import ArtifactStorage, Catalog, Labels, LabelTags, Store
from loopai_common.contracts.artifacts import ActivateArtifact
from loopai_common.contracts.base import GenerationId, TaskId, Version
from loopai_common.contracts.tasks import ArchiveTask, FailTask, UpdateTask
from loopai_common.errors import StoreUnavailable
from loopai_common.identifiers import new_uuid
from loopai_common.runtime.background import running
from tests.contract.artifact_store.builders import creating, labeller_on, publishing, store_on

PATIENCE_SECONDS = 30.0


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else changes these stores, so there is nothing to wait for."""
    monkeypatch.setattr(verification, "_SETTLED_AFTER_SECONDS", 0.0)


async def behind(catalog: Catalog) -> list[Undocumented]:
    return list((await catalog.undocumented(after=None, limit=100)).items)


async def in_order(catalog: Catalog, storage: ArtifactStorage) -> None:
    """Asserts that nothing is behind and that the documents say what the catalog says."""
    assert await behind(catalog) == []
    assert (await verify(Store(catalog, MemoryExecutionLog(), storage))).problems == ()


def describing(task_id: TaskId, text: str) -> UpdateTask:
    return UpdateTask.model_validate({"task": str(task_id), "changes": {"description": text}})


def activating(task_id: TaskId, version: int) -> ActivateArtifact:
    values = {"task": str(task_id), "version": version, "expected_version": None, "unconditional": True}
    return ActivateArtifact.model_validate(values)


async def test_each_change_of_a_task_is_noted_with_the_version_that_it_is_about(catalog: Catalog) -> None:
    store = store_on(catalog)
    task_id = (await store.create_task(creating())).id
    assert await behind(catalog) == [Undocumented(task_id, 1, ())]
    command = publishing(task_id)
    changes: list[tuple[Callable[[], Awaitable[object]], tuple[int, ...]]] = [
        (lambda: store.publish(command), (1,)),
        (lambda: store.publish(publishing(task_id, activate=False)), (2,)),
        (lambda: store.activate(activating(task_id, 2)), (2,)),
        (lambda: store.update_task(describing(task_id, "Another.")), ()),
        (lambda: store.archive_task(ArchiveTask(task=str(task_id))), ()),
    ]
    for change, versions in changes:
        before = await catalog.task(task_id)
        await catalog.documented(task_id, before.revision)
        assert await behind(catalog) == []
        await change()
        assert await behind(catalog) == [Undocumented(task_id, before.revision + 1, tuple(map(Version, versions)))]


async def test_what_changes_nothing_notes_nothing(catalog: Catalog) -> None:
    store = store_on(catalog)
    task_id = (await store.create_task(creating(key="same", name="same"))).id
    command, failure = (
        publishing(task_id),
        FailTask(task_id=task_id, generation_id=GenerationId(new_uuid()), reason="no"),
    )
    await store.publish(command)
    await store.fail_task(failure)
    await catalog.documented(task_id, (await catalog.task(task_id)).revision)
    await store.create_task(creating(key="same", name="same"))
    await store.publish(command)
    await store.fail_task(failure)
    assert await behind(catalog) == []


async def test_changes_gather_until_they_are_documented_and_later_ones_stay(catalog: Catalog) -> None:
    store = store_on(catalog)
    task_id = (await store.create_task(creating())).id
    for _ in range(3):
        await store.publish(publishing(task_id))
    (seen,) = await behind(catalog)
    assert (seen.revision, seen.versions) == (4, (1, 2, 3))
    await store.activate(activating(task_id, 1))
    await catalog.documented(task_id, seen.revision)
    assert await behind(catalog) == [Undocumented(task_id, 5, (Version(1),))]
    backlog = await catalog.backlog()
    assert (backlog.changes, backlog.oldest_change is None) == (1, False)
    await catalog.documented(task_id, 5)
    assert ((await catalog.backlog()).changes, (await catalog.backlog()).oldest_change) == (0, None)


async def test_tasks_that_are_behind_are_listed_in_pages(catalog: Catalog) -> None:
    store = store_on(catalog)
    task_ids = sorted([(await store.create_task(creating())).id for _ in range(5)])
    found: list[TaskId] = []
    after, more = None, True
    while more:
        page = await catalog.undocumented(after=after, limit=2)
        found += [each.task_id for each in page.items]
        more, after = page.more, found[-1]
    assert found == task_ids


async def test_a_task_that_is_copied_here_is_behind_with_all_its_versions(catalog: Catalog) -> None:
    memory = MemoryCatalog()
    store = store_on(memory)
    task_id = (await store.create_task(creating())).id
    for _ in range(3):
        await store.publish(publishing(task_id))
    copy = await memory.copy_of(task_id)
    await catalog.add_copy(copy, import_events(copy.task, copy.artifacts, current_origin()))
    assert await behind(catalog) == [Undocumented(task_id, copy.task.revision, (Version(1), Version(2), Version(3)))]


async def busy(catalog: Catalog, storage: ArtifactStorage) -> TaskId:
    """A task that was changed in many ways, none of which is documented."""
    store = store_on(catalog, storage)
    task_id = (await store.create_task(creating())).id
    for number in range(20):
        await store.publish(publishing(task_id, code=f"def run(input):\n    return {number}\n"))
    await store.activate(activating(task_id, 3))
    await store.update_task(describing(task_id, "Another."))
    return task_id


async def test_documents_catch_up_with_any_catalog(catalog: Catalog) -> None:
    storage = MemoryStorage()
    task_id = await busy(catalog, storage)
    await labeller_on(catalog, storage).catch_up()
    await in_order(catalog, storage)
    assert len((await storage.labels(task_id)).documents) == 20


async def test_documents_catch_up_in_any_storage(storage: ArtifactStorage) -> None:
    catalog, anew = MemoryCatalog(), MemoryCatalog()
    task_id = await busy(catalog, storage)
    await labeller_on(catalog, storage).catch_up()
    await in_order(catalog, storage)
    await rebuild(Store(anew, MemoryExecutionLog(), storage))
    again = await anew.task(task_id)
    assert (again.description, again.active_version, again.total_versions) == ("Another.", 3, 20)


class Interrupted:
    """A storage that holds up, at one step, who labels through it; ``reached`` says that it came that far."""

    def __init__(self, storage: ArtifactStorage, step: str, task_part: bool) -> None:
        self._storage = storage
        self._step = step
        self._task_part = task_part
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()

    async def label_tags(self, task_id: TaskId, versions: Sequence[Version] = ()) -> LabelTags:
        tags = await self._storage.label_tags(task_id, versions)
        if self._step == "after the tags":
            await self._hold(not versions)
        return tags

    async def label(self, task_id: TaskId, labels: Labels, *, since: LabelTags) -> None:
        if self._step == "before the write":
            await self._hold(labels.task is not None)
        await self._storage.label(task_id, labels, since=since)
        if self._step == "after the write":
            await self._hold(labels.task is not None)

    async def _hold(self, is_task: bool) -> None:
        if is_task is self._task_part and not self.go_on.is_set():
            self.reached.set()
            await self.go_on.wait()


STEPS = [(step, part) for step in ("after the tags", "before the write", "after the write") for part in (False, True)]


@pytest.mark.parametrize(("step", "task_part"), STEPS)
@pytest.mark.parametrize("dies", [False, True], ids=["goes on", "dies"])
async def test_one_that_is_slow_never_puts_the_old_over_the_new(
    catalog: Catalog, step: str, task_part: bool, dies: bool
) -> None:
    await check_overtaking(catalog, MemoryStorage(), step, task_part, dies=dies)


@pytest.mark.parametrize(("step", "task_part"), STEPS)
@pytest.mark.parametrize("dies", [False, True], ids=["goes on", "dies"])
async def test_one_that_is_slow_never_puts_the_old_over_the_new_in_any_storage(
    storage: ArtifactStorage, step: str, task_part: bool, dies: bool
) -> None:
    await check_overtaking(MemoryCatalog(), storage, step, task_part, dies=dies)


async def check_overtaking(
    catalog: Catalog, storage: ArtifactStorage, step: str, task_part: bool, *, dies: bool
) -> None:
    store = store_on(catalog, storage)
    task_id = (await store.create_task(creating())).id
    for number in range(2):
        await store.publish(publishing(task_id, code=f"def run(input):\n    return {number}\n"))
    slow = Interrupted(storage, step, task_part)
    labelling = asyncio.create_task(labeller_on(catalog, slow).catch_up())  # type: ignore[arg-type]  # the rest is not used
    async with asyncio.timeout(PATIENCE_SECONDS):
        await slow.reached.wait()
    await store.activate(activating(task_id, 1))
    await store.update_task(describing(task_id, "Newer."))
    await labeller_on(catalog, storage).catch_up()
    await in_order(catalog, storage)
    if dies:
        labelling.cancel()
    slow.go_on.set()
    with suppress(asyncio.CancelledError):
        await labelling
    assert labelling.cancelled() is dies
    await in_order(catalog, storage)


@pytest.mark.parametrize(("step", "task_part"), STEPS)
async def test_what_one_left_that_died_another_finishes(catalog: Catalog, step: str, task_part: bool) -> None:
    storage = MemoryStorage()
    store = store_on(catalog, storage)
    task_id = (await store.create_task(creating())).id
    await store.publish(publishing(task_id))
    dying = Interrupted(storage, step, task_part)
    labelling = asyncio.create_task(labeller_on(catalog, dying).catch_up())  # type: ignore[arg-type]  # as above
    async with asyncio.timeout(PATIENCE_SECONDS):
        await dying.reached.wait()
    labelling.cancel()
    with suppress(asyncio.CancelledError):
        await labelling
    assert [each.task_id for each in await behind(catalog)] == [task_id]
    await labeller_on(catalog, storage).catch_up()
    await in_order(catalog, storage)


async def test_many_who_label_while_many_change_leave_the_last_state(catalog: Catalog) -> None:
    storage = MemoryStorage()
    store = store_on(catalog, storage)
    task_ids = [(await store.create_task(creating())).id for _ in range(2)]
    async with AsyncExitStack() as labelling:
        for _ in range(3):
            await labelling.enter_async_context(running(labeller_on(catalog, storage).run))
        for number in range(8):
            changes = [store.publish(publishing(task_id)) for task_id in task_ids]
            updates = [store.update_task(describing(task_id, f"Change {number}.")) for task_id in task_ids]
            await asyncio.gather(*changes, *updates)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await behind(catalog):
                await asyncio.sleep(0.02)
    await in_order(catalog, storage)


class Failing(MemoryStorage):
    """A storage that takes no labels of some tasks; ``refused`` counts."""

    def __init__(self) -> None:
        super().__init__()
        self.broken: set[TaskId] = set()
        self.refused = 0

    async def label(self, task_id: TaskId, labels: Labels, *, since: LabelTags) -> None:
        if task_id in self.broken:
            self.refused += 1
            raise StoreUnavailable("no room for labels")
        await super().label(task_id, labels, since=since)


async def test_a_storage_that_fails_holds_up_nobody_and_is_made_good_when_it_heals(catalog: Catalog) -> None:
    storage = Failing()
    store = store_on(catalog, storage)
    broken, sound = [(await store.create_task(creating())).id for _ in range(2)]
    storage.broken = {broken}
    labeller = labeller_on(catalog, storage)
    async with running(labeller.run):
        await store.publish(publishing(broken))
        await store.publish(publishing(sound))
        labeller.wake()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while [each.task_id for each in await behind(catalog)] != [broken] or storage.refused < 2:
                await asyncio.sleep(0.02)
        found = await verify(Store(catalog, MemoryExecutionLog(), storage))
        assert (found.problems, found.waiting_changes) == ((), 2)
        assert found.oldest_change_at is not None
        storage.broken.clear()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await behind(catalog):
                await asyncio.sleep(0.02)
    await in_order(catalog, storage)


async def test_labelling_all_writes_what_somebody_removed_and_what_was_behind(catalog: Catalog) -> None:
    storage = MemoryStorage()
    task_id = await busy(catalog, storage)
    await labeller_on(catalog, storage).catch_up()
    storage.kept.clear()
    await store_on(catalog, storage).update_task(describing(task_id, "Newest."))
    assert await label_all(Store(catalog, MemoryExecutionLog(), storage)) == 1
    await in_order(catalog, storage)
    assert encode_copy(await catalog.copy_of(task_id)).find("Newest.") > 0
