"""Valid objects for the tests of the artifact store; a test changes the one thing it is about."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from pymongo import MongoClient

from loopai_artifact_store.adapters.azure_storage import AzureStorage
from loopai_artifact_store.adapters.file_storage import FileStorage, prepare_storage
from loopai_artifact_store.adapters.memory_cache import MemoryCache
from loopai_artifact_store.adapters.memory_catalog import MemoryCatalog
from loopai_artifact_store.adapters.memory_storage import MemoryStorage
from loopai_artifact_store.adapters.mongo_backends import MongoBackends, open_mongo
from loopai_artifact_store.adapters.redis_cache import RedisCache
from loopai_artifact_store.adapters.sqlite_catalog import SqliteCatalog, prepare_catalog
from loopai_artifact_store.adapters.sqlite_executions import SqliteExecutionLog, prepare_executions
from loopai_artifact_store.labelling import Labeller
from loopai_artifact_store.metrics import CacheMetrics, StoreMetrics
from loopai_artifact_store.ports import ArtifactStorage, Cache, Catalog
from loopai_artifact_store.reads import CachedReads
from loopai_artifact_store.service import ArtifactStore
from loopai_common.contracts.artifacts import PublishArtifact, ValidationReport
from loopai_common.contracts.base import GenerationId, TaskId
from loopai_common.contracts.execution import ExecutionRecord
from loopai_common.contracts.tasks import CreateTask, TaskDefinition
from loopai_common.identifiers import new_id, new_uuid
from tests.support.servers import Mongo

CODE = "def run(input):\n    return 'ham'\n"


def definition(name: str | None = None, **changes: Any) -> TaskDefinition:
    """A definition; with a name of its own unless one is given."""
    values: dict[str, Any] = {
        "name": name or f"task-{new_id()[-12:]}x",
        "description": "Tells spam from ham.",
        "input_schema": {"type": "object"},
        "output_schema": {"type": "string"},
        "examples": [{"input": {"text": "hello"}, "output": "ham"}],
    }
    return TaskDefinition.model_validate(values | changes)


def creating(name: str | None = None, key: str | None = None, **changes: Any) -> CreateTask:
    """A command that creates a task."""
    return CreateTask(definition=definition(name, **changes), idempotency_key=key)


def publishing(task_id: TaskId, **changes: Any) -> PublishArtifact:
    """A command that publishes the next version, and activates it."""
    values: dict[str, Any] = {"task_id": task_id, "generation_id": GenerationId(new_uuid()), "code": CODE}
    return PublishArtifact.model_validate(values | changes)


def validation(accuracy: float) -> ValidationReport:
    """A report with this accuracy."""
    return ValidationReport(
        passed=int(accuracy * 100), total=100, accuracy=accuracy, latency_p50_ms=0.1, latency_p99_ms=0.2
    )


def metrics() -> StoreMetrics:
    """Metrics in a registry of their own."""
    return StoreMetrics(CollectorRegistry())


def open_sqlite(directory: Path) -> SqliteCatalog:
    """A catalog in ``directory``; several may be open on the same one."""
    directory.mkdir(exist_ok=True)
    prepare_catalog(directory / "catalog.sqlite3")
    return SqliteCatalog(directory / "catalog.sqlite3", metrics().timer("catalog", "sqlite"))


def open_executions(directory: Path) -> SqliteExecutionLog:
    """An execution log in ``directory``; several may be open on the same one."""
    directory.mkdir(exist_ok=True)
    prepare_executions(directory / "executions.sqlite3")
    return SqliteExecutionLog(directory / "executions.sqlite3", metrics().timer("executions", "sqlite"))


def record(task_id: TaskId | None, **changes: Any) -> ExecutionRecord:
    """The record of an execution that succeeded, with an id of its own unless one is given."""
    values: dict[str, Any] = {
        "id": new_uuid(),
        "task_id": task_id,
        "program_id": "p1",
        "version": 1,
        "input": {"text": "free"},
        "output": "spam",
        "status": "success",
        "latency_ms": 0.25,
        "executed_at": datetime(2026, 1, 5, 9, tzinfo=UTC),
        "correlation_id": "c1",
    }
    return ExecutionRecord.model_validate(values | changes)


def open_files(directory: Path) -> FileStorage:
    """Program storage in ``directory``."""
    prepare_storage(directory / "artifacts")
    return FileStorage(directory / "artifacts", metrics().timer("storage", "files"))


def open_azure(connection_string: str, container: str | None = None) -> AzureStorage:
    """Program storage in a container of its own unless one is named; whoever opens it closes it."""
    container = container or f"test-{new_uuid()}"
    return AzureStorage.by_connection_string(connection_string, container, metrics().timer("storage", "azure"))


def open_mongodb(url: str, database: str) -> MongoBackends:
    """Everything in ``database``, where records of executions stay for as long as a test may want."""
    return open_mongo(url, database, metrics(), executions_kept_for=timedelta(days=10_000))


@asynccontextmanager
async def mongodb_of(server: Mongo) -> AsyncIterator[MongoBackends]:
    """Everything in an empty database. Emptying it is ten times quicker than to make the indexes in a new one."""
    opened = open_mongodb(server.url, "loopai")
    try:
        yield opened
    finally:
        await opened.database.close()
        with MongoClient[dict[str, object]](server.url, w=1, journal=False) as client:
            for name in client["loopai"].list_collection_names():
                client["loopai"][name].delete_many({})


def store_on(catalog: Catalog | None = None, storage: ArtifactStorage | None = None) -> ArtifactStore:
    """The use cases on these adapters, in memory where none is given."""
    catalog, storage = catalog or MemoryCatalog(), storage or MemoryStorage()
    return ArtifactStore(catalog, storage, metrics(), lambda: None)


def labeller_on(catalog: Catalog, storage: ArtifactStorage) -> Labeller:
    """What writes the labels and documents of these, when it is told to."""
    return Labeller(catalog, storage, poll_seconds=0.05)


def cache_metrics() -> CacheMetrics:
    """Metrics of a cache in a registry of their own."""
    return CacheMetrics(CollectorRegistry())


def open_redis(url: str, environment: str | None = None, *, timeout_seconds: float = 10.0) -> RedisCache:
    """A cache there, with an environment of its own unless one is given, and patience with a busy machine."""
    timer = metrics().timer("cache", "redis")
    return RedisCache(url, environment or new_id(), timer, timeout_seconds=timeout_seconds, probe_seconds=0.05)


def reads_through(far: Cache | None = None, *, metrics: CacheMetrics | None = None) -> CachedReads:
    """Reads through a memory of their own, and what is shared when there is such a thing."""
    observer = metrics or cache_metrics()
    return CachedReads(MemoryCache(64 * 1024 * 1024, observer), far, observer)
