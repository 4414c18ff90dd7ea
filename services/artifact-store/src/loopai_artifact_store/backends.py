"""Which adapters keep the data, by the settings. The composition root, and the commands of an operator, open them."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from loopai_artifact_store.adapters.file_storage import FileStorage, prepare_directory, prepare_storage
from loopai_artifact_store.adapters.sqlite_catalog import SqliteCatalog, prepare_catalog
from loopai_artifact_store.adapters.sqlite_executions import SqliteExecutionLog, prepare_executions
from loopai_artifact_store.metrics import StoreMetrics
from loopai_artifact_store.ports import ArtifactStorage, Catalog, ExecutionLog
from loopai_artifact_store.settings import ArtifactStoreSettings, CatalogBackend, ProgramsBackend
from loopai_common.errors import StoreUnavailable
from loopai_common.runtime.service import StartRefused

if TYPE_CHECKING:
    from loopai_artifact_store.adapters.mongo_backends import MongoBackends

_CATALOG_FILE: Final = "catalog.sqlite3"

Close = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Backends:
    """What keeps the data, open until the end of ``async with``."""

    catalog: Catalog
    executions: ExecutionLog
    storage: ArtifactStorage
    closing: tuple[Close, ...]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        async with AsyncExitStack() as stack:
            for close in self.closing:
                stack.push_async_callback(close)


def open_backends(settings: ArtifactStoreSettings, metrics: StoreMetrics) -> Backends:
    """Prepares what is missing and opens it.

    Raises :class:`StartRefused` with what to do about it, and :class:`StoreUnavailable` when a server does not answer.
    """
    mongo = _open_mongo(settings, metrics)
    catalog, executions, close_catalog = _open_catalog(settings, metrics, mongo)
    storage, close_storage = _open_storage(settings, metrics, mongo)
    close_mongo = () if mongo is None else (mongo.database.close,)
    return Backends(catalog, executions, storage, (*close_mongo, *close_catalog, *close_storage))


def _open_mongo(settings: ArtifactStoreSettings, metrics: StoreMetrics) -> "MongoBackends | None":
    if settings.mongo_url is None:
        return None
    # Here, because the driver takes 8 MB and a third of a second, which the embedded store does without.
    from loopai_artifact_store.adapters.mongo_backends import open_mongo

    return open_mongo(
        settings.mongo_url.get_secret_value(),
        settings.mongo_database,
        metrics,
        executions_kept_for=timedelta(days=settings.executions_kept_days),
        catalog=settings.catalog is CatalogBackend.MONGODB,
        programs=settings.programs is ProgramsBackend.MONGODB,
    )


def has_catalog(settings: ArtifactStoreSettings) -> bool:
    """Whether there is a catalog that could be read; opening the backends would make an empty one."""
    return settings.catalog is not CatalogBackend.SQLITE or (settings.data_dir / _CATALOG_FILE).exists()


def _open_catalog(
    settings: ArtifactStoreSettings, metrics: StoreMetrics, mongo: "MongoBackends | None"
) -> tuple[Catalog, ExecutionLog, tuple[Close, ...]]:
    if settings.catalog is CatalogBackend.MONGODB:
        assert mongo is not None, "the settings ask for its address"
        return mongo.catalog, mongo.executions, ()
    catalog_path = settings.data_dir / _CATALOG_FILE
    executions_path = settings.data_dir / "executions.sqlite3"
    with _usable(settings.data_dir):
        prepare_directory(settings.data_dir)
        prepare_catalog(catalog_path)
        prepare_executions(executions_path)
    catalog = SqliteCatalog(catalog_path, metrics.timer("catalog", "sqlite"))
    executions = SqliteExecutionLog(executions_path, metrics.timer("executions", "sqlite"))
    return catalog, executions, (catalog.close, executions.close)


def _open_storage(
    settings: ArtifactStoreSettings, metrics: StoreMetrics, mongo: "MongoBackends | None"
) -> tuple[ArtifactStorage, tuple[Close, ...]]:
    if settings.programs is ProgramsBackend.MONGODB:
        assert mongo is not None, "the settings ask for its address"
        return mongo.storage, ()
    if settings.programs is ProgramsBackend.AZURE:
        return _open_azure(settings, metrics)
    path = settings.data_dir / "artifacts"
    with _usable(settings.data_dir):
        prepare_storage(path)
    return FileStorage(path, metrics.timer("storage", "files")), ()


def _open_azure(settings: ArtifactStoreSettings, metrics: StoreMetrics) -> tuple[ArtifactStorage, tuple[Close, ...]]:
    # Imported where it is chosen: the SDK takes 20 MiB that nobody else shall pay.
    from loopai_artifact_store.adapters.azure_storage import AzureStorage

    timer, secret = metrics.timer("storage", "azure"), settings.azure_connection_string
    try:
        if secret is not None:
            storage = AzureStorage.by_connection_string(secret.get_secret_value(), settings.azure_container, timer)
        else:
            storage = AzureStorage.by_identity(str(settings.azure_account_url), settings.azure_container, timer)
    except ValueError as error:
        raise StartRefused(f"the Azure storage account cannot be used: {error}") from error
    return storage, (storage.close,)


@contextmanager
def _usable(data_dir: Path) -> Iterator[None]:
    try:
        yield
    except StoreUnavailable as error:
        raise StartRefused(
            f"the data directory '{data_dir}' cannot be used: {error.message}; "
            "make it writable for this user, or set LOOPAI_DATA_DIR to another one"
        ) from error
