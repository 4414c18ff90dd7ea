"""The composition root: which adapters the artifact store runs with, and in which order they open and close."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

from nats.errors import Error as NatsError
from starlette.applications import Starlette

from loopai_artifact_store import handlers
from loopai_artifact_store.adapters.jetstream_events import JetStreamEvents
from loopai_artifact_store.adapters.memory_cache import MemoryCache
from loopai_artifact_store.backends import Backends, open_backends
from loopai_artifact_store.cached import CachedCatalog, CachedStorage
from loopai_artifact_store.executions import ExecutionRecords
from loopai_artifact_store.labelling import Labeller
from loopai_artifact_store.metrics import CacheMetrics, StoreMetrics
from loopai_artifact_store.outbox import Outbox
from loopai_artifact_store.ports import Catalog
from loopai_artifact_store.reads import CachedReads
from loopai_artifact_store.service import ArtifactStore
from loopai_artifact_store.settings import ArtifactStoreSettings
from loopai_artifact_store.warming import warm
from loopai_common.contracts import subjects
from loopai_common.errors import BusUnavailable, StoreUnavailable
from loopai_common.runtime.background import running
from loopai_common.runtime.broker import Bus
from loopai_common.runtime.health import Readiness
from loopai_common.runtime.logging import get_logger
from loopai_common.runtime.metrics import create_registry
from loopai_common.runtime.service import StartRefused, operations_app

if TYPE_CHECKING:
    from loopai_artifact_store.adapters.redis_cache import RedisCache

SERVICE: Final = "artifact-store"
_START_RETRY_SECONDS: Final = 1.0
_OUTBOX_POLL_SECONDS: Final = 1.0
_LABELLER_POLL_SECONDS: Final = 1.0
_CENSUS_SECONDS: Final = 5.0
_SWEEP_SECONDS: Final = 3600.0
_CACHE_BYTES: Final = 64 * 1024 * 1024
_CONSUMERS: Final = {
    "commands": (subjects.COMMANDS_STREAM, handlers.CREATE_CONSUMER),
    "records": (subjects.EXECUTIONS_STREAM, handlers.RECORDS_CONSUMER),
}

log = get_logger()


def build(settings: ArtifactStoreSettings) -> Starlette:
    """The service's application; raises ``StartRefused`` when its data cannot be kept as the settings say."""
    registry = create_registry(SERVICE)
    metrics = StoreMetrics(registry)
    bus = Bus(SERVICE, settings, registry)
    backends = _opened(settings, metrics)
    cache_metrics = CacheMetrics(registry)
    redis = _open_redis(settings, metrics, cache_metrics)
    memory = MemoryCache(_CACHE_BYTES, cache_metrics)
    cache_metrics.show_memory(lambda: memory.entries, lambda: memory.size_bytes)
    reads = CachedReads(memory, redis, cache_metrics)
    catalog, executions = CachedCatalog(backends.catalog, reads), backends.executions
    storage = CachedStorage(backends.storage, reads)
    records = ExecutionRecords(catalog, executions, kept_for=timedelta(days=settings.executions_kept_days))
    outbox = Outbox(catalog, JetStreamEvents(bus), poll_seconds=_OUTBOX_POLL_SECONDS)
    # Past the cache: what another instance changed a moment ago must not be written over with what was before.
    labeller = Labeller(backends.catalog, backends.storage, poll_seconds=_LABELLER_POLL_SECONDS)

    def wake() -> None:
        outbox.wake()
        labeller.wake()

    store = ArtifactStore(catalog, storage, metrics, wake)

    readiness = Readiness()
    readiness.add("nats", partial(_check_connected, bus))
    for name, consumer in _CONSUMERS.items():
        readiness.add(name, partial(_check_consumer, bus, *consumer), required=False)
    readiness.add("catalog", catalog.check)
    readiness.add("executions", executions.check, required=False)
    readiness.add("storage", storage.check)
    readiness.add("cache", (redis or memory).check, required=False)
    bus.answer_ping(readiness)
    handlers.register(bus, store, records)
    handlers.follow_other_instances(bus, catalog)
    bus.on_reconnect(reads.forget_moving)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(backends)
            if redis is not None:
                stack.push_async_callback(redis.close)
                await stack.enter_async_context(running(redis.run))
            stack.push_async_callback(reads.close)
            # Before the bus, so that it still delivers while the bus drains.
            for work in (
                outbox.run,
                labeller.run,
                partial(_count, catalog, metrics),
                partial(_sweep, store, records),
                partial(warm, catalog, storage, executions, cache_metrics),
            ):
                await stack.enter_async_context(running(work))
            stack.push_async_callback(bus.drain)
            await bus.start()
            yield

    return operations_app(lifespan, readiness, registry)


def _opened(settings: ArtifactStoreSettings, metrics: StoreMetrics) -> Backends:
    # As for NATS: a server that is still starting, or away for a while, is waited for.
    while True:
        try:
            return open_backends(settings, metrics)
        except StoreUnavailable as error:
            log.warning("waiting_for_backends", reason=error.message)
            time.sleep(_START_RETRY_SECONDS)


def _open_redis(
    settings: ArtifactStoreSettings, metrics: StoreMetrics, cache_metrics: CacheMetrics
) -> "RedisCache | None":
    if settings.redis_url is None:
        return None
    # Here, because who has no Redis does without the time and the memory that its client takes.
    from loopai_artifact_store.adapters.redis_cache import RedisCache

    try:
        redis = RedisCache(settings.redis_url.get_secret_value(), settings.environment, metrics.timer("cache", "redis"))
    except ValueError as error:
        raise StartRefused(
            "LOOPAI_ARTIFACT_STORE_REDIS_URL is no address of a Redis; it begins with redis://, rediss:// or unix://"
        ) from error
    cache_metrics.show_breaker(lambda: redis.lost)
    return redis


async def _check_connected(bus: Bus) -> None:
    if not bus.connected:
        raise BusUnavailable("not connected to NATS")


async def _check_consumer(bus: Bus, stream: str, name: str) -> None:
    # A consumer that somebody deleted goes silent and nothing else shows it.
    try:
        await bus.jetstream.consumer_info(stream, name)
    except NatsError as error:
        raise BusUnavailable(f"the consumer '{name}' does not answer; restart this instance if it stays so") from error


async def _count(catalog: Catalog, metrics: StoreMetrics) -> None:
    while True:
        with suppress(StoreUnavailable):  # the timer of the operation counts it; the gauges stay as they were
            metrics.show(await catalog.census(), await catalog.backlog())
        await asyncio.sleep(_CENSUS_SECONDS)


async def _sweep(store: ArtifactStore, records: ExecutionRecords) -> None:
    while True:
        try:
            now = datetime.now(UTC)
            programs, claims = await store.sweep_orphans(now), await store.purge_claims(now)
            log.info("swept", programs=programs, claims=claims, executions=await records.sweep(now))
        except StoreUnavailable as error:
            log.warning("sweep_failed", reason=error.message)
        await asyncio.sleep(_SWEEP_SECONDS)
