"""Every adapter of a port, so that one suite runs against all of them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from loopai_artifact_store.adapters.memory_catalog import MemoryCatalog
from loopai_artifact_store.adapters.memory_executions import MemoryExecutionLog
from loopai_artifact_store.adapters.memory_storage import MemoryStorage
from loopai_artifact_store.ports import ArtifactStorage, Catalog, ExecutionLog
from loopai_artifact_store.service import ArtifactStore
from tests.contract.artifact_store.builders import mongodb_of, open_executions, open_files, open_sqlite, store_on


@pytest.fixture(params=["memory", "sqlite", "mongodb"])
async def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Catalog]:
    match request.param:
        case "memory":
            yield MemoryCatalog()
        case "mongodb":
            async with mongodb_of(request.getfixturevalue("mongo")) as opened:
                yield opened.catalog
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


@pytest.fixture(params=["memory", "files", "mongodb"])
async def storage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ArtifactStorage]:
    match request.param:
        case "memory":
            yield MemoryStorage()
        case "mongodb":
            async with mongodb_of(request.getfixturevalue("mongo")) as opened:
                yield opened.storage
        case _:
            yield open_files(tmp_path)


@pytest.fixture
def store(catalog: Catalog) -> ArtifactStore:
    return store_on(catalog)
