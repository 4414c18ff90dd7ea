"""The pool: lanes, the spare workers that they take, and the zygote that these are forked from.

All callbacks run on the event loop.
"""

import asyncio
import time
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any, Final, TypeVar

from loopai_common.contracts.tasks import Isolation
from loopai_common.errors import LoopaiError, Overloaded, ShuttingDown
from loopai_common.runtime.logging import get_logger
from loopai_common.runtime.service import StartRefused
from loopai_executor.domain import Counts, Jobs, Program
from loopai_executor.sandbox import process
from loopai_executor.sandbox.cgroups import SandboxGroup
from loopai_executor.sandbox.lane import Lane, Resident
from loopai_executor.sandbox.limits import PoolLimits
from loopai_executor.sandbox.process import SandboxUnavailable, WorkerProcess, WorkerUsage, Zygote
from loopai_executor.sandbox.protocol import ZygoteOptions
from loopai_executor.sandbox.trial import PooledTrial

_CPU_SECONDS: Final = 900
_ZYGOTE_WAIT_SECONDS: Final = 5.0
_RESTART_DELAYS: Final = (0.05, 0.2, 1.0, 5.0)
_DRAIN_POLL_SECONDS: Final = 0.01

T = TypeVar("T")

log = get_logger()


class Pool:
    """The lanes, the spare workers and the zygote. Start it, use it, drain it, stop it."""

    def __init__(self, limits: PoolLimits, counts: Counts, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self.counts = counts
        self.clock = clock
        self.queued = 0
        self.missing: list[str] = []
        self.group: SandboxGroup | None = None
        # Lanes that need a worker for every batch leave the zygote time for the others.
        self.renewals = asyncio.Semaphore(limits.spare_workers)
        self._lanes: OrderedDict[Lane, None] = OrderedDict()
        """The least recently used one first."""
        self._residents: dict[tuple[str, int], Resident] = {}
        self._spares: deque[WorkerProcess] = deque()
        self._zygote: Zygote | None = None
        self._up = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._refilling = False
        self._closed = False

    @property
    def workers(self) -> int:
        """Worker processes that are there: with programs, or spare."""
        return sum(lane.worker is not None for lane in self._lanes) + len(self._spares)

    def busiest(self, most: int) -> list[tuple[str, int, int]]:
        """Tasks with loaded programs, at ``most`` so many: the id, its executions and those that failed, since then."""
        executions: Counter[str] = Counter()
        failures: Counter[str] = Counter()
        for resident in self._residents.values():
            executions[resident.program.task_id] += resident.executions
            failures[resident.program.task_id] += resident.failures
        return [(task, count, failures[task]) for task, count in executions.most_common(most)]

    @property
    def warm_programs(self) -> int:
        """Programs that are loaded right now."""
        return sum(resident.loaded for resident in self._residents.values())

    @property
    def available(self) -> bool:
        """Whether there is a zygote."""
        return self._zygote is not None and self._zygote.alive

    async def start(self, group: SandboxGroup | None = None) -> None:
        """Starts the zygote and the spares, all in ``group`` where there is one; raises ``StartRefused``."""
        self.group = group
        await self._start_zygote()
        await self._refill()

    async def drain(self) -> None:
        """Waits until everything that was submitted is answered."""
        while self.queued:  # noqa: ASYNC110  # once, at the end; an event would cost the hot path
            await asyncio.sleep(_DRAIN_POLL_SECONDS)

    async def stop(self) -> None:
        """Refuses what is left, and ends every worker and the zygote."""
        self._closed = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for lane in list(self._lanes):
            self._close(lane, ShuttingDown("the executor is stopping; try again"))
        for spare in self._spares:
            spare.kill()
        self._spares.clear()
        if self._zygote is not None:
            await self._zygote.stop()
            self._zygote = None

    def submit(self, program: Program, work: Sequence[Jobs]) -> None:
        """Queues executions; each is answered at its sink. Raises ``Overloaded``, for one lane at half the room."""
        resident = self._resident(program)
        lane = resident.lane
        limit = self.limits.max_queued_items
        count = sum(map(len, work))
        if self.queued + count > limit or lane.size + count > max(limit // 2, 1):
            self.counts.overloaded += count
            raise Overloaded("too many executions are waiting; try again later")
        lane.submit(resident, work)

    def warm(self, program: Program) -> None:
        """Loads a program before anybody asks for it."""
        resident = self._resident(program)
        resident.lane.warm(resident)

    def forget(self, resident: Resident) -> None:
        """A program has lost its place in its lane."""
        key = resident.program.key
        if self._residents.get(key) is resident:
            del self._residents[key]

    @asynccontextmanager
    async def trial(self, program: Program) -> AsyncIterator[PooledTrial]:
        """A worker for this program alone, gone at the end of the context."""
        trial = PooledTrial(self, program)
        try:
            yield trial
        finally:
            trial.close()

    async def take(self) -> WorkerProcess:
        """A locked worker without a program; raises :class:`SandboxUnavailable` when there is none for five seconds."""
        try:
            async with asyncio.timeout(_ZYGOTE_WAIT_SECONDS):
                await self._up.wait()
        except TimeoutError as error:
            raise SandboxUnavailable("the sandbox is being restarted; try again") from error
        while self._spares:
            spare = self._spares.popleft()
            if spare.alive:
                self.own(self._refill())
                return spare
        return await self._fork()

    def _resident(self, program: Program) -> Resident:
        """The place of a program, a new one where it has none of the kind that its task asks for."""
        resident = self._residents.get(program.key)
        if resident is None or resident.lane.shared is not (program.isolation is Isolation.GROUP):
            resident = self._admit(program)
        resident.program = program
        self._lanes.move_to_end(resident.lane)
        return resident

    def _admit(self, program: Program) -> Resident:
        if self._closed:
            raise ShuttingDown("the executor is stopping; try again")
        before = self._residents.get(program.key)
        if before is not None and not before.lane.shared and before.lane.size == 0:
            self._close(before.lane, Overloaded("the program was unloaded"))
        shared = program.isolation is Isolation.GROUP
        lane = next((lane for lane in self._lanes if lane.has_room), None) if shared else None
        if lane is None:
            for idle in self._idle(len(self._lanes) + 1 - self.limits.max_programs):
                self._close(idle, Overloaded("the program was unloaded"))
            lane = Lane(self, shared=shared)
            self._lanes[lane] = None
        resident = self._residents[program.key] = lane.admit(program)
        return resident

    def _idle(self, count: int) -> list[Lane]:
        """The ``count`` least recently used lanes without work; fewer when the others are busy."""
        return list(islice((lane for lane in self._lanes if lane.size == 0), max(0, count)))

    def _close(self, lane: Lane, error: LoopaiError) -> None:
        del self._lanes[lane]
        lane.close(error)
        for resident in lane.residents:
            self.forget(resident)

    async def _fork(self) -> WorkerProcess:
        if self._zygote is None:
            raise SandboxUnavailable("the sandbox is being restarted; try again")
        worker = await self._zygote.fork()
        worker.blank_bytes = worker.resident_bytes()
        self.counts.worker_spawns += 1
        return worker

    async def _refill(self) -> None:
        if self._refilling:
            return
        self._refilling = True
        try:
            while len(self._spares) < self.limits.spare_workers and self.available:
                self._spares.append(await self._fork())
        except SandboxUnavailable:
            return  # the restart refills
        finally:
            self._refilling = False

    async def _start_zygote(self) -> None:
        self._zygote = await Zygote.start(
            _options(self.limits),
            output_bytes=self.limits.output_bytes,
            on_exit=self._on_exit,
            on_lost=self._on_lost,
            group=self.group,
        )
        self.missing = self._zygote.missing
        log.info("sandbox_ready", namespaces=self._zygote.namespaces, missing=self._zygote.missing)
        self._up.set()

    def _on_exit(self, usage: WorkerUsage) -> None:
        self.counts.worker_cpu_seconds += usage.cpu_seconds
        self.counts.worker_peak_memory_bytes = max(self.counts.worker_peak_memory_bytes, usage.peak_memory_bytes)

    def _on_lost(self) -> None:
        self._up.clear()
        self._spares.clear()
        log.error("sandbox_lost")
        if not self._closed:
            self.own(self._restart())

    async def _restart(self) -> None:
        for delay in _delays():
            await asyncio.sleep(delay)
            try:
                await self._start_zygote()
            except StartRefused as error:
                log.error("sandbox_restart_failed", reason=str(error))
                continue
            self.counts.zygote_restarts += 1
            await self._refill()
            return

    def own(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Runs ``work`` as a task of the pool, which :meth:`stop` ends."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def verify_sandbox(limits: PoolLimits) -> list[str]:
    """What the sandbox lacks on this machine, which is nothing unless ``limits.degraded``; raises ``StartRefused``."""
    return process.verify_sandbox(_options(limits))


def _options(limits: PoolLimits) -> ZygoteOptions:
    return ZygoteOptions(limits.memory_bytes, _CPU_SECONDS, limits.degraded)


def _delays() -> Iterator[float]:
    yield from _RESTART_DELAYS
    while True:
        yield _RESTART_DELAYS[-1]
