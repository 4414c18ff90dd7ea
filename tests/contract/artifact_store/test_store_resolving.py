"""Many programs are resolved at once, on every catalog, as each of them alone and with as few questions as can be."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from loopai_artifact_store.adapters.memory_catalog import MemoryCatalog
from loopai_artifact_store.cached import CachedCatalog
from loopai_artifact_store.domain import Artifact, Task, TaskKey
from loopai_artifact_store.ports import Catalog, VersionKey
from loopai_artifact_store.service import ArtifactStore
from loopai_common.contracts.artifacts import (
    MAX_RESOLVED,
    ActivateArtifact,
    ResolvedProgram,
    ResolveProgram,
    ResolvePrograms,
)
from loopai_common.contracts.base import TaskId, Version
from loopai_common.contracts.failure import Failure
from loopai_common.contracts.tasks import ArchiveTask
from loopai_common.errors import LoopaiError, StoreUnavailable
from loopai_common.identifiers import new_uuid
from loopai_common.runtime.errors import failure_of
from tests.contract.artifact_store.builders import creating, publishing, reads_through, store_on


async def alone(store: ArtifactStore, query: ResolveProgram) -> ResolvedProgram | Failure:
    try:
        return await store.resolve(query)
    except LoopaiError as error:
        return failure_of(error)


async def with_rollout(store: ArtifactStore) -> TaskId:
    task_id = (await store.create_task(creating())).id
    await store.publish(publishing(task_id))
    await store.publish(publishing(task_id, code="def run(input):\n    return 2\n", activate=False))
    values = {"task": str(task_id), "version": 2, "expected_version": 1, "percentage": 25.0}
    await store.activate(ActivateArtifact.model_validate(values))
    return task_id


async def test_each_outcome_is_that_of_the_query_alone(store: ArtifactStore) -> None:
    shared, empty, gone = [(await store.create_task(creating())).id for _ in range(3)]
    for task_id in (shared, gone):
        await store.publish(publishing(task_id))
    await store.archive_task(ArchiveTask(task=str(gone)))
    rolled = await with_rollout(store)
    named = (await store.create_task(creating("named"))).id
    await store.publish(publishing(named))
    keys = [str(shared), str(empty), str(gone), str(rolled), "named", str(named), "nobody", str(new_uuid())]
    queries = [ResolveProgram(task=key) for key in keys]
    queries += [ResolveProgram(task=key, version=Version(version)) for key in keys for version in (1, 2, 9)]
    assert len(queries) == MAX_RESOLVED
    expected = [await alone(store, query) for query in queries]
    assert Counter(map(type, expected))[ResolvedProgram] == 9
    for order in (queries, queries[::-1], queries[:3] * 4):  # the second time a cache knows some of them
        outcomes = (await store.resolve_many(ResolvePrograms(queries=tuple(order)))).outcomes
        assert list(outcomes) == [expected[queries.index(query)] for query in order]


async def test_tasks_and_versions_that_are_there_are_found(catalog: Catalog) -> None:
    store = store_on(catalog)
    task_id = await with_rollout(store)
    task = await catalog.task(task_id)
    other = await catalog.task((await store.create_task(creating())).id)
    keys: list[TaskKey] = [task.name, task_id, other.id, "nobody", TaskId(new_uuid()), task.name]
    assert await catalog.find_tasks(keys) == {task.name: task, task_id: task, other.id: other}
    wanted = [(task, Version(1)), (task, Version(2)), (task, Version(3)), (other, Version(1)), (task, Version(1))]
    found = await catalog.find_artifacts(wanted)
    assert found == {(task_id, version): await catalog.artifact(task, version) for version in (Version(1), Version(2))}
    assert [artifact.percentage for artifact in found.values()] == [75.0, 25.0]
    assert (await catalog.find_tasks([]), await catalog.find_artifacts([])) == ({}, {})


class Counting(MemoryCatalog):
    """Counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[str] = Counter()
        self.broken = False

    async def task(self, key: TaskKey) -> Task:
        self.asked["task"] += 1
        return await super().task(key)

    async def artifact(self, task: Task, version: Version) -> Artifact:
        self.asked["artifact"] += 1
        return await super().artifact(task, version)

    async def find_tasks(self, keys: Sequence[TaskKey]) -> Mapping[TaskKey, Task]:
        self.asked["find_tasks"] += 1
        if self.broken:
            raise StoreUnavailable("away")
        return await super().find_tasks(keys)

    async def find_artifacts(self, wanted: Sequence[tuple[Task, Version]]) -> Mapping[VersionKey, Artifact]:
        self.asked["find_artifacts"] += 1
        return await super().find_artifacts(wanted)


Wrap = Callable[[Counting], Catalog]


async def many(catalog: Counting, wrap: Wrap) -> Callable[[], Awaitable[Any]]:
    store = store_on(catalog)
    keys = [str(await with_rollout(store)) for _ in range(MAX_RESOLVED)]
    query = ResolvePrograms(queries=tuple(ResolveProgram(task=key) for key in keys))
    over = store_on(wrap(catalog))
    catalog.asked.clear()
    return lambda: over.resolve_many(query)


async def test_many_tasks_are_one_question_for_tasks_and_one_for_versions() -> None:
    catalog = Counting()
    resolve = await many(catalog, lambda counting: counting)
    assert len((await resolve()).outcomes) == MAX_RESOLVED
    assert catalog.asked == {"find_tasks": 1, "find_artifacts": 1}


async def test_the_cache_asks_once_for_all_that_it_does_not_have() -> None:
    catalog, reads = Counting(), reads_through()
    resolve = await many(catalog, lambda counting: CachedCatalog(counting, reads))
    first = await resolve()
    assert catalog.asked == {"find_tasks": 1, "find_artifacts": 1}
    assert await resolve() == first
    assert catalog.asked == {"find_tasks": 1, "find_artifacts": 1}
    await reads.close()


async def test_a_catalog_that_is_away_is_the_outcome_of_each() -> None:
    catalog = Counting()
    resolve = await many(catalog, lambda counting: counting)
    catalog.broken = True
    assert {outcome.code for outcome in (await resolve()).outcomes} == {"store_unavailable"}
