"""The store's cache: reads with and without it, a stampede, Zipf traffic, and a start with and without warming.

In this process, without a bus: what is compared are the use cases on the same backends. MongoDB and Valkey take part
where `make servers` has installed them.
"""

import asyncio
import random
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from benchmarks import programs
from benchmarks.bench import Bench, Figure
from loopai_artifact_store.adapters.memory_cache import MemoryCache
from loopai_artifact_store.adapters.redis_cache import RedisCache
from loopai_artifact_store.cached import CachedCatalog, CachedStorage
from loopai_artifact_store.domain import Task, TaskKey
from loopai_artifact_store.metrics import CacheMetrics
from loopai_artifact_store.ports import ArtifactStorage, Cache, Catalog, ExecutionLog
from loopai_artifact_store.reads import CachedReads
from loopai_artifact_store.service import ArtifactStore
from loopai_artifact_store.warming import warm
from loopai_common.contracts.artifacts import FetchProgram, GetArtifact, ResolveProgram
from loopai_common.contracts.base import TaskId
from loopai_common.contracts.tasks import GetTask
from tests.contract.artifact_store.builders import (
    creating,
    metrics,
    open_executions,
    open_files,
    open_mongodb,
    open_sqlite,
    publishing,
    record,
    store_on,
)
from tests.support.servers import INSTALLED, Mongo, Valkey

NAME = "cache"

_TASKS = 200
_READS = 300
_TRAFFIC = 5000
_FIRST = 500
_STAMPEDE = 1000
_CACHE_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Backend:
    name: str
    catalog: Catalog
    storage: ArtifactStorage
    executions: ExecutionLog


class _Cached:
    """The use cases behind a cache that is empty, with its figures."""

    def __init__(self, backend: _Backend, far: Cache | None = None, memory_bytes: int = _CACHE_BYTES) -> None:
        self._registry = CollectorRegistry()
        self._backend = backend
        self.metrics = CacheMetrics(self._registry)
        self.reads = CachedReads(MemoryCache(memory_bytes, self.metrics), far, self.metrics)
        self.catalog = CachedCatalog(backend.catalog, self.reads)
        self.storage = CachedStorage(backend.storage, self.reads)
        self.store = store_on(self.catalog, self.storage)

    async def warm(self) -> None:
        await warm(self.catalog, self.storage, self._backend.executions, self.metrics)

    def counts(self) -> tuple[float, float]:
        """Hits and misses so far."""
        hits = sum(self._value("loopai_cache_hits_total", level=level) for level in ("near", "far"))
        return hits, self._value("loopai_cache_misses_total")

    def _value(self, name: str, **labels: str) -> float:
        return self._registry.get_sample_value(name, labels) or 0.0


def run(bench: Bench) -> Iterator[Figure]:
    """Measures on SQLite and files, and on MongoDB where there is one."""
    directory = bench.directory / "cache"
    directory.mkdir()
    yield from asyncio.run(_measure(directory))


async def _measure(directory: Path) -> list[Figure]:
    figures: list[Figure] = []
    async with AsyncExitStack() as stack:
        redis = None
        if INSTALLED.exists():
            server = stack.enter_context(Valkey(directory / "valkey"))
            redis = RedisCache(server.url, "bench", metrics().timer("cache", "redis"))
            stack.push_async_callback(redis.close)
        backends = [await stack.enter_async_context(_sqlite(directory))]
        if INSTALLED.exists():
            backends.append(await stack.enter_async_context(_mongodb(directory)))
        for backend in backends:
            tasks = await _published(backend)
            figures += await _single_reads(backend, tasks[0], redis)
            figures += await _stampede(backend, tasks[0])
            figures += await _traffic(backend, tasks)
    return figures


@asynccontextmanager
async def _sqlite(directory: Path) -> AsyncIterator[_Backend]:
    catalog, executions = open_sqlite(directory / "store"), open_executions(directory / "store")
    yield _Backend("SQLite", catalog, open_files(directory / "store"), executions)
    await executions.close()
    await catalog.close()


@asynccontextmanager
async def _mongodb(directory: Path) -> AsyncIterator[_Backend]:
    with Mongo(directory / "mongo") as server:
        opened = open_mongodb(server.url, "bench")
        yield _Backend("MongoDB", opened.catalog, opened.storage, opened.executions)
        await opened.database.close()


async def _published(backend: _Backend) -> list[TaskId]:
    """Tasks with a program each, and records of their executions: of the k-th a share of 1/k."""
    store = store_on(backend.catalog, backend.storage)
    tasks = []
    for number in range(_TASKS):
        tasks.append((await store.create_task(creating())).id)
        await store.publish(publishing(tasks[-1], code=programs.classifier(number)))
    await backend.executions.add([record(task_id) for task_id in _zipf(tasks, _TRAFFIC)])
    return tasks


def _zipf(tasks: Sequence[TaskId], count: int) -> list[TaskId]:
    return random.Random(0).choices(tasks, [1 / rank for rank in range(1, len(tasks) + 1)], k=count)


async def _single_reads(backend: _Backend, task_id: TaskId, redis: RedisCache | None) -> list[Figure]:
    plain = store_on(backend.catalog, backend.storage)
    digest = (await plain.resolve(ResolveProgram(task=str(task_id)))).digest
    task = str(task_id)
    reads: dict[str, Callable[[ArtifactStore], Awaitable[Any]]] = {
        "resolve": lambda store: store.resolve(ResolveProgram(task=task)),
        "fetch a program": lambda store: store.fetch_program(FetchProgram(task_id=task_id, digest=digest)),
        "get a task": lambda store: store.get_task(GetTask(task=task, include_examples=False)),
        "get a version with code": lambda store: store.get_artifact(GetArtifact(task=task, include_code=True)),
    }
    near = _Cached(backend)
    # No room in memory, so that every read goes to Redis.
    far = None if redis is None else _Cached(backend, redis, memory_bytes=0)
    figures = []
    for name, read in reads.items():
        direct = await _median_us(plain, read)
        cached = await _median_us(near.store, read)
        note = f"{backend.name} {direct:.0f} µs, memory {cached:.0f} µs"
        if far is not None:
            note += f", Redis alone {await _median_us(far.store, read):.0f} µs"
        figures.append(Figure(NAME, f"{name}: {backend.name} to cache", direct / cached, "x", note))
    for each in filter(None, (near, far)):
        await each.reads.close()
    return figures


async def _median_us(store: ArtifactStore, read: Callable[[ArtifactStore], Awaitable[Any]]) -> float:
    await read(store)
    times = []
    for _ in range(_READS):
        started = time.perf_counter()
        await read(store)
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e6


class _CountingCatalog:
    """Counts the tasks that it is asked for."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._catalog, name)

    async def task(self, key: TaskKey) -> Task:
        self.asked += 1
        return await self._catalog.task(key)


async def _stampede(backend: _Backend, task_id: TaskId) -> list[Figure]:
    counting: Any = _CountingCatalog(backend.catalog)
    cached = _Cached(_Backend(backend.name, counting, backend.storage, backend.executions))
    started = time.perf_counter()
    await asyncio.gather(*(cached.catalog.task(task_id) for _ in range(_STAMPEDE)))
    elapsed_ms = (time.perf_counter() - started) * 1000
    await cached.reads.close()
    note = f"{_STAMPEDE} concurrent misses of one task on {backend.name}, {elapsed_ms:.0f} ms for all"
    return [Figure(NAME, f"stampede, {backend.name}", counting.asked, "loads", note)]


async def _traffic(backend: _Backend, tasks: Sequence[TaskId]) -> list[Figure]:
    figures = []
    traffic = _zipf(tasks, _TRAFFIC)
    for warmed in (False, True):
        cached = _Cached(backend)
        started = time.perf_counter()
        if warmed:
            await cached.warm()
        warming_ms = (time.perf_counter() - started) * 1000
        before = cached.counts()
        first = [await _execution_us(cached.store, task_id) for task_id in traffic[:_FIRST]]
        at_first = _ratio(before, cached.counts())
        for task_id in traffic[_FIRST:]:
            await _execution_us(cached.store, task_id)
        name = f"{'warm' if warmed else 'cold'} start, {backend.name}"
        note = f"resolve and fetch, {_TASKS} tasks, Zipf" + (f"; warming took {warming_ms:.0f} ms" if warmed else "")
        p95 = statistics.quantiles(first, n=20)[-1]
        figures += [
            Figure(NAME, f"{name}: hit ratio of {_TRAFFIC}", _ratio(before, cached.counts()) * 100, "%", note),
            Figure(NAME, f"{name}: hit ratio of the first {_FIRST}", at_first * 100, "%", note),
            Figure(NAME, f"{name}: the first {_FIRST}, mean", statistics.fmean(first), "µs", f"p95 {p95:.0f} µs"),
        ]
        await cached.reads.close()
    return figures


async def _execution_us(store: ArtifactStore, task_id: TaskId) -> float:
    """What an executor asks for that does not know the task."""
    started = time.perf_counter()
    resolved = await store.resolve(ResolveProgram(task=str(task_id)))
    await store.fetch_program(FetchProgram(task_id=task_id, digest=resolved.digest))
    return (time.perf_counter() - started) * 1e6


def _ratio(before: tuple[float, float], after: tuple[float, float]) -> float:
    hits, misses = after[0] - before[0], after[1] - before[1]
    return hits / (hits + misses)
