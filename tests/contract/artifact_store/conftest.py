"""Every adapter of a port, so that one suite runs against all of them."""

from collections.abc import AsyncIterator
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
    mongodb_of,
    open_azure,
    open_executions,
    open_files,
    open_redis,
    open_sqlite,
    reads_through,
    store_on,
)


@pytest.fixture(params=["memory", "sqlite", "mongodb", "cached"])
async def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Catalog]:
    match request.param:
        case "memory":
            yield MemoryCatalog()
        case "mongodb":
            async with mongodb_of(request.getfixturevalue("mongo")) as opened:
                yield opened.catalog
        case "cached":
            redis = open_redis(request.getfixturevalue("valkey").url)
            reads = reads_through(redis)
            yield CachedCatalog(MemoryCatalog(), reads)
            await reads.close()
            await redis.close()
        case _:
            sqlite = open_sqlite(tmp_path)
            yield sqlite
            await sqlite.close()


@pytest.fixture(params=["memory", "sqlite", "mongodb"])
async def execution_log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ExecutionLog]:
    match request.param:
        case "memory":
            yield MemoryExecutionLog()
        case "mongodb":
            async with mongodb_of(request.getfixturevalue("mongo")) as opened:
                yield opened.executions
        case _:
            sqlite = open_executions(tmp_path)
            yield sqlite
            await sqlite.close()


@pytest.fixture(params=["memory", "files", "mongodb", "azure", "cached"])
async def storage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ArtifactStorage]:
    match request.param:
        case "memory":
            yield MemoryStorage()
        case "mongodb":
            async with mongodb_of(request.getfixturevalue("mongo")) as opened:
                yield opened.storage
        case "azure":
            azure = open_azure(request.getfixturevalue("azurite").connection_string)
            yield azure
            await azure.close()
        case "cached":
            yield CachedStorage(MemoryStorage(), reads_through())
        case _:
            yield open_files(tmp_path)


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
