"""The composition root of the executor."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from starlette.applications import Starlette

from loopai_common.errors import BusUnavailable, Overloaded
from loopai_common.runtime.broker import Bus
from loopai_common.runtime.health import Readiness
from loopai_common.runtime.logging import get_logger
from loopai_common.runtime.metrics import create_registry
from loopai_common.runtime.rpc import RpcClient
from loopai_common.runtime.service import operations_app
from loopai_common.runtime.worker_metrics import Siblings
from loopai_common.runtime.workers import Worker
from loopai_executor import handlers
from loopai_executor.adapters.jetstream_records import JetStreamRecords
from loopai_executor.adapters.nats_part_publisher import NatsPartPublisher
from loopai_executor.adapters.nats_program_source import NatsProgramSource
from loopai_executor.catalogue import Catalogue
from loopai_executor.commands import CommandService
from loopai_executor.domain import Counts
from loopai_executor.metrics import HIGHEST, ExecutorMetrics
from loopai_executor.recording import Recorder
from loopai_executor.sandbox.cgroups import GroupLimits, sandbox_group
from loopai_executor.sandbox.limits import PoolLimits
from loopai_executor.sandbox.pool import Pool, verify_sandbox
from loopai_executor.service import ExecutionService
from loopai_executor.settings import ExecutorSettings

SERVICE = "executor"
_PROCESSES = 64
"""What a sandbox may have besides two workers a program (one may be ending): its zygotes, and trials."""

log = get_logger()


def build(settings: ExecutorSettings, worker: Worker | None = None) -> Starlette:
    """The executor, not started yet. Raises ``StartRefused`` when the sandbox would not hold on this machine."""
    limits = PoolLimits(
        memory_bytes=settings.memory_bytes,
        output_bytes=settings.output_bytes,
        load_timeout_ms=settings.load_timeout_ms,
        max_programs=settings.max_programs,
        max_queued_items=settings.max_queued_items,
        spare_workers=settings.spare_workers,
        degraded=settings.sandbox == "degraded",
    )
    missing = verify_sandbox(limits)
    if missing:
        log.warning("sandbox_degraded", missing=missing)
    registry = create_registry(SERVICE)
    siblings = None if worker is None else Siblings(worker, registry, highest=HIGHEST)
    bus = Bus(SERVICE, settings, registry)
    counts = Counts()
    pool = Pool(limits, counts)
    ExecutorMetrics(counts, pool, registry)
    catalogue = Catalogue(NatsProgramSource(RpcClient(bus)), counts, max_code_bytes=settings.max_code_cache_bytes)
    records = JetStreamRecords(bus)
    recorder = Recorder(records, counts, max_per_second=settings.max_sampled_per_second)
    service = ExecutionService(
        catalogue, pool, NatsPartPublisher(bus), recorder, counts, default_timeout_ms=settings.default_timeout_ms
    )
    commands = CommandService(service, pool, records, max_queued_items=settings.max_queued_items)
    readiness = _readiness(bus, pool, settings)
    group_limits = GroupLimits(
        settings.sandbox_memory_bytes, processes=2 * (settings.max_programs + settings.spare_workers) + _PROCESSES
    )
    handlers.register(bus, service, commands)
    bus.answer_ping(readiness)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if siblings is not None:
                await stack.enter_async_context(siblings.told())
            await pool.start(await stack.enter_async_context(sandbox_group(group_limits)))
            stack.push_async_callback(pool.stop)
            stack.push_async_callback(service.close)
            stack.push_async_callback(recorder.close)
            await bus.start()
            stack.push_async_callback(bus.drain)
            yield

    return operations_app(lifespan, readiness, registry, siblings)


def _readiness(bus: Bus, pool: Pool, settings: ExecutorSettings) -> Readiness:
    readiness = Readiness()

    async def nats() -> None:
        if not bus.connected:
            raise BusUnavailable("not connected to NATS")

    async def sandbox() -> str | None:
        if not pool.available:
            raise Overloaded("the sandbox is being restarted")
        missing = list(pool.missing)
        if settings.sandbox_memory_bytes is not None and pool.group is None:
            missing.append("no control group is delegated, so LOOPAI_EXECUTOR_SANDBOX_MEMORY_BYTES does not hold")
        return f"degraded: {'; '.join(missing)}" if missing else None

    readiness.add("nats", nats)
    readiness.add("sandbox", sandbox)
    return readiness
