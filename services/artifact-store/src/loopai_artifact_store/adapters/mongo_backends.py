"""Everything that MongoDB can keep, on one pool of connections."""

from dataclasses import dataclass
from datetime import timedelta

from loopai_artifact_store.adapters.mongo import Indexes, MongoDatabase, prepare_mongo
from loopai_artifact_store.adapters.mongo_catalog import CATALOG_INDEXES, MongoCatalog
from loopai_artifact_store.adapters.mongo_executions import MongoExecutionLog, execution_indexes
from loopai_artifact_store.adapters.mongo_storage import STORAGE_INDEXES, MongoStorage
from loopai_artifact_store.metrics import StoreMetrics


@dataclass(frozen=True, slots=True)
class MongoBackends:
    """The adapters on one database; those that are not used cost nothing."""

    catalog: MongoCatalog
    executions: MongoExecutionLog
    storage: MongoStorage
    database: MongoDatabase


def open_mongo(
    url: str,
    database: str,
    metrics: StoreMetrics,
    *,
    executions_kept_for: timedelta,
    catalog: bool = True,
    programs: bool = True,
) -> MongoBackends:
    """Prepares what is kept there and opens it; raises as :func:`prepare_mongo`."""
    indexes: Indexes = {
        **(CATALOG_INDEXES | execution_indexes(executions_kept_for) if catalog else {}),
        **(STORAGE_INDEXES if programs else {}),
    }
    prepare_mongo(url, database, indexes)
    opened = MongoDatabase(url, database)
    return MongoBackends(
        MongoCatalog(opened, metrics.timer("catalog", "mongodb")),
        MongoExecutionLog(opened, metrics.timer("executions", "mongodb")),
        MongoStorage(opened, metrics.timer("storage", "mongodb")),
        opened,
    )
