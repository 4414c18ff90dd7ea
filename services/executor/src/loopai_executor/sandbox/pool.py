"""Lanes: one for each program, its worker, and what waits for it. All callbacks run on the event loop.

What arrives while a lane's worker is busy becomes its next batch. After a death with several executions unanswered
these are run again one by one, so that only the culprit fails; only a death with a single one in flight counts against
the program. With ``isolation: process`` a worker serves one batch, and the next one is loaded behind it.
"""

import asyncio
import contextlib
import time
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final

import msgspec

from loopai_common.contracts.execution import ExecutionError
from loopai_common.contracts.failure import Failure
from loopai_common.contracts.frames import AnswerKind
from loopai_common.contracts.tasks import Isolation
from loopai_common.errors import DeadlineExceeded, LoopaiError, Overloaded, ShuttingDown
from loopai_common.runtime.errors import failure_of
from loopai_common.runtime.logging import get_logger
from loopai_common.runtime.service import StartRefused
from loopai_executor.domain import MAX_BATCH, Counts, DeathCounter, Job, Program, error_payload, kind_of
from loopai_executor.sandbox import process
from loopai_executor.sandbox.cgroups import SandboxGroup
from loopai_executor.sandbox.process import (
    Death,
    SandboxUnavailable,
    WorkerProcess,
    WorkerUsage,
    Zygote,
)
from loopai_executor.sandbox.protocol import Answer, LoadRequest, ZygoteOptions, encode

_MAX_BATCH_BYTES: Final = 1 << 20
_BATCH_SECONDS: Final = 0.05
_FIRST_BATCH: Final = 8
_SMOOTHING: Final = 0.3
_MAX_CALLS: Final = 1_000_000
_MAX_AGE_SECONDS: Final = 300.0
_CPU_SECONDS: Final = 900
_MEMORY_CHECK_SECONDS: Final = 1.0
_WORN_MEMORY: Final = 0.75
_ZYGOTE_WAIT_SECONDS: Final = 5.0
_RESTART_DELAYS: Final = (0.05, 0.2, 1.0, 5.0)
_MAX_UNBLAMED_DEATHS: Final = 3
_DRAIN_POLL_SECONDS: Final = 0.01

_SUCCESS: Final = int(AnswerKind.SUCCESS)
_timeout_of = attrgetter("timeout_ms")
_ERROR_PAYLOAD: Final = msgspec.json.Decoder(tuple[ExecutionError, str])

log = get_logger()


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """``memory_bytes`` of a worker and ``output_bytes`` of an execution; the rest counts programs, jobs, workers."""

    memory_bytes: int
    output_bytes: int
    load_timeout_ms: int
    max_programs: int
    max_queued_items: int
    spare_workers: int
    degraded: bool


class WorkerDied(Exception):
    """A worker died while it loaded a program."""

    def __init__(self, death: Death) -> None:
        super().__init__(death.message)
        self.death = death


class Lane:
    """A program's queue and its worker, started when there is work and again when it died."""

    def __init__(self, pool: "Pool", program: Program) -> None:
        self.program = program
        self._pool = pool
        self._queue: deque[Job] = deque()
        self._suspects: deque[Job] = deque()
        self._batch: list[Job] = []
        self._answered = 0
        self._worker: WorkerProcess | None = None
        self._starting: asyncio.Task[None] | None = None
        self._deaths = DeathCounter()
        self._unblamed_deaths = 0
        self._load_failure: Answer | None = None
        self.executions = 0
        self.failures = 0
        self._item_seconds: float | None = None
        self._memory_checked = 0.0
        self._isolation = program.isolation
        """What the worker was loaded with; the task may have been changed since."""

    @property
    def size(self) -> int:
        """Executions that are not answered yet."""
        return len(self._queue) + len(self._suspects) + len(self._batch) - self._answered

    @property
    def warm(self) -> bool:
        """Whether its program is loaded."""
        return self._worker is not None

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queues ``jobs``."""
        self._queue.extend(jobs)
        self._pool.queued += len(jobs)
        self.pump()

    def pump(self) -> None:
        """Sends the next batch when the worker is free, or sees to it that there is a worker."""
        if self._batch or not (self._queue or self._suspects):
            return
        refusal = self._refusal()
        if refusal is not None:
            self._answer_all(refusal)
            return
        worker = self._worker
        if worker is not None and (not worker.alive or self._worn(worker)):
            worker.kill()
            worker = self._worker = None
        if worker is None:
            self.start()
            return
        batch = self._next_batch()
        if batch:
            self._send(worker, batch)

    def start(self) -> None:
        """Sees to it that a worker is being started for the program, unless there is one."""
        if self._worker is None and self._starting is None and self._load_failure is None:
            self._starting = self._pool.own(self._start())

    def close(self, error: LoopaiError) -> None:
        """Ends the worker; what is queued is refused with ``error``."""
        if self._starting is not None:
            self._starting.cancel()
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.kill(Death(ExecutionError.CRASHED, error.message, blamed=False))
        self._answer_all(refused(error))

    def _refusal(self) -> Answer | None:
        """What everything is answered with, when the program cannot be run."""
        if self._load_failure is not None:
            return self._load_failure
        if not self._deaths.quarantined:
            return None
        now = self._pool.clock()
        if not self._deaths.blocks(now):
            return None
        seconds = round(self._deaths.seconds_left(now))
        message = f"the program keeps killing its worker; it is tried again in {seconds} s"
        return AnswerKind.ERROR, error_payload(ExecutionError.QUARANTINED, message)

    def _worn(self, worker: WorkerProcess) -> bool:
        now = time.monotonic()
        if worker.served >= _MAX_CALLS or now - worker.born > _MAX_AGE_SECONDS:
            return True
        if self._isolation is not self.program.isolation:
            return True
        if now - self._memory_checked < _MEMORY_CHECK_SECONDS:
            return False
        self._memory_checked = now
        return worker.resident_bytes() - worker.blank_bytes > self._pool.limits.memory_bytes * _WORN_MEMORY

    def _next_batch(self) -> list[Job]:
        """The suspects one by one, then what the queue has; what nobody waits for any more is refused.

        A batch cannot be called back, so it holds what takes about ``_BATCH_SECONDS``: of a slow program, one.
        """
        now = time.time()
        batch: list[Job] = []
        size = 0
        source, limit = (self._suspects, 1) if self._suspects else (self._queue, self._batch_limit())
        while source and len(batch) < limit and size < _MAX_BATCH_BYTES:
            job = source.popleft()
            if job.sink.deadline < now:
                self._pool.queued -= 1
                job.sink.answer(job, *_EXPIRED, 0)
                continue
            batch.append(job)
            size += len(job.input)
        return batch

    def _batch_limit(self) -> int:
        if self._item_seconds is None:
            return _FIRST_BATCH
        return max(1, min(MAX_BATCH, int(_BATCH_SECONDS / max(self._item_seconds, 1e-6))))

    def _send(self, worker: WorkerProcess, batch: list[Job]) -> None:
        self._batch = batch
        self._answered = 0
        counts = self._pool.counts
        counts.batches += 1
        counts.batched_items += len(batch)
        payload = encode([(job.timeout_ms, job.input) for job in batch])
        worker.submit(payload, len(batch), self._budget, self._on_answers, self._on_death)

    def _budget(self) -> float:
        """Seconds that the next progress may take: the worker answers at the latest when the longest item is done."""
        longest: int = max(map(_timeout_of, self._batch[self._answered :]))
        return longest / 1000

    def _on_answers(self, answers: list[Answer], elapsed: float) -> None:
        count = len(answers)
        start = self._answered
        per_item = elapsed / count
        latency_us = int(per_item * 1e6)
        known = self._item_seconds
        self._item_seconds = per_item if known is None else known + (per_item - known) * _SMOOTHING
        self._pool.counts.ran(count, elapsed)
        for (kind, payload), job in zip(answers, self._batch[start : start + count], strict=True):
            if kind == _SUCCESS:
                job.sink.answer(job, kind, payload, latency_us)
                continue
            self.failures += 1
            if _well_formed(kind, payload):
                job.sink.answer(job, kind, payload, latency_us)
            else:
                job.sink.answer(job, *_FORGED, latency_us)
        self.executions += count
        self._answered += count
        self._pool.queued -= count
        if self._answered == len(self._batch):
            self._batch = []
            self._answered = 0
            self._unblamed_deaths = 0
            if self.program.isolation is Isolation.PROCESS:
                self._renew()
            self.pump()

    def _renew(self) -> None:
        """Ends the worker, and has the next one ready before it is needed."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.kill()
        self.start()

    def _on_death(self, death: Death) -> None:
        left = self._batch[self._answered :]
        self._batch = []
        self._answered = 0
        self._worker = None
        self._pool.counts.kills[death.error.value] += 1
        if not death.blamed:
            self._unblamed_deaths += 1
            if self._unblamed_deaths > _MAX_UNBLAMED_DEATHS:
                self._finish(left, refused(SandboxUnavailable("the sandbox keeps being restarted; try again")))
            else:
                self._suspects.extendleft(reversed(left))
        elif len(left) == 1:
            self._record_death()
            self._finish(left, (kind_of(death.error), error_payload(death.error, death.message)))
        else:
            self._suspects.extend(left)
        self.pump()

    def _record_death(self) -> None:
        before = self._deaths.quarantined
        self._deaths.record(self._pool.clock())
        if self._deaths.quarantined and not before:
            self._pool.counts.quarantines += 1
            log.warning("program_quarantined", task_id=self.program.task_id, version=self.program.version)

    async def _start(self) -> None:
        try:
            worker = await self._take()
            self._isolation = self.program.isolation
            try:
                answer = await load(worker, self.program, self._pool.limits)
            except BaseException:
                worker.kill()
                raise
            self._pool.counts.cold_loads += 1
            if answer[0] == AnswerKind.SUCCESS:
                self._worker = worker
            else:
                self._pool.counts.failed_loads += 1
                self._load_failure = answer
                worker.kill()
        except WorkerDied as error:
            self._pool.counts.failed_loads += 1
            self._pool.counts.kills[error.death.error.value] += 1
            if error.death.blamed:
                self._record_death()
                message = f"while it was loaded: {error.death.message}"
                self._answer_all((AnswerKind.ERROR, error_payload(ExecutionError.LOAD_FAILED, message)))
        except LoopaiError as error:
            self._answer_all(refused(error))
        finally:
            self._starting = None
        self.pump()

    async def _take(self) -> WorkerProcess:
        if self.program.isolation is not Isolation.PROCESS:
            return await self._pool.take()
        async with self._pool.renewals:
            return await self._pool.take()

    def _answer_all(self, answer: Answer) -> None:
        jobs = [*self._suspects, *self._queue]
        self._suspects.clear()
        self._queue.clear()
        self._finish(jobs, answer)

    def _finish(self, jobs: list[Job], answer: Answer) -> None:
        self._pool.queued -= len(jobs)
        if answer[0] != AnswerKind.REFUSED:
            self.executions += len(jobs)
            self.failures += len(jobs)
        for job in jobs:
            job.sink.answer(job, *answer, 0)


class PooledTrial:
    """A program in workers that nobody else uses: a new one after each death."""

    def __init__(self, pool: "Pool", program: Program) -> None:
        self._pool = pool
        self._program = program
        self._worker: WorkerProcess | None = None

    async def load(self) -> str | None:
        """Loads it; returns why it does not load, or ``None``."""
        worker = await self._pool.take()
        try:
            answer = await load(worker, self._program, self._pool.limits)
        except WorkerDied as error:
            return f"the program does not load: {error.death.message}"
        except BaseException:
            worker.kill()
            raise
        if answer[0] != AnswerKind.SUCCESS:
            worker.kill()
            return str(_ERROR_PAYLOAD.decode(answer[1])[1])
        self._worker = worker
        return None

    async def run(self, value: bytes, timeout_ms: int) -> tuple[int, msgspec.Raw, float]:
        """One execution: the kind of answer, its payload, the seconds it took."""
        if self._worker is None or not self._worker.alive:
            problem = await self.load()
            if problem is not None:
                return AnswerKind.ERROR, error_payload(ExecutionError.LOAD_FAILED, problem), 0.0
        assert self._worker is not None
        started = time.perf_counter()
        payload = encode([(timeout_ms, msgspec.Raw(value))])
        try:
            kind, answer = await _ask(self._worker, payload, timeout_ms / 1000)
        except WorkerDied as error:
            death = error.death
            kind, answer = kind_of(death.error), error_payload(death.error, death.message)
        else:
            if kind != AnswerKind.SUCCESS and not _well_formed(kind, answer):
                kind, answer = _FORGED
        return kind, answer, time.perf_counter() - started

    def close(self) -> None:
        """Ends the worker."""
        if self._worker is not None:
            self._worker.kill()


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
        self._lanes: OrderedDict[tuple[str, int], Lane] = OrderedDict()
        self._spares: deque[WorkerProcess] = deque()
        self._zygote: Zygote | None = None
        self._up = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._refilling = False
        self._closed = False

    @property
    def workers(self) -> int:
        """Worker processes that are there: with a program, or spare."""
        return self.warm_programs + len(self._spares)

    def busiest(self, most: int) -> list[tuple[str, int, int]]:
        """Tasks with loaded programs, at ``most`` so many: the id, its executions and those that failed, since then."""
        executions: Counter[str] = Counter()
        failures: Counter[str] = Counter()
        for lane in self._lanes.values():
            executions[lane.program.task_id] += lane.executions
            failures[lane.program.task_id] += lane.failures
        return [(task, count, failures[task]) for task, count in executions.most_common(most)]

    @property
    def warm_programs(self) -> int:
        """Programs that are loaded right now."""
        return sum(lane.warm for lane in self._lanes.values())

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
        for lane in self._lanes.values():
            lane.close(ShuttingDown("the executor is stopping; try again"))
        self._lanes.clear()
        for spare in self._spares:
            spare.kill()
        self._spares.clear()
        if self._zygote is not None:
            await self._zygote.stop()
            self._zygote = None

    def submit(self, program: Program, jobs: Sequence[Job]) -> None:
        """Queues executions; each is answered at its sink. Raises ``Overloaded``, for one program at half the room."""
        lane = self._lane(program)
        limit = self.limits.max_queued_items
        if self.queued + len(jobs) > limit or lane.size + len(jobs) > max(limit // 2, 1):
            self.counts.overloaded += len(jobs)
            raise Overloaded("too many executions are waiting; try again later")
        lane.submit(jobs)

    def warm(self, program: Program) -> None:
        """Loads a program before anybody asks for it."""
        self._lane(program).start()

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

    def _lane(self, program: Program) -> Lane:
        key = program.key
        lane = self._lanes.get(key)
        if lane is not None:
            self._lanes.move_to_end(key)
            lane.program = program
            return lane
        if self._closed:
            raise ShuttingDown("the executor is stopping; try again")
        for idle in self._idle(len(self._lanes) + 1 - self.limits.max_programs):
            self._lanes.pop(idle).close(Overloaded("the program was unloaded"))
        lane = self._lanes[key] = Lane(self, program)
        return lane

    def _idle(self, count: int) -> list[tuple[str, int]]:
        """The ``count`` least recently used lanes without work; fewer when the others are busy."""
        found: list[tuple[str, int]] = []
        if count > 0:
            for key, lane in self._lanes.items():
                if lane.size == 0:
                    found.append(key)
                    if len(found) == count:
                        break
        return found

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

    def own(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
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


async def load(worker: WorkerProcess, program: Program, limits: PoolLimits) -> Answer:
    """Gives a blank worker its program; returns its answer, or raises :class:`WorkerDied`."""
    request = LoadRequest(
        program.code,
        program.entry_point,
        program.input_schema,
        program.output_schema,
        limits.load_timeout_ms,
        limits.output_bytes,
        program.isolation is not Isolation.NONE,
    )
    answer = await _ask(worker, encode(request), limits.load_timeout_ms / 1000)
    if answer[0] == AnswerKind.SUCCESS:
        return answer
    if not _well_formed(answer[0], answer[1]):
        return _FORGED
    return answer


async def _ask(worker: WorkerProcess, payload: bytes, seconds: float) -> Answer:
    answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def on_answers(answers: list[Answer], _: float) -> None:
        if not answered.done():
            answered.set_result(answers[0])

    def on_death(death: Death) -> None:
        if not answered.done():
            answered.set_exception(WorkerDied(death))

    worker.submit(payload, 1, lambda: seconds, on_answers, on_death)
    return await answered


def refused(error: LoopaiError) -> Answer:
    """The answer of an execution that never ran."""
    return AnswerKind.REFUSED, msgspec.Raw(failure_of(error).model_dump_json().encode())


def _well_formed(kind: int, payload: msgspec.Raw) -> bool:
    """Whether a failure that a worker reports has the shape of one; anybody may have written it."""
    with contextlib.suppress(msgspec.DecodeError, ValueError, RecursionError):
        if kind in (AnswerKind.ERROR, AnswerKind.TIMEOUT):
            return len(_ERROR_PAYLOAD.decode(payload)[1]) <= 1000
        if kind == AnswerKind.REFUSED:
            return Failure.model_validate_json(bytes(payload)).code in _REFUSALS_OF_A_WORKER
    return False


def _delays() -> Iterator[float]:
    yield from _RESTART_DELAYS
    while True:
        yield _RESTART_DELAYS[-1]


_REFUSALS_OF_A_WORKER: Final = frozenset({"input_schema_violation", "malformed_json"})
_EXPIRED: Final = refused(DeadlineExceeded("the time given for this request is used up"))
_FORGED: Final[Answer] = (
    AnswerKind.ERROR,
    error_payload(ExecutionError.CRASHED, "the worker broke the protocol: its failure is none"),
)
