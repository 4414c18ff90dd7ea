"""Reads through the cache, on caches in memory and a clock of the test's own."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from loopai_artifact_store.adapters.memory_cache import MemoryCache
from loopai_artifact_store.adapters.memory_catalog import MemoryCatalog
from loopai_artifact_store.adapters.memory_executions import MemoryExecutionLog
from loopai_artifact_store.adapters.memory_storage import MemoryStorage
from loopai_artifact_store.cached import CachedCatalog, CachedStorage
from loopai_artifact_store.domain import Task, TaskKey
from loopai_artifact_store.metrics import CacheMetrics
from loopai_artifact_store.ports import Cache, Cached, CacheKey, CacheKind, CacheUnavailable, Entry, ExecutionLog
from loopai_artifact_store.reads import CachedReads
from loopai_artifact_store.service import ArtifactStore
from loopai_artifact_store.warming import warm
from loopai_common.contracts.artifacts import (
    ActivateArtifact,
    FetchProgram,
    GetArtifact,
    ResolveProgram,
    ResolvePrograms,
)
from loopai_common.contracts.base import Digest, TaskId, Version
from loopai_common.contracts.tasks import (
    ArchiveTask,
    Comparison,
    GetTask,
    Isolation,
    TaskChanges,
    TaskStatus,
    UpdateTask,
)
from loopai_common.errors import ArtifactNotFound, StoreUnavailable, TaskArchived, TaskNotFound
from loopai_common.identifiers import new_uuid
from tests.contract.artifact_store.builders import creating, publishing, record, store_on

MEGABYTE = 1024 * 1024
TASK = Task(
    id=TaskId(new_uuid()),
    name="a",
    description="",
    input_schema="true",
    output_schema="true",
    total_examples=0,
    examples_bytes=0,
    accuracy_target=0.9,
    latency_target_ms=10,
    sampling_rate=0.0,
    isolation=Isolation.CALL,
    comparison=Comparison.EXACT,
    comparison_threshold=0.8,
    status=TaskStatus.READY,
    status_reason=None,
    active_version=None,
    rollout=None,
    total_versions=0,
    revision=1,
    created_at=datetime(2026, 1, 5, tzinfo=UTC),
    updated_at=datetime(2026, 1, 5, tzinfo=UTC),
)
KEY = CacheKey(CacheKind.TASK, str(TASK.id))
PROGRAM = CacheKey(CacheKind.ARTIFACT, "sha256:" + "0" * 64)


class Clock:
    """Moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class World:
    """Instances of the reads on one clock, each with a memory of its own, and the figures of all."""

    def __init__(self, draw: float = 0.5) -> None:
        self.clock = Clock()
        self.registry = CollectorRegistry()
        self.metrics = CacheMetrics(self.registry)
        self._draw = draw

    def memory(self, max_bytes: int = MEGABYTE) -> MemoryCache:
        return MemoryCache(max_bytes, self.metrics, clock=self.clock)

    def instance(self, far: Cache | None = None, near: Cache | None = None) -> CachedReads:
        return CachedReads(near or self.memory(), far, self.metrics, clock=self.clock, draw=lambda: self._draw)

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"loopai_cache_{name}_total", labels) or 0.0


class Source:
    """The store, of which every load is counted; with the gate shut, what was read travels until it opens."""

    def __init__(self) -> None:
        self.loads = 0
        self.task = TASK
        self.gate = asyncio.Event()
        self.gate.set()
        self.broken = False

    def change(self) -> int:
        self.task = replace(self.task, revision=self.task.revision + 1)
        return self.task.revision

    async def load(self) -> tuple[Cached, int]:
        self.loads += 1
        if self.broken:
            raise StoreUnavailable("the store is away")
        task = self.task
        await self.gate.wait()
        return task, task.revision

    async def load_bytes(self) -> tuple[Cached, int]:
        self.loads += 1
        return b"x", 0

    async def load_nothing(self) -> tuple[Cached, int]:
        self.loads += 1
        raise TaskNotFound("there is no task 'a'")


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def source() -> Source:
    return Source()


async def settled(reads: CachedReads) -> None:
    """Returns when nothing is loaded in the background."""
    while reads._running:
        await asyncio.sleep(0)


async def travelling(source: Source) -> None:
    """Returns when a load has read its answer, which waits at the gate."""
    while source.loads == 0:
        await asyncio.sleep(0)


class TestOneLoad:
    async def test_of_a_thousand_readers_at_once_one_loads(self, world: World, source: Source) -> None:
        reads = world.instance(far=world.memory())
        source.gate.clear()
        readers = [asyncio.create_task(reads.read(KEY, source.load)) for _ in range(1000)]
        await asyncio.sleep(0.01)
        source.gate.set()
        assert await asyncio.gather(*readers) == [TASK] * 1000
        assert source.loads == 1
        assert world.count("stampedes_joined") == 999
        assert world.count("misses") == 1000

    async def test_a_reader_that_gives_up_takes_nobody_with_it(self, world: World, source: Source) -> None:
        reads = world.instance()
        source.gate.clear()
        first, second = (asyncio.create_task(reads.read(KEY, source.load)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        source.gate.set()
        assert await second == TASK
        assert source.loads == 1

    async def test_what_a_load_raises_is_raised_to_all_and_not_kept(self, world: World, source: Source) -> None:
        reads = world.instance()
        source.broken = True
        outcomes = await asyncio.gather(*(reads.read(KEY, source.load) for _ in range(5)), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
        assert source.loads == 1
        source.broken = False
        assert await reads.read(KEY, source.load) == TASK

    async def test_who_needs_a_later_revision_than_is_being_loaded_loads_it(self, world: World, source: Source) -> None:
        reads = world.instance()
        source.gate.clear()
        early = asyncio.create_task(reads.read(KEY, source.load))
        await travelling(source)
        revision = source.change()
        late = asyncio.create_task(reads.read(KEY, source.load, at_least=revision))
        await asyncio.sleep(0)
        source.gate.set()
        assert (await early).revision == revision - 1
        assert (await late).revision == revision

    async def test_nobody_joins_a_load_that_began_five_seconds_ago(self, world: World, source: Source) -> None:
        reads = world.instance()
        source.gate.clear()
        early = asyncio.create_task(reads.read(KEY, source.load))
        await travelling(source)
        revision = source.change()
        world.clock.now += 5
        late = asyncio.create_task(reads.read(KEY, source.load))
        await asyncio.sleep(0)
        source.gate.set()
        assert (await late).revision == revision
        await early
        assert (await reads.read(KEY, source.load)).revision == revision


class TestTime:
    async def test_what_moves_is_loaded_again_after_five_seconds(self, world: World, source: Source) -> None:
        reads = world.instance(far=world.memory())
        await reads.read(KEY, source.load)
        revision = source.change()
        world.clock.now += 3.4
        assert (await reads.read(KEY, source.load)).revision < revision
        assert source.loads == 1
        world.clock.now += 1.6
        assert (await reads.read(KEY, source.load)).revision == revision

    async def test_the_five_seconds_count_from_before_the_load(self, world: World, source: Source) -> None:
        reads = world.instance()

        async def slow() -> tuple[Cached, int]:
            loaded = await source.load()
            world.clock.now += 4
            return loaded

        await reads.read(KEY, slow)
        revision = source.change()
        world.clock.now += 1
        assert (await reads.read(KEY, source.load)).revision == revision

    async def test_a_shared_copy_lives_no_longer_in_memory_than_where_it_came_from(
        self, world: World, source: Source
    ) -> None:
        far = world.memory()
        await world.instance(far).read(KEY, source.load)
        revision = source.change()
        other = world.instance(far)
        world.clock.now += 3
        assert (await other.read(KEY, source.load)).revision < revision
        world.clock.now += 2
        assert (await other.read(KEY, source.load)).revision == revision

    @pytest.mark.parametrize(("draw", "seconds"), [(0.0, 3240), (0.5, 3600), (0.999999, 3960)])
    async def test_what_never_changes_is_kept_for_an_hour_give_or_take_a_tenth(
        self, source: Source, draw: float, seconds: float
    ) -> None:
        world = World(draw)
        memory = world.memory()
        await world.instance(near=memory).read(PROGRAM, source.load_bytes)
        entry = await memory.get(PROGRAM)
        assert entry is not None
        assert entry.seconds_left == pytest.approx(seconds, abs=0.01)

    async def test_a_copy_in_use_is_loaded_anew_before_it_ends(self, world: World, source: Source) -> None:
        reads = world.instance(far=world.memory())
        await reads.read(KEY, source.load)
        revision = source.change()
        world.clock.now += 3.6
        assert (await reads.read(KEY, source.load)).revision < revision, "nobody waits for it"
        await settled(reads)
        assert source.loads == 2
        world.clock.now += 3
        assert (await reads.read(KEY, source.load)).revision == revision
        assert source.loads == 2
        assert world.count("refreshes", kind="task") == 1

    async def test_a_refresh_takes_what_another_instance_refreshed(self, world: World, source: Source) -> None:
        far = world.memory()
        one, two = world.instance(far), world.instance(far)
        await one.read(KEY, source.load)
        await two.read(KEY, source.load)
        world.clock.now += 3.6
        for reads in (one, two):
            await reads.read(KEY, source.load)
            await settled(reads)
        assert source.loads == 2

    async def test_a_refresh_that_fails_takes_nothing_away(self, world: World, source: Source) -> None:
        reads = world.instance()
        await reads.read(KEY, source.load)
        source.broken = True
        world.clock.now += 4
        assert await reads.read(KEY, source.load) == TASK
        await settled(reads)
        assert source.loads == 2
        assert await reads.read(KEY, source.load) == TASK
        world.clock.now += 1
        with pytest.raises(StoreUnavailable):
            await reads.read(KEY, source.load)

    async def test_what_is_not_there_is_not_asked_for_again_for_five_seconds(
        self, world: World, source: Source
    ) -> None:
        far = world.memory()
        reads = world.instance(far)
        for _ in range(3):
            with pytest.raises(TaskNotFound, match="no task 'a'"):
                await reads.read(KEY, source.load_nothing)
        assert source.loads == 1
        assert far.entries == 0, "nobody else is told so"
        world.clock.now += 5
        assert await reads.read(KEY, source.load) == TASK


class TestRemoval:
    async def test_a_load_from_before_a_write_is_not_kept(self, world: World, source: Source) -> None:
        far = world.memory()
        reads = world.instance(far)
        source.gate.clear()
        slow = asyncio.create_task(reads.read(KEY, source.load))
        await travelling(source)
        revision = source.change()
        await reads.forget_task(TASK.id, revision=revision)
        fresh = asyncio.create_task(reads.read(KEY, source.load))
        source.gate.set()
        assert (await fresh).revision == revision
        await slow
        for each in (reads, world.instance(far)):
            assert (await each.read(KEY, source.load)).revision == revision

    async def test_a_load_from_before_an_event_is_not_kept(self, world: World, source: Source) -> None:
        reads = world.instance()
        source.gate.clear()
        slow = asyncio.create_task(reads.read(KEY, source.load))
        await travelling(source)
        revision = source.change()
        await reads.hear_of(TASK.id)
        source.gate.set()
        await slow
        assert (await reads.read(KEY, source.load)).revision == revision

    async def test_an_old_copy_that_is_shared_is_not_taken_by_who_wrote(self, world: World, source: Source) -> None:
        far = world.memory()
        reads = world.instance(far)
        revision = source.change()
        await reads.forget_task(TASK.id, revision=revision)
        await far.remove(KEY)  # what was removed there is no longer known there, as after a restart
        await far.set(KEY, TASK, revision=TASK.revision, ttl_seconds=5)
        assert (await reads.read(KEY, source.load)).revision == revision

    async def test_after_a_reconnect_all_that_moves_is_asked_for_again(self, world: World, source: Source) -> None:
        reads = world.instance()
        await reads.read(KEY, source.load)
        await reads.read(PROGRAM, source.load_bytes)
        revision = source.change()
        reads.forget_moving()
        await settled(reads)
        assert (await reads.read(KEY, source.load)).revision == revision
        await reads.read(PROGRAM, source.load_bytes)
        assert source.loads == 3


class TestMemory:
    async def test_what_was_used_last_stays_when_there_is_no_room(self, world: World) -> None:
        memory = world.memory(10_000)
        keys = [CacheKey(CacheKind.ARTIFACT, str(number)) for number in range(4)]
        for key in keys[:3]:
            await memory.set(key, b"x" * 2500, revision=0, ttl_seconds=60)
        await memory.get(keys[0])
        await memory.set(keys[3], b"x" * 2500, revision=0, ttl_seconds=60)
        assert [await memory.get(key) is not None for key in keys] == [True, False, True, True]
        assert memory.size_bytes <= 10_000
        assert world.count("evictions", reason="size") == 1

    async def test_what_is_larger_than_all_the_room_is_not_kept(self, world: World) -> None:
        memory = world.memory(10_000)
        await memory.set(KEY, TASK, revision=1, ttl_seconds=60)
        assert await memory.set(PROGRAM, b"x" * 20_000, revision=0, ttl_seconds=60)
        assert await memory.get(PROGRAM) is None
        assert await memory.get(KEY) is not None

    async def test_what_ended_makes_room_and_is_counted_as_such(self, world: World) -> None:
        memory = world.memory()
        await memory.set(PROGRAM, b"x", revision=0, ttl_seconds=1)
        world.clock.now += 1
        assert memory.entries == 0
        assert memory.size_bytes == 0
        assert world.count("evictions", reason="expired") == 1
        assert world.count("evictions", reason="size") == 0


class FragileCache(MemoryCache):
    """Does not answer while it is ``broken``; after a removal that failed not before it was emptied, as on Redis."""

    broken = False
    lost = False

    async def get(self, key: CacheKey) -> Entry | None:
        self._try()
        return await super().get(key)

    async def set(self, key: CacheKey, value: Cached, *, revision: int, ttl_seconds: float) -> bool:
        self._try()
        return await super().set(key, value, revision=revision, ttl_seconds=ttl_seconds)

    async def remove_task(self, task_id: TaskId, *, revision: int = 0) -> None:
        self.lost = self.lost or self.broken
        self._try()
        await super().remove_task(task_id, revision=revision)

    async def come_back(self) -> None:
        self.broken = False
        await self.remove_moving()
        self.lost = False

    def _try(self) -> None:
        if self.broken or self.lost:
            raise CacheUnavailable("away")


async def test_a_cache_that_is_away_fails_nothing(world: World, source: Source) -> None:
    far = FragileCache(MEGABYTE, world.metrics, clock=world.clock)
    far.broken = True
    reads = world.instance(far)
    assert await reads.read(KEY, source.load) == TASK
    await reads.forget_task(TASK.id, revision=source.change())
    assert (await reads.read(KEY, source.load)).revision == source.task.revision


STEPS = ["read", "read", "arrive", "write", "event", "wait", "long wait", "break", "come back"]
COUNTED = World()
"""Figures take longer to set up than a script takes to run."""


@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 1)), min_size=4, max_size=25))
@settings(max_examples=200, deadline=None)
def test_no_read_gives_what_is_older_than_the_last_removal_before_it(script: list[tuple[str, int]]) -> None:
    async def run() -> None:
        world, source = COUNTED, Source()
        source.gate.clear()
        far = FragileCache(MEGABYTE, world.metrics, clock=world.clock)
        instances = [world.instance(far), world.instance(far)]
        removed = [0, 0]
        """The newest revision that each instance was told of, by its own write or by an event."""
        changed_at: list[tuple[float, int]] = []
        readers: list[asyncio.Task[None]] = []

        async def passed() -> None:
            for _ in range(6):
                await asyncio.sleep(0)

        async def check(number: int) -> None:
            least = removed[number]
            began = world.clock.now
            known = max((revision for at, revision in changed_at if at <= began - 5), default=0)
            got = await instances[number].read(KEY, source.load)
            assert got.revision >= least, "older than the last removal"
            assert got.revision >= known, "older than five seconds"

        for step, number in script:
            match step:
                case "read":
                    readers.append(asyncio.create_task(check(number)))
                case "write":
                    revision = source.change()
                    changed_at.append((world.clock.now, revision))
                    await instances[number].forget_task(TASK.id, revision=revision)
                    removed[number] = revision
                case "event":
                    await instances[number].hear_of(TASK.id)
                    removed[number] = source.task.revision if not far.lost and not far.broken else removed[number]
                case "arrive":
                    source.gate.set()
                    await passed()
                    source.gate.clear()
                case "wait":
                    world.clock.now += 1.3
                case "long wait":
                    world.clock.now += 5
                case "break":
                    far.broken = True
                case "come back":
                    await far.come_back()
            await passed()
        source.gate.set()
        await asyncio.gather(*readers)
        for reads in instances:
            await reads.close()

    asyncio.run(run())


class CountingCatalog(MemoryCatalog):
    """Counts what it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    async def task(self, key: TaskKey) -> Task:
        self.asked.append("task")
        return await super().task(key)

    async def artifact(self, task: Task, version: Version) -> Any:
        self.asked.append("artifact")
        return await super().artifact(task, version)


class CountingStorage(MemoryStorage):
    """Counts what it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Digest] = []

    async def get(self, task_id: TaskId, digest: Digest) -> bytes:
        self.asked.append(digest)
        return await super().get(task_id, digest)


class TestUseCases:
    @pytest.fixture
    def catalog(self) -> CountingCatalog:
        return CountingCatalog()

    @pytest.fixture
    def storage(self) -> CountingStorage:
        return CountingStorage()

    @pytest.fixture
    def cached(self, world: World, catalog: CountingCatalog) -> CachedCatalog:
        return CachedCatalog(catalog, world.instance())

    @pytest.fixture
    def store(self, world: World, cached: CachedCatalog, storage: CountingStorage) -> ArtifactStore:
        return store_on(cached, CachedStorage(storage, world.instance()))

    @pytest.fixture
    async def task(self, store: ArtifactStore) -> TaskId:
        task_id = (await store.create_task(creating("spam"))).id
        await store.publish(publishing(task_id))
        await store.publish(publishing(task_id, code="def run(input):\n    return 'spam'\n", activate=False))
        return task_id

    async def test_what_executions_ask_for_asks_the_backends_once(
        self, store: ArtifactStore, task: TaskId, catalog: CountingCatalog, storage: CountingStorage
    ) -> None:
        digest = (await store.resolve(ResolveProgram(task="spam"))).digest
        code = ResolveProgram(task="spam"), FetchProgram(task_id=task, digest=digest)
        questions: list[Callable[[], Awaitable[Any]]] = [
            lambda: store.resolve(code[0]),
            lambda: store.resolve(ResolveProgram(task=str(task), version=Version(1))),
            lambda: store.resolve_many(ResolvePrograms(queries=(code[0], code[0]))),
            lambda: store.fetch_program(code[1]),
            lambda: store.get_task(GetTask(task="spam", include_examples=False)),
            lambda: store.get_artifact(GetArtifact(task="spam", include_code=True)),
        ]
        for question in questions:
            await question()
        catalog.asked.clear()
        for question in questions:
            await question()
        assert (catalog.asked, storage.asked) == ([], [digest])

    async def test_what_was_written_is_read_at_once(self, store: ArtifactStore, task: TaskId) -> None:
        query = ResolveProgram(task="spam")
        assert (await store.resolve(query)).version == 1
        await store.activate(ActivateArtifact(task="spam", version=Version(2), expected_version=Version(1)))
        assert (await store.resolve(query)).version == 2
        await store.activate(
            ActivateArtifact(task="spam", version=Version(1), expected_version=Version(2), percentage=25.0)
        )
        rollout = (await store.resolve(query)).rollout
        assert rollout is not None
        assert (rollout.version, rollout.percentage) == (1, 25.0)
        await store.update_task(UpdateTask(task="spam", changes=TaskChanges(sampling_rate=0.75)))
        assert (await store.resolve(query)).sampling_rate == 0.75
        await store.archive_task(ArchiveTask(task="spam"))
        with pytest.raises(TaskArchived):
            await store.resolve(query)

    async def test_a_name_that_was_free_is_found_when_it_is_taken(self, store: ArtifactStore) -> None:
        with pytest.raises(TaskNotFound):
            await store.get_task(GetTask(task="late"))
        created = await store.create_task(creating("late"))
        assert await store.get_task(GetTask(task="late")) == created

    async def test_a_name_is_found_in_a_catalog_that_was_restored(self, world: World) -> None:
        reads = world.instance()
        old, new = MemoryCatalog(), MemoryCatalog()
        await store_on(CachedCatalog(old, reads)).create_task(creating("again"))
        await CachedCatalog(old, reads).task("again")
        created = await store_on(new).create_task(creating("again"))
        await reads.forget_task((await old.task("again")).id, revision=0)
        for _ in range(2):
            assert (await CachedCatalog(new, reads).task("again")).id == created.id

    async def test_a_program_that_was_missing_is_found_when_it_is_put(
        self, store: ArtifactStore, task: TaskId, storage: CountingStorage
    ) -> None:
        digest = (await store.resolve(ResolveProgram(task="spam"))).digest
        query = FetchProgram(task_id=task, digest=digest)
        content = storage.contents.pop((task, digest))
        for _ in range(2):
            with pytest.raises(ArtifactNotFound):
                await store.fetch_program(query)
        assert storage.asked == [digest]
        await store.publish(publishing(task, code=content.decode()))
        assert (await store.fetch_program(query)).code == content.decode()


class TestWarming:
    async def test_the_programs_that_ran_most_are_loaded_as_far_as_there_is_room(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        catalog, storage, log = MemoryCatalog(), CountingStorage(), MemoryExecutionLog()
        store = store_on(catalog, storage)
        ids = []
        for number in range(3):
            task_id = (await store.create_task(creating())).id
            await store.publish(publishing(task_id, code=f"# {number}\n" + "x" * 1000))
            await log.add([record(task_id) for _ in range(number + 1)])
            ids.append(task_id)
        without = (await store.create_task(creating())).id
        await log.add([record(without) for _ in range(9)] + [record(TaskId(new_uuid())) for _ in range(9)])
        monkeypatch.setattr("loopai_artifact_store.warming.MAX_BYTES", 2500)
        await self.warm(world, catalog, storage, log)
        digests = [(await store.resolve(ResolveProgram(task=str(task_id)))).digest for task_id in ids]
        assert storage.asked == [digests[2], digests[1]]
        assert world.count("warmed") == 2

    async def test_a_log_that_is_away_fails_nothing(self, world: World) -> None:
        class AwayLog(MemoryExecutionLog):
            async def popular(self, limit: int) -> tuple[TaskId, ...]:
                raise StoreUnavailable("away")

        await self.warm(world, MemoryCatalog(), MemoryStorage(), AwayLog())
        assert world.count("warmed") == 0

    async def warm(self, world: World, catalog: MemoryCatalog, storage: MemoryStorage, log: ExecutionLog) -> None:
        reads = world.instance()
        await warm(CachedCatalog(catalog, reads), CachedStorage(storage, reads), log, world.metrics)
