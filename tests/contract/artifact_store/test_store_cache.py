"""What every cache promises."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from loopai_artifact_store.adapters.memory_catalog import MemoryCatalog
from loopai_artifact_store.domain import Artifact, Task, digest_of
from loopai_artifact_store.ports import Cache, Cached, CacheKey, CacheKind
from loopai_common.contracts.artifacts import ExampleFailure
from loopai_common.contracts.base import TaskId, Version
from loopai_common.contracts.tasks import Rollout
from loopai_common.identifiers import new_uuid
from tests.contract.artifact_store.builders import CODE, creating, publishing, store_on, validation

CONTENT = CODE.encode()
PROGRAM = CacheKey(CacheKind.ARTIFACT, digest_of(CONTENT))


@pytest.fixture
async def stored() -> tuple[Task, Artifact]:
    """A task and its version as a catalog gives them, with all that is hard to encode."""
    catalog = MemoryCatalog()
    store = store_on(catalog)
    task_id = (await store.create_task(creating(description="grüße 日本語"))).id
    failure = ExampleFailure(input={"n": [10**30, 1.5, None]}, expected="ham", error="no")
    report = validation(0.95).model_copy(update={"failures": (failure,)})
    await store.publish(publishing(task_id, validation=report))
    task = await catalog.task(task_id)
    artifact = await catalog.artifact(task, Version(1))
    whole_ms = datetime(2026, 1, 5, 9, 0, 0, 123000, tzinfo=UTC)
    document = artifact.document.model_copy(update={"created_at": whole_ms, "deployed_at": None})
    rollout = Rollout(version=Version(1), percentage=12.5)
    return replace(task, rollout=rollout), replace(artifact, document=document)


def task_key(task_id: TaskId) -> CacheKey:
    return CacheKey(CacheKind.TASK, str(task_id))


async def value(cache: Cache, key: CacheKey) -> object:
    entry = await cache.get(key)
    return None if entry is None else entry.value


async def test_what_was_set_is_given_back_as_it_was(cache: Cache, stored: tuple[Task, Artifact]) -> None:
    task, artifact = stored
    values: list[tuple[CacheKey, Cached]] = [
        (PROGRAM, CONTENT),
        (CacheKey(CacheKind.NAME, task.name), task.id),
        (task_key(task.id), task),
        (CacheKey(CacheKind.ACTIVE, str(task.id)), (artifact, artifact)),
        (CacheKey(CacheKind.ACTIVE, str(new_uuid())), ()),
    ]
    for key, content in values:
        assert await cache.get(key) is None
        assert await cache.set(key, content, revision=task.revision, ttl_seconds=60)
        entry = await cache.get(key)
        assert entry is not None
        assert entry.value == content
        assert type(entry.value) is type(content)
        assert entry.revision == task.revision
        assert 50 < entry.seconds_left <= 60


async def test_what_ended_is_gone(cache: Cache) -> None:
    await cache.set(PROGRAM, CONTENT, revision=0, ttl_seconds=0.2)
    assert await value(cache, PROGRAM) == CONTENT
    async with asyncio.timeout(10):
        while await cache.get(PROGRAM) is not None:
            await asyncio.sleep(0.01)


async def test_what_is_over_before_it_comes_is_not_kept(cache: Cache) -> None:
    await cache.set(PROGRAM, CONTENT, revision=0, ttl_seconds=-1)
    assert await cache.get(PROGRAM) is None


async def test_an_older_value_never_takes_the_place_of_a_newer_one(cache: Cache, stored: tuple[Task, Artifact]) -> None:
    old, new = (replace(stored[0], revision=revision) for revision in (2**40, 2**40 + 1))
    key = task_key(old.id)
    assert await cache.set(key, new, revision=new.revision, ttl_seconds=60)
    assert not await cache.set(key, old, revision=old.revision, ttl_seconds=60)
    assert await value(cache, key) == new
    assert await cache.set(key, new, revision=new.revision, ttl_seconds=60)


async def test_a_removed_task_is_gone_and_nothing_older_comes_back(cache: Cache, stored: tuple[Task, Artifact]) -> None:
    task = replace(stored[0], revision=5)
    active = CacheKey(CacheKind.ACTIVE, str(task.id))
    await cache.set(task_key(task.id), task, revision=5, ttl_seconds=60)
    await cache.set(active, (stored[1],), revision=5, ttl_seconds=60)
    await cache.remove_task(task.id, revision=6)
    assert await cache.get(task_key(task.id)) is None
    assert await cache.get(active) is None
    assert not await cache.set(task_key(task.id), task, revision=5, ttl_seconds=60)
    assert not await cache.set(active, (stored[1],), revision=5, ttl_seconds=60)
    assert await cache.get(task_key(task.id)) is None
    assert await cache.set(task_key(task.id), task, revision=6, ttl_seconds=60)
    assert await value(cache, task_key(task.id)) == task


async def test_a_removal_that_knows_no_revision_forgets_none(cache: Cache, stored: tuple[Task, Artifact]) -> None:
    task = stored[0]
    await cache.remove_task(task.id, revision=6)
    await cache.remove_task(task.id)
    assert not await cache.set(task_key(task.id), task, revision=5, ttl_seconds=60)
    await cache.set(task_key(task.id), task, revision=7, ttl_seconds=60)
    await cache.remove_task(task.id)
    assert await cache.get(task_key(task.id)) is None
    assert not await cache.set(task_key(task.id), task, revision=6, ttl_seconds=60)
    assert await cache.set(task_key(task.id), task, revision=7, ttl_seconds=60)


async def test_removing_one_task_leaves_others_and_programs(cache: Cache, stored: tuple[Task, Artifact]) -> None:
    task, other = stored[0], replace(stored[0], id=TaskId(new_uuid()))
    for each in (task, other):
        await cache.set(task_key(each.id), each, revision=1, ttl_seconds=60)
    await cache.set(PROGRAM, CONTENT, revision=0, ttl_seconds=60)
    await cache.remove_task(task.id, revision=2)
    assert await cache.get(task_key(task.id)) is None
    assert await value(cache, task_key(other.id)) == other
    assert await value(cache, PROGRAM) == CONTENT


async def test_one_value_is_removed_alone(cache: Cache) -> None:
    name = CacheKey(CacheKind.NAME, "a")
    await cache.set(name, TaskId(new_uuid()), revision=0, ttl_seconds=60)
    await cache.set(PROGRAM, CONTENT, revision=0, ttl_seconds=60)
    await cache.remove(name)
    await cache.remove(name)
    assert await cache.get(name) is None
    assert await value(cache, PROGRAM) == CONTENT


async def test_all_that_can_change_goes_at_once_and_the_rest_stays(cache: Cache, stored: tuple[Task, Artifact]) -> None:
    tasks = [replace(stored[0], id=TaskId(new_uuid())) for _ in range(1200)]
    for task in tasks:
        await cache.set(task_key(task.id), task, revision=1, ttl_seconds=60)
    name = CacheKey(CacheKind.NAME, "a")
    await cache.set(name, tasks[0].id, revision=0, ttl_seconds=60)
    await cache.set(PROGRAM, CONTENT, revision=0, ttl_seconds=60)
    await cache.remove_moving()
    assert [await cache.get(task_key(task.id)) for task in tasks] == [None] * 1200
    assert await value(cache, PROGRAM) == CONTENT
    assert await value(cache, name) == tasks[0].id


async def test_it_says_that_it_answers(cache: Cache) -> None:
    await cache.check()
