"""The composition root of the api."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from fastapi import APIRouter, FastAPI

from loopai_api.application import build_application
from loopai_api.clients import ProgramClient, StoreClient, TaskWatcher, ping
from loopai_api.edge import Edge, with_cors
from loopai_api.events.bus import BusEventHistory
from loopai_api.events.bus import register as register_feed
from loopai_api.events.feed import TaskEventFeed
from loopai_api.events.streams import EventStreams
from loopai_api.execution.asynchronous import AsynchronousExecutions
from loopai_api.execution.batches import BatchMemory, BatchService
from loopai_api.execution.bus import BusCommandQueue, BusFrameSender
from loopai_api.execution.engine import ExecutionEngine
from loopai_api.execution.metrics import BatchMetrics, ExecutionMetrics, HttpMetrics
from loopai_api.execution.service import ExecutionService
from loopai_api.fastlane.lane import FastLane
from loopai_api.keyring import KeyRing
from loopai_api.protocol import ConnectionLimits
from loopai_api.routes.artifacts import artifact_routes
from loopai_api.routes.batches import batch_routes
from loopai_api.routes.changes import change_routes
from loopai_api.routes.events import event_routes
from loopai_api.routes.executions import execution_routes
from loopai_api.routes.health import health_api_routes
from loopai_api.routes.publishing import publishing_routes
from loopai_api.routes.records import record_routes
from loopai_api.routes.tasks import task_routes
from loopai_api.security import Guard
from loopai_api.settings import ApiSettings
from loopai_api.versions import VERSIONS, deprecation_headers
from loopai_common.errors import BusUnavailable
from loopai_common.keys import BadKeyFile
from loopai_common.runtime.broker import Bus
from loopai_common.runtime.health import Readiness
from loopai_common.runtime.logging import get_logger
from loopai_common.runtime.metrics import create_registry
from loopai_common.runtime.rpc import RpcClient
from loopai_common.runtime.service import StartRefused
from loopai_common.runtime.worker_metrics import Siblings
from loopai_common.runtime.workers import Worker

SERVICE = "api"

log = get_logger()


def build(settings: ApiSettings, worker: Worker | None = None) -> Edge:
    """The whole api as an ASGI application; raises :class:`StartRefused` when it must not be served like this."""
    keys = _keys(settings)
    registry = create_registry(SERVICE)
    siblings = None if worker is None else Siblings(worker, registry)
    http_metrics, execution_metrics, batch_metrics = HttpMetrics(), ExecutionMetrics(), BatchMetrics()
    for metrics in (http_metrics, execution_metrics, batch_metrics):
        registry.register(metrics)
    bus = Bus(SERVICE, settings, registry)
    rpc = RpcClient(bus)
    store = StoreClient(rpc, settings.store_timeout_seconds)
    feed = TaskEventFeed()
    register_feed(bus, feed)
    watcher = TaskWatcher(store, feed)
    event_streams = EventStreams(store, feed, BusEventHistory(bus), http_metrics, most=settings.max_event_streams)
    bus.on_reconnect(event_streams.end_all)  # they may have missed something, which their clients can ask for
    guard = Guard(
        store.task_names,
        keys,
        require_https=settings.https_required,
        trusted_proxies=settings.trusted_proxies,
    )
    sender = BusFrameSender(bus)
    engine = ExecutionEngine(
        sender,
        execution_metrics,
        queue_seconds=settings.queue_timeout_ms / 1000,
        max_pending=settings.max_pending_executions,
        max_frames=settings.max_frames_in_flight,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if siblings is not None:
                await stack.enter_async_context(siblings.told())
            await bus.start()
            stack.push_async_callback(bus.drain)
            engine.start()
            stack.callback(engine.close)
            await sender.start(engine)
            if keys is not None:
                await stack.enter_async_context(keys.followed())
            yield

    readiness = _readiness(bus, rpc, keys)
    executions = ExecutionService(engine, settings.default_timeout_ms)
    asynchronous = AsynchronousExecutions(store, BusCommandQueue(bus))
    batches = BatchService(
        engine, batch_metrics, settings.default_timeout_ms, BatchMemory(settings.max_batch_memory_bytes)
    )
    programs = ProgramClient(rpc)

    def routes(prefix: str) -> list[APIRouter]:
        """The routes of one version."""
        return [
            task_routes(prefix, store, watcher),
            change_routes(prefix, store),
            event_routes(prefix, event_streams),
            execution_routes(prefix, executions, asynchronous),
            record_routes(prefix, store),
            batch_routes(prefix, batches),
            artifact_routes(prefix, store),
            publishing_routes(prefix, store, programs),
            health_api_routes(prefix, readiness, registry, siblings),
        ]

    versioned = [router for version in VERSIONS.values() for router in routes(version.prefix)]
    outside = health_api_routes("", readiness, registry, siblings)
    app = build_application(lifespan, [outside, *versioned], guard, list(settings.deprecated_versions))
    limits = ConnectionLimits(settings.receive_timeout_seconds, settings.send_timeout_seconds, settings.max_connections)
    notices = deprecation_headers(settings.deprecated_versions)
    lane = FastLane(engine, http_metrics, settings.default_timeout_ms, guard, notices)
    return Edge(with_cors(app, settings.cors_origins), http_metrics, limits, lane, guard, notices, event_streams.stop)


def _keys(settings: ApiSettings) -> KeyRing | None:
    """The API keys. Without any, whoever reaches the port may do everything: then only this machine may reach it."""
    if settings.keys_file is not None:
        try:
            return KeyRing(settings.keys_file)
        except (OSError, BadKeyFile) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise StartRefused(
                f"the file of API keys {str(settings.keys_file)!r} cannot be used: {why}; "
                "make one with `loopai keys create --file …`"
            ) from error
    if not settings.on_loopback:
        raise StartRefused(
            f"no API keys are configured, so the api serves loopback addresses only, and {settings.host!r} is not one; "
            "set LOOPAI_API_KEYS_FILE (see `loopai keys create`), or LOOPAI_API_HOST=127.0.0.1"
        )
    log.warning("no_api_keys", consequence="everybody on this machine may do everything", host=settings.host)
    return None


def _readiness(bus: Bus, rpc: RpcClient, keys: KeyRing | None) -> Readiness:
    readiness = Readiness()

    async def nats() -> str | None:
        if not bus.connected:
            raise BusUnavailable("not connected")
        return None

    readiness.add("nats", nats)
    readiness.add("artifact-store", partial(ping, rpc, "artifact-store"))
    readiness.add("executor", partial(ping, rpc, "executor"))
    readiness.add("generator-proxy", partial(ping, rpc, "generator-proxy"), required=False)
    if keys is not None:
        readiness.add("api-keys", keys.check)
    return readiness
