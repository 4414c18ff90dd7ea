"""Every adapter of a port, so that one suite runs against all of them."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from loopai_artifact_store.adapters.memory_cache import MemoryCache
from loopai_artifact_store.adapters.memory_catalog import MemoryCatalog
from loopai_artifact_store.adapters.memory_executions import MemoryExecutionLog
from loopai_artifact_store.adapters.memory_storage import MemoryStorage
from loopai_artifact_store.cached import CachedCatalog, CachedStorage
from loopai_artifact_store.ports import ArtifactStorage, Cache, Catalog, ExecutionLog
from loopai_artifact_store.service import ArtifactStore
from tests.contract.artifact_store.builders import (
    cache_metrics,
    open_executions,
    open_files,
    open_redis,
    open_sqlite,
    reads_through,
    store_on,
)


@pytest.fixture(params=["memory", "sqlite", "cached"])
async def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Catalog]:
    if request.param == "memory":
        yield MemoryCatalog()
        return
    async with AsyncExitStack() as stack:
        if request.param == "sqlite":
            sqlite = open_sqlite(tmp_path)
            stack.push_async_callback(sqlite.close)
            yield sqlite
            return
        redis = open_redis(request.getfixturevalue("valkey").url)
        stack.push_async_callback(redis.close)
        reads = reads_through(redis)
        stack.push_async_callback(reads.close)
        yield CachedCatalog(MemoryCatalog(), reads)


@pytest.fixture(params=["memory", "sqlite"])
async def execution_log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ExecutionLog]:
    if request.param == "memory":
        yield MemoryExecutionLog()
        return
    sqlite = open_executions(tmp_path)
    yield sqlite
    await sqlite.close()


@pytest.fixture(params=["memory", "files", "cached"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStorage:
    if request.param == "cached":
        return CachedStorage(MemoryStorage(), reads_through())
    return MemoryStorage() if request.param == "memory" else open_files(tmp_path)


@pytest.fixture(params=["memory", "redis"])
async def cache(request: pytest.FixtureRequest) -> AsyncIterator[Cache]:
    if request.param == "memory":
        yield MemoryCache(1024 * 1024, cache_metrics())
        return
    redis = open_redis(request.getfixturevalue("valkey").url)
    yield redis
    await redis.close()


@pytest.fixture
def store(catalog: Catalog) -> ArtifactStore:
    return store_on(catalog)
