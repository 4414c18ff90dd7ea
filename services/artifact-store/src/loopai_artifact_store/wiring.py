"""The composition root: which adapters the artifact store runs with, and in which order they open and close."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from nats.errors import Error as NatsError
from starlette.applications import Starlette

from loopai_artifact_store import handlers
from loopai_artifact_store.adapters.file_storage import FileStorage, prepare_storage
from loopai_artifact_store.adapters.jetstream_events import JetStreamEvents
from loopai_artifact_store.adapters.sqlite_catalog import SqliteCatalog, prepare_catalog
from loopai_artifact_store.metrics import StoreMetrics
from loopai_artifact_store.outbox import Outbox
from loopai_artifact_store.ports import Catalog
from loopai_artifact_store.service import ArtifactStore
from loopai_artifact_store.settings import ArtifactStoreSettings
from loopai_common.contracts import subjects
from loopai_common.errors import BusUnavailable, StoreUnavailable
from loopai_common.runtime.broker import Bus
from loopai_common.runtime.health import Readiness
from loopai_common.runtime.logging import get_logger
from loopai_common.runtime.metrics import create_registry
from loopai_common.runtime.service import StartRefused, operations_app

SERVICE: Final = "artifact-store"
_OUTBOX_POLL_SECONDS: Final = 1.0
_CENSUS_SECONDS: Final = 5.0
_SWEEP_SECONDS: Final = 3600.0

log = get_logger()


def build(settings: ArtifactStoreSettings) -> Starlette:
    """The service's application; raises :class:`StartRefused` when its data directory cannot be used."""
    catalog_path = settings.data_dir / "catalog.sqlite3"
    programs_path = settings.data_dir / "artifacts"
    try:
        prepare_storage(programs_path)
        prepare_catalog(catalog_path)
    except StoreUnavailable as error:
        raise StartRefused(
            f"the data directory '{settings.data_dir}' cannot be used: {error.message}; "
            "make it writable for this user, or set LOOPAI_DATA_DIR to another one"
        ) from error

    registry = create_registry(SERVICE)
    metrics = StoreMetrics(registry)
    bus = Bus(SERVICE, settings, registry)
    catalog = SqliteCatalog(catalog_path, metrics.timer("catalog", "sqlite"))
    storage = FileStorage(programs_path, metrics.timer("storage", "files"))
    outbox = Outbox(catalog, JetStreamEvents(bus), poll_seconds=_OUTBOX_POLL_SECONDS)
    store = ArtifactStore(catalog, storage, metrics, on_commit=outbox.wake)

    readiness = Readiness()
    readiness.add("nats", partial(_check_connected, bus))
    readiness.add("commands", partial(_check_consumer, bus), required=False)
    readiness.add("catalog", catalog.check)
    readiness.add("storage", storage.check)
    bus.answer_ping(readiness)
    handlers.register(bus, store)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(catalog.close)
            # Before the bus, so that it still delivers while the bus drains.
            for task in (outbox.run(), _count(catalog, metrics), _sweep(store)):
                await stack.enter_async_context(_running(task))
            stack.push_async_callback(bus.drain)
            await bus.start()
            yield

    return operations_app(lifespan, readiness, registry)


async def _check_connected(bus: Bus) -> None:
    if not bus.connected:
        raise BusUnavailable("not connected to NATS")


async def _check_consumer(bus: Bus) -> None:
    # A consumer that somebody deleted goes silent and nothing else shows it.
    try:
        await bus.jetstream.consumer_info(subjects.COMMANDS_STREAM, handlers.CREATE_CONSUMER)
    except NatsError as error:
        raise BusUnavailable(
            "the consumer of commands does not answer; restart this instance if it stays so"
        ) from error


@asynccontextmanager
async def _running(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _count(catalog: Catalog, metrics: StoreMetrics) -> None:
    while True:
        with suppress(StoreUnavailable):  # the timer of the operation counts it; the gauges stay as they were
            metrics.show(await catalog.census(), await catalog.backlog())
        await asyncio.sleep(_CENSUS_SECONDS)


async def _sweep(store: ArtifactStore) -> None:
    while True:
        try:
            now = datetime.now(UTC)
            log.info("swept", programs=await store.sweep_orphans(now), claims=await store.purge_claims(now))
        except StoreUnavailable as error:
            log.warning("sweep_failed", reason=error.message)
        await asyncio.sleep(_SWEEP_SECONDS)
