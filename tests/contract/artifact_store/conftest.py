"""Every adapter of a port, so that one suite runs against all of them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from loopai_artifact_store.adapters.memory_catalog import MemoryCatalog
from loopai_artifact_store.adapters.memory_executions import MemoryExecutionLog
from loopai_artifact_store.adapters.memory_storage import MemoryStorage
from loopai_artifact_store.ports import ArtifactStorage, Catalog, ExecutionLog
from loopai_artifact_store.service import ArtifactStore
from tests.contract.artifact_store.builders import open_azure, open_executions, open_files, open_sqlite, store_on
from tests.support.servers import Azurite


@pytest.fixture(params=["memory", "sqlite"])
async def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Catalog]:
    if request.param == "memory":
        yield MemoryCatalog()
        return
    sqlite = open_sqlite(tmp_path)
    yield sqlite
    await sqlite.close()


@pytest.fixture(params=["memory", "sqlite"])
async def execution_log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ExecutionLog]:
    if request.param == "memory":
        yield MemoryExecutionLog()
        return
    sqlite = open_executions(tmp_path)
    yield sqlite
    await sqlite.close()


@pytest.fixture(params=["memory", "files", "azure"])
async def storage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ArtifactStorage]:
    if request.param == "memory":
        yield MemoryStorage()
    elif request.param == "files":
        yield open_files(tmp_path)
    else:
        azurite: Azurite = request.getfixturevalue("azurite")
        azure = open_azure(azurite.connection_string)
        yield azure
        await azure.close()


@pytest.fixture
def store(catalog: Catalog) -> ArtifactStore:
    return store_on(catalog)
