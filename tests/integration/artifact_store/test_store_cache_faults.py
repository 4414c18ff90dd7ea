"""The cache on a real Valkey that is killed, frozen and restarted, and between instances on a real NATS server."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from redis import Redis

from loopai_artifact_store import handlers
from loopai_artifact_store.adapters.jetstream_events import JetStreamEvents
from loopai_artifact_store.adapters.memory_cache import MemoryCache
from loopai_artifact_store.adapters.memory_storage import MemoryStorage
from loopai_artifact_store.adapters.redis_cache import TIMEOUT_SECONDS, RedisCache
from loopai_artifact_store.adapters.sqlite_catalog import SqliteCatalog, prepare_catalog
from loopai_artifact_store.cached import CachedCatalog, CachedStorage
from loopai_artifact_store.domain import Task, TaskKey, digest_of
from loopai_artifact_store.outbox import Outbox
from loopai_artifact_store.ports import Cache, CacheKey, CacheKind, CacheUnavailable
from loopai_artifact_store.reads import CachedReads
from loopai_artifact_store.service import ArtifactStore
from loopai_client.local.nats_server import NatsServer, free_port
from loopai_common.contracts.artifacts import ActivateArtifact, FetchProgram, ResolveProgram
from loopai_common.contracts.base import TaskId, Version
from loopai_common.contracts.tasks import ArchiveTask, GetTask
from loopai_common.errors import TaskArchived, TaskNotFound
from loopai_common.identifiers import new_uuid
from tests.contract.artifact_store.builders import (
    cache_metrics,
    creating,
    metrics,
    open_redis,
    open_sqlite,
    publishing,
    reads_through,
    store_on,
)
from tests.support.bus import new_bus, running
from tests.support.servers import Valkey

PATIENCE_SECONDS = 30.0
PROGRAMS = [f"def run(input):\n    return {number}\n".encode() for number in range(200)]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


def program_key(content: bytes) -> CacheKey:
    return CacheKey(CacheKind.ARTIFACT, digest_of(content))


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[Valkey]:
    """A Valkey for this test alone, which keeps its data over a restart."""
    with Valkey(tmp_path / "valkey", append_only=True) as server:
        yield server


@dataclass
class Instance:
    """A store behind a cache, with what it shares."""

    store: ArtifactStore
    redis: RedisCache


@asynccontextmanager
async def instance(directory: Path, url: str, *, timeout_seconds: float) -> AsyncIterator[Instance]:
    """A store on SQLite behind a memory and the Redis at ``url``, looking for it when it is lost."""
    async with AsyncExitStack() as stack:
        catalog = open_sqlite(directory)
        stack.push_async_callback(catalog.close)
        redis = open_redis(url, "test", timeout_seconds=timeout_seconds)
        stack.push_async_callback(redis.close)
        search = asyncio.create_task(redis.run())
        stack.callback(search.cancel)
        reads = reads_through(redis)
        stack.push_async_callback(reads.close)
        yield Instance(store_on(CachedCatalog(catalog, reads), CachedStorage(MemoryStorage(), reads)), redis)


@pytest.fixture
async def shared(tmp_path: Path, own_valkey: Valkey) -> AsyncIterator[Instance]:
    async with instance(tmp_path / "data", own_valkey.url, timeout_seconds=TIMEOUT_SECONDS) as found:
        yield found


async def make_tasks(store: ArtifactStore, count: int) -> list[TaskId]:
    tasks = []
    for number in range(count):
        tasks.append((await store.create_task(creating())).id)
        await store.publish(publishing(tasks[-1], code=PROGRAMS[number].decode()))
    return tasks


async def check_reads(store: ArtifactStore, tasks: list[TaskId]) -> None:
    async def read(content: bytes, task_id: TaskId) -> None:
        resolved = await store.resolve(ResolveProgram(task=str(task_id)))
        code = await store.fetch_program(FetchProgram(task_id=task_id, digest=resolved.digest))
        assert code.code.encode() == content

    await asyncio.gather(*(read(content, task_id) for content, task_id in zip(PROGRAMS, tasks, strict=False)))


class TestValkeyAway:
    async def test_every_read_is_answered_while_it_is_killed_and_it_is_used_again(
        self, shared: Instance, own_valkey: Valkey
    ) -> None:
        tasks = await make_tasks(shared.store, 20)
        await shared.redis.check()
        own_valkey.kill()
        await check_reads(shared.store, tasks)
        assert shared.redis.lost, "the breaker opened"
        with pytest.raises(CacheUnavailable):
            await shared.redis.check()
        own_valkey.start()
        await until(lambda: not shared.redis.lost)
        await shared.redis.check()

    async def test_every_read_is_answered_while_it_is_frozen_and_it_is_used_again(
        self, shared: Instance, own_valkey: Valkey
    ) -> None:
        tasks = await make_tasks(shared.store, 20)
        own_valkey.pause()
        try:
            await check_reads(shared.store, tasks)
            assert shared.redis.lost, "the breaker opened"
            await shared.store.archive_task(ArchiveTask(task=str(tasks[-1])))
            with pytest.raises(TaskArchived):
                await shared.store.resolve(ResolveProgram(task=str(tasks[-1])))
        finally:
            own_valkey.resume()
        await until(lambda: not shared.redis.lost)
        await check_reads(shared.store, tasks[:-1])
        with pytest.raises(TaskArchived):
            await shared.store.resolve(ResolveProgram(task=str(tasks[-1])))

    async def test_it_is_left_alone_after_one_lost_removal(self, shared: Instance, own_valkey: Valkey) -> None:
        task_id = (await make_tasks(shared.store, 1))[0]
        own_valkey.kill()
        await shared.store.archive_task(ArchiveTask(task=str(task_id)))
        assert shared.redis.lost

    async def test_what_was_written_while_it_was_away_is_read_after_its_restart(
        self, tmp_path: Path, shared: Instance, own_valkey: Valkey
    ) -> None:
        task_id = (await make_tasks(shared.store, 1))[0]
        await shared.store.publish(publishing(task_id, activate=False))
        resolved = await shared.store.resolve(ResolveProgram(task=str(task_id)))
        await shared.store.fetch_program(FetchProgram(task_id=task_id, digest=resolved.digest))
        plain = Redis(port=own_valkey.port)
        # So that neither time nor what this instance knows makes the old copies go.
        await keep_for_long(plain)
        own_valkey.kill()
        await shared.store.activate(activation(task_id))
        assert shared.redis.lost, "the removal was lost"
        own_valkey.start()
        await until(lambda: not shared.redis.lost)
        assert keys(plain) == {"artifact"}, "what can change was dropped whole, the program was not"
        async with instance(tmp_path / "data", own_valkey.url, timeout_seconds=10) as other:
            assert (await other.store.resolve(ResolveProgram(task=str(task_id)))).version == 2

    async def test_what_a_frozen_server_is_told_late_does_not_outlive_its_time(self, own_valkey: Valkey) -> None:
        cache = open_redis(own_valkey.url, timeout_seconds=TIMEOUT_SECONDS)
        key = program_key(PROGRAMS[0])
        await cache.get(key)
        own_valkey.pause()
        try:
            with pytest.raises(CacheUnavailable):
                await cache.set(key, PROGRAMS[0], revision=0, ttl_seconds=0.1)
            await asyncio.sleep(0.2)
        finally:
            own_valkey.resume()
        patient = open_redis(own_valkey.url)
        await patient.check()
        assert keys(Redis(port=own_valkey.port)) == set()
        await cache.close()
        await patient.close()


def activation(task_id: TaskId) -> ActivateArtifact:
    return ActivateArtifact(task=str(task_id), version=Version(2), expected_version=None, unconditional=True)


async def keep_for_long(plain: "Redis") -> None:
    found = [name for name in plain.scan_iter("loopai:*") if len(plain.get(name) or b"") > 9]
    assert {name.split(b":")[2] for name in found} >= {b"task", b"active", b"artifact"}
    for name in found:
        plain.pexpire(name, 3_600_000)


def keys(plain: "Redis") -> set[str]:
    """The kinds of what is kept; a name is none that matters here."""
    return {name.split(b":")[2].decode() for name in plain.scan_iter("loopai:*")} - {"name"}


class TestOnValkey:
    async def test_the_keys_are_those_that_are_documented(self, valkey: Valkey) -> None:
        cache = open_redis(valkey.url, "keys-test")
        task_id = new_uuid()
        await cache.set(program_key(PROGRAMS[0]), PROGRAMS[0], revision=0, ttl_seconds=60)
        await cache.set(CacheKey(CacheKind.ACTIVE, str(task_id)), (), revision=0, ttl_seconds=60)
        names = {name.decode() for name in Redis(port=valkey.port).scan_iter("loopai:keys-test:*")}
        assert names == {
            f"loopai:keys-test:artifact:{digest_of(PROGRAMS[0])}",
            f"loopai:keys-test:active:{task_id}",
        }
        await cache.close()

    async def test_two_environments_do_not_see_each_other(self, valkey: Valkey) -> None:
        one, two = open_redis(valkey.url), open_redis(valkey.url)
        key = program_key(PROGRAMS[0])
        await one.set(key, PROGRAMS[0], revision=0, ttl_seconds=60)
        assert await two.get(key) is None
        await two.remove_moving()
        assert await one.get(key) is not None
        await one.close()
        await two.close()

    @pytest.mark.parametrize(
        "damaged",
        [
            b"",
            b"\x02" + b"\0" * 8 + b"\xc4\x01x",
            b"\x01" + b"\0" * 8 + b"\xff\xff",
            b"\x01" + b"\0" * 8 + b"\xc4\x01y",
        ],
        ids=["empty", "another format", "no message pack", "another program"],
    )
    async def test_what_cannot_be_right_is_a_miss(self, valkey: Valkey, damaged: bytes) -> None:
        environment = f"damaged-{len(damaged)}-{damaged[-1:].hex()}"
        cache = open_redis(valkey.url, environment)
        key = program_key(b"x")
        await cache.set(key, b"x", revision=0, ttl_seconds=60)
        plain = Redis(port=valkey.port)
        (name,) = plain.scan_iter(f"loopai:{environment}:*")
        plain.set(name, damaged, keepttl=True)
        assert await cache.get(key) is None
        await cache.set(key, b"x", revision=0, ttl_seconds=60)
        assert await cache.get(key) is not None
        await cache.close()

    async def test_a_task_that_is_damaged_is_a_miss(self, valkey: Valkey) -> None:
        cache = open_redis(valkey.url)
        key = CacheKey(CacheKind.TASK, str(new_uuid()))
        await cache.set(key, b"no task", revision=0, ttl_seconds=60)
        assert await cache.get(key) is None
        await cache.close()

    async def test_a_cancelled_command_never_answers_another_one(self, valkey: Valkey) -> None:
        cache = open_redis(valkey.url)
        for content in PROGRAMS:
            await cache.set(program_key(content), content, revision=0, ttl_seconds=60)
        cancelled = 0
        for delay in range(0, 60, 2):
            readers = [asyncio.create_task(cache.get(program_key(content))) for content in PROGRAMS[:40]]
            for _ in range(delay):
                await asyncio.sleep(0)
            for reader in readers:
                reader.cancel()
            outcomes = await asyncio.gather(*readers, return_exceptions=True)
            cancelled += sum(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
            answers = await asyncio.gather(*(cache.get(program_key(content)) for content in PROGRAMS[:40]))
            assert [entry.value if entry else None for entry in answers] == PROGRAMS[:40]
        assert cancelled > 100
        await cache.close()

    async def test_a_thousand_misses_at_once_neither_exhaust_nor_lose_it(self, valkey: Valkey) -> None:
        cache = open_redis(valkey.url)
        found = await asyncio.gather(
            *(cache.get(CacheKey(CacheKind.ARTIFACT, f"sha256:{number}")) for number in range(1000))
        )
        assert found == [None] * 1000
        assert not cache.lost
        clients = Redis(port=valkey.port).info("clients")
        assert clients["connected_clients"] < 50
        await cache.close()


class CountingCatalog(SqliteCatalog):
    """Counts how often it is asked for a task."""

    asked = 0

    async def task(self, key: TaskKey) -> Task:
        self.asked += 1
        return await super().task(key)


class Peers:
    """Instances of the store on one directory and one NATS server, whose copies never grow old by themselves."""

    def __init__(self, nats_url: str, directory: Path, stack: AsyncExitStack, far: Callable[[], Cache | None]) -> None:
        self._nats_url = nats_url
        self._directory = directory
        self._stack = stack
        self._far = far

    async def start(self, *, delivers: bool = True) -> ArtifactStore:
        """A store that hears of the others, and when it ``delivers`` tells them."""
        backend: SqliteCatalog = open_sqlite(self._directory)
        self._stack.push_async_callback(backend.close)
        observer = cache_metrics()
        near = MemoryCache(1024 * 1024, observer, clock=lambda: 0.0)
        reads = CachedReads(near, self._far(), observer, clock=lambda: 0.0)
        self._stack.push_async_callback(reads.close)
        catalog = CachedCatalog(backend, reads)
        bus = new_bus("artifact-store", self._nats_url)
        handlers.follow_other_instances(bus, catalog)
        bus.on_reconnect(reads.forget_moving)
        await self._stack.enter_async_context(running(bus))
        if delivers:
            outbox = Outbox(backend, JetStreamEvents(bus), poll_seconds=0.02)
            delivering = asyncio.create_task(outbox.run())
            self._stack.callback(delivering.cancel)
        return store_on(catalog, CachedStorage(MemoryStorage(), reads))


@pytest.fixture(params=["memory", "redis"])
async def peers(request: pytest.FixtureRequest, nats_server: NatsServer, tmp_path: Path) -> AsyncIterator[Peers]:
    async with AsyncExitStack() as stack:
        redis = None
        if request.param == "redis":
            redis = open_redis(request.getfixturevalue("valkey").url)
            stack.push_async_callback(redis.close)
        yield Peers(nats_server.url, tmp_path / "data", stack, lambda: redis)


class TestBetweenInstances:
    async def test_a_pointer_that_is_moved_at_one_is_seen_at_the_other(self, peers: Peers) -> None:
        one, two = await peers.start(), await peers.start()
        task = await one.create_task(creating())
        for code in ("def run(input): return 1", "def run(input): return 2"):
            await one.publish(publishing(task.id, code=code))
        query = ResolveProgram(task=task.name)
        seen: set[int] = set()
        for version in (Version(1), Version(2), Version(1)):
            # Read until it is kept there: what is loaded before the last event came is dropped again.
            await one.activate(
                ActivateArtifact(task=task.name, version=version, expected_version=None, unconditional=True)
            )
            assert (await one.resolve(query)).version == version, "at once where it was written"
            async with asyncio.timeout(PATIENCE_SECONDS):
                while (await two.resolve(query)).version != version:
                    await asyncio.sleep(0.005)
            seen.add(version)
        assert seen == {1, 2}

    async def test_a_task_that_is_made_or_archived_at_one_is_so_at_the_other(self, peers: Peers) -> None:
        one, two = await peers.start(), await peers.start()
        name = creating().definition.name
        with pytest.raises(TaskNotFound):
            await two.get_task(GetTask(task=name))
        task = await one.create_task(creating(name))
        await one.publish(publishing(task.id))

        async def comes_true(error: type[Exception] | None) -> None:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while True:
                    try:
                        await two.resolve(ResolveProgram(task=name))
                        outcome = None
                    except Exception as raised:
                        outcome = type(raised)
                    if outcome is error:
                        return
                    await asyncio.sleep(0.005)

        await comes_true(None)
        await one.archive_task(ArchiveTask(task=name))
        await comes_true(TaskArchived)


async def test_what_was_not_heard_while_nats_was_away_is_asked_for_again(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats")
    server.start()
    try:
        async with AsyncExitStack() as stack:
            peers = Peers(server.url, tmp_path / "data", stack, lambda: None)
            one, two = await peers.start(delivers=False), await peers.start(delivers=False)
            task = await one.create_task(creating())
            await one.publish(publishing(task.id))
            await one.publish(publishing(task.id, activate=False))
            query = ResolveProgram(task=task.name)
            assert (await two.resolve(query)).version == 1
            server.kill()
            await one.activate(activation(task.id))
            assert (await two.resolve(query)).version == 1, "it was not told"
            server.start()
            async with asyncio.timeout(PATIENCE_SECONDS):
                while (await two.resolve(query)).version == 1:
                    await asyncio.sleep(0.01)
    finally:
        server.stop()


async def test_of_a_thousand_misses_at_once_one_asks_the_store(valkey: Valkey, tmp_path: Path) -> None:
    prepare_catalog(tmp_path / "catalog.sqlite3")
    backend = CountingCatalog(tmp_path / "catalog.sqlite3", metrics().timer("catalog", "sqlite"))
    task = await store_on(backend).create_task(creating())
    backend.asked = 0
    redis = open_redis(valkey.url)
    reads = reads_through(redis)
    catalog = CachedCatalog(backend, reads)
    found = await asyncio.gather(*(catalog.task(task.id) for _ in range(1000)))
    assert {one.id for one in found} == {task.id}
    assert backend.asked == 1
    await reads.close()
    await redis.close()
    await backend.close()


class TestService:
    async def test_a_service_without_its_redis_is_ready_and_says_what_is_away(
        self, nats_server: NatsServer, own_valkey: Valkey, tmp_path: Path
    ) -> None:
        port = free_port()
        environment = {
            "LOOPAI_NATS_URL": nats_server.url,
            "LOOPAI_DATA_DIR": str(tmp_path / "data"),
            "LOOPAI_ARTIFACT_STORE_PORT": str(port),
            "LOOPAI_ARTIFACT_STORE_CACHE": "redis",
            "LOOPAI_ARTIFACT_STORE_REDIS_URL": own_valkey.url,
            "LOOPAI_LOG_LEVEL": "error",
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "loopai_artifact_store.main", env={**os.environ, **environment}
        )

        def body(path: str) -> str:
            try:
                with urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
                    return str(answer.read().decode())
            except (URLError, ConnectionError):
                return "{}"

        async def cache_is(status: str) -> None:
            async with asyncio.timeout(PATIENCE_SECONDS * 2):
                while True:
                    report = json.loads(await asyncio.to_thread(body, "/health/ready"))
                    if report and report["checks"]["cache"]["status"] == status:
                        assert report["status"] in ("healthy", "degraded")
                        return
                    assert process.returncode is None
                    await asyncio.sleep(0.05)

        try:
            await cache_is("healthy")
            own_valkey.kill()
            await cache_is("degraded")
            own_valkey.start()
            await cache_is("healthy")
            text = await asyncio.to_thread(body, "/metrics")
        finally:
            process.terminate()
            assert await process.wait() == 0
        for name in ("hits_total", "misses_total", "hit_ratio", "evictions_total", "entries", "bytes", "breaker_open"):
            assert f"\nloopai_cache_{name}" in text
        for name in ("read_duration_seconds", "warmed_total", "refreshes_total", "stampedes_joined_total"):
            assert f"loopai_cache_{name}" in text
        assert 'port="cache"' in text
