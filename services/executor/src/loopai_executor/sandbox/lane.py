"""Lanes: a worker, the programs that are loaded into it, and what waits for them. All callbacks run on the event loop.

A program has a lane of its own. Those of tasks with ``isolation: group`` share lanes, so that a batch holds executions
of many of them, and a worker is woken once for all.

What arrives while a lane's worker is busy becomes its next batch. After a death with several executions unanswered
these are run again one by one, so that only the culprit fails; only a death with a single one in flight counts against
its program. With ``isolation: process`` a worker serves one batch, and the next one is loaded behind it.

A worker is replaced when it has grown old or large. Where programs share one, the next one loads what was used of late
behind it, so that they do not all wait.
"""

import asyncio
import time
from asyncio import Semaphore, Task
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any, Final, Protocol, TypeVar

import msgspec

from loopai_common.contracts.execution import ExecutionError
from loopai_common.contracts.frames import MAX_FRAME_ITEMS, AnswerKind
from loopai_common.contracts.tasks import Isolation
from loopai_common.errors import DeadlineExceeded, LoopaiError
from loopai_common.runtime.logging import get_logger
from loopai_executor.domain import Counts, DeathCounter, Jobs, Program, error_payload, kind_of
from loopai_executor.sandbox.limits import PoolLimits
from loopai_executor.sandbox.loading import WorkerDied, believable, load, refused
from loopai_executor.sandbox.process import Death, SandboxUnavailable, WorkerProcess
from loopai_executor.sandbox.protocol import Answer, Answers, encode

MAX_RESIDENTS: Final = 128
"""Programs that share a worker, at most."""

_CROWDED: Final = 0.5
"""Share of a worker's memory from which on no more programs are loaded into it."""

_MAX_BATCH_BYTES: Final = 1 << 20
_BATCH_SECONDS: Final = 0.05
_FIRST_BATCH: Final = 8
_SMOOTHING: Final = 0.3
_MAX_CALLS: Final = 1_000_000
_MAX_AGE_SECONDS: Final = 300.0
_MEMORY_CHECK_SECONDS: Final = 1.0
_WORN_MEMORY: Final = 0.75
_MAX_UNBLAMED_DEATHS: Final = 3

_SUCCESS: Final = int(AnswerKind.SUCCESS)
_PROCESS: Final = Isolation.PROCESS

T = TypeVar("T")

log = get_logger()


class Residence(Protocol):
    """What a lane needs of the pool that it is in."""

    limits: PoolLimits
    counts: Counts
    clock: Callable[[], float]
    queued: int
    renewals: Semaphore

    async def take(self) -> WorkerProcess:
        """A worker without a program; raises ``SandboxUnavailable``."""

    def own(self, work: Coroutine[Any, Any, T]) -> Task[T]:
        """Runs ``work`` as a task, which ends with the pool."""

    def forget(self, resident: "Resident") -> None:
        """The program has no lane any more."""

    def submit(self, program: Program, work: Sequence[Jobs]) -> None:
        """Queues executions for whichever lane the program is to have."""


class Resident:
    """A program in its lane, which knows it by ``number``."""

    __slots__ = ("deaths", "executions", "failures", "lane", "load_failure", "loaded", "number", "program", "used")

    def __init__(self, lane: "Lane", number: int, program: Program) -> None:
        self.lane = lane
        self.number = number
        self.program = program
        self.loaded = False
        self.used = False
        """Whether it ran since the worker was replaced."""
        self.load_failure: Answer | None = None
        self.deaths = DeathCounter()
        self.executions = 0
        self.failures = 0

    def refusal(self, now: float) -> Answer | None:
        """What everything is answered with, when the program cannot be run at ``now``, on the pool's clock."""
        if self.load_failure is not None:
            return self.load_failure
        if not self.deaths.quarantined or not self.deaths.blocks(now):
            return None
        seconds = round(self.deaths.seconds_left(now))
        message = f"the program keeps killing its worker; it is tried again in {seconds} s"
        return AnswerKind.ERROR, error_payload(ExecutionError.QUARANTINED, message)

    def died(self, now: float) -> bool:
        """Counts a worker that it killed; returns whether it is quarantined since then."""
        before = self.deaths.quarantined
        self.deaths.record(now)
        return self.deaths.quarantined and not before


_Run = tuple[Resident, Jobs]
"""Executions of one program."""

_Replacement = tuple[WorkerProcess, set[Resident]]
"""A worker, and what is loaded into it."""


class Lane:
    """A queue and its worker, started when there is work and again when it died."""

    def __init__(self, pool: Residence, *, shared: bool = False) -> None:
        self.shared = shared
        self.residents: list[Resident] = []
        self.worker: WorkerProcess | None = None
        self._pool = pool
        self._queue: deque[_Run] = deque()
        self._suspects: deque[_Run] = deque()
        self._waiting = 0
        self._batch: deque[_Run] = deque()
        """What is with the worker, and not answered yet."""
        self._running = 0
        self._wanted: dict[Resident, None] = {}
        """What is to be loaded before the next batch."""
        self._loading: Task[None] | None = None
        self._replacing: Task[_Replacement | None] | None = None
        self._pump_is_due = False
        self._closed = False
        self._numbers = 0
        self._crowded = False
        self._unblamed_deaths = 0
        self._item_seconds: float | None = None
        self._memory_checked = 0.0
        self._isolation = Isolation.CALL
        """What the worker was loaded with; the task may have been changed since."""

    @property
    def size(self) -> int:
        """Executions that are not answered yet."""
        return self._waiting + self._running

    @property
    def has_room(self) -> bool:
        """Whether another program may come to those that share the worker."""
        return self.shared and not self._crowded and len(self.residents) < MAX_RESIDENTS

    def admit(self, program: Program) -> Resident:
        """Gives a program its place."""
        resident = Resident(self, self._numbers, program)
        self._numbers += 1
        self.residents.append(resident)
        return resident

    def submit(self, resident: Resident, work: Sequence[Jobs]) -> None:
        """Queues ``work`` of a resident. A shared lane waits for what else comes in this turn of the event loop."""
        for jobs in work:
            self._pool.queued += len(jobs)
            self._waiting += len(jobs)
            self._queue.append((resident, jobs))
        if not resident.loaded or resident.deaths.quarantined:
            refusal = resident.refusal(self._pool.clock())
            if refusal is not None:
                self._answer_waiting(refusal, resident)
                return
            self._want(resident)
        if not self.shared:
            self.pump()
        elif not self._pump_is_due:
            self._pump_is_due = True
            asyncio.get_running_loop().call_soon(self._pump_now)

    def warm(self, resident: Resident) -> None:
        """Loads a resident before anybody asks for it."""
        if resident.load_failure is None:
            self._want(resident)
            self.pump()

    def pump(self) -> None:
        """Sends the next batch when the worker is free, or has loaded first what that batch needs."""
        if self._batch or self._loading is not None or self._closed:
            return
        if not (self._queue or self._suspects or self._wanted):
            return
        worker = self.worker
        if worker is not None and (not worker.alive or self._replacing is not None or self._worn(worker)):
            worker = self._replaced(worker)
        if self._wanted:
            self._loading = self._pool.own(self._load_wanted())
        elif worker is not None:
            runs = self._next_batch()
            if runs:
                self._send(worker, runs)

    def close(self, error: LoopaiError) -> None:
        """Ends the worker; what is queued is refused with ``error``."""
        self._closed = True
        if self._loading is not None:
            self._loading.cancel()
        if self._replacing is not None:
            self._replacing.cancel()
            self._replacing.add_done_callback(_end_unused)
        worker, self.worker = self.worker, None
        self._wanted.clear()
        if worker is not None:
            worker.kill(Death(ExecutionError.CRASHED, error.message, blamed=False))
        self._answer_waiting(refused(error))

    def _pump_now(self) -> None:
        self._pump_is_due = False
        self.pump()

    def _want(self, resident: Resident) -> None:
        if not resident.loaded:
            self._wanted[resident] = None

    def _worn(self, worker: WorkerProcess) -> bool:
        now = time.monotonic()
        if worker.served >= _MAX_CALLS * len(self.residents) or now - worker.born > _MAX_AGE_SECONDS:
            return True
        if not self.shared and self._isolation is not self.residents[0].program.isolation:
            return True
        if now - self._memory_checked < _MEMORY_CHECK_SECONDS:
            return False
        self._memory_checked = now
        return self._memory_share(worker) > _WORN_MEMORY

    def _memory_share(self, worker: WorkerProcess) -> float:
        """How much of its memory the worker has used up."""
        return (worker.resident_bytes() - worker.blank_bytes) / self._pool.limits.memory_bytes

    def _replaced(self, worker: WorkerProcess) -> WorkerProcess | None:
        """The worker to go on with, instead of one that is worn or dead."""
        if not self.shared or not worker.alive:
            worker.kill()
            self._worker_is_gone()
            return None
        if self._replacing is None:
            self._replacing = self._pool.own(self._replacement())
        if not self._replacing.done():
            return worker
        replacement = None if self._replacing.cancelled() else self._replacing.result()
        self._replacing = None
        worker.kill()
        if replacement is None or not replacement[0].alive:
            self._worker_is_gone()
        else:
            self._worker_is_gone(replacement[1])
            self.worker = replacement[0]
        return self.worker

    async def _replacement(self) -> _Replacement | None:
        """A worker with what was used of late; ``None`` when there is none to be had, or a program spoils it."""
        try:
            worker = await self._pool.take()
        except LoopaiError:
            return None
        loaded: set[Resident] = set()
        try:
            for resident in [resident for resident in self.residents if resident.loaded and resident.used]:
                answer = await load(worker, resident.number, resident.program, self._pool.limits)
                self._pool.counts.cold_loads += 1
                if answer[0] == AnswerKind.SUCCESS:
                    loaded.add(resident)
        except WorkerDied:
            return None
        except BaseException:
            worker.kill()
            raise
        asyncio.get_running_loop().call_soon(self.pump)
        return worker, loaded

    def _worker_is_gone(self, kept: Collection[Resident] = ()) -> None:
        """The next worker has ``kept``; what else has work is to be loaded. Other programs that share it leave."""
        self.worker = None
        self._crowded = False
        for resident in self.residents:
            resident.loaded = resident in kept
            resident.used = False
        self._wanted |= dict.fromkeys(resident for resident, _ in (*self._suspects, *self._queue))
        self._wanted = {resident: None for resident in self._wanted if not resident.loaded}
        if self.shared:
            now = self._pool.clock()
            for resident in list(self.residents):
                if not (resident.loaded or resident in self._wanted or resident.deaths.matter(now)):
                    self._leave(resident)

    def _leave(self, resident: Resident) -> None:
        self.residents.remove(resident)
        self._pool.forget(resident)

    def _next_batch(self) -> deque[_Run]:
        """The suspects one by one, then what the queue has; what nobody waits for any more is refused.

        A batch cannot be called back, so it holds what takes about ``_BATCH_SECONDS``: of a slow program, one. Of bytes
        it holds what came in one message beyond ``_MAX_BATCH_BYTES``, at most.
        """
        now = time.time()
        runs: deque[_Run] = deque()
        source, limit = (self._suspects, 1) if self._suspects else (self._queue, self._batch_limit())
        count = size = 0
        while source and count < limit and size < _MAX_BATCH_BYTES:
            resident, jobs = source.popleft()
            if jobs.sink.deadline < now:
                self._waiting -= len(jobs)
                self._pool.queued -= len(jobs)
                jobs.answer(*_EXPIRED)
                continue
            if len(jobs) > limit - count:
                jobs, others = jobs.split(limit - count)
                source.appendleft((resident, others))
            runs.append((resident, jobs))
            count += len(jobs)
            size += sum(map(len, jobs.inputs))
        return runs

    def _batch_limit(self) -> int:
        if self._item_seconds is None:
            return _FIRST_BATCH
        return max(1, min(MAX_FRAME_ITEMS, int(_BATCH_SECONDS / max(self._item_seconds, 1e-6))))

    def _send(self, worker: WorkerProcess, batch: deque[_Run]) -> None:
        count = 0
        for resident, jobs in batch:
            count += len(jobs)
            resident.executions += len(jobs)
            resident.used = True
        self._batch, self._running = batch, count
        self._waiting -= count
        counts = self._pool.counts
        counts.batches += 1
        counts.batched_items += count
        payload = encode([(resident.number, jobs.timeout_ms, jobs.inputs) for resident, jobs in batch])
        worker.submit(payload, count, self._budget, self._on_answers, self._on_death)

    def _budget(self) -> float:
        """Seconds that the next progress may take: the worker answers at the latest when the longest item is done."""
        return max(jobs.timeout_ms for _, jobs in self._batch) / 1000

    def _on_answers(self, answers: list[Answers], elapsed: float) -> None:
        count = sum(len(payloads) for _, payloads in answers)
        per_item = elapsed / count
        latency_us = int(per_item * 1e6)
        known = self._item_seconds
        self._item_seconds = per_item if known is None else known + (per_item - known) * _SMOOTHING
        self._pool.counts.ran(count, elapsed)
        self._running -= count
        self._pool.queued -= count
        for kind, payloads in answers:
            self._hand_out(kind, payloads, latency_us)
        if not self._batch:
            self._unblamed_deaths = 0
            if self._isolation is _PROCESS:
                self._renew()
            self.pump()

    def _hand_out(self, kind: int, payloads: list[msgspec.Raw], latency_us: int) -> None:
        """Gives answers to those of the batch that wait for the next ones."""
        while payloads:
            resident, jobs = self._batch.popleft()
            if len(jobs) > len(payloads):
                jobs, others = jobs.split(len(payloads))
                self._batch.appendleft((resident, others))
            answered, payloads = payloads[: len(jobs)], payloads[len(jobs) :]
            if kind == _SUCCESS:
                jobs.sink.answer(jobs.indexes, kind, answered, latency_us)
                continue
            resident.failures += len(jobs)
            for index, payload in zip(jobs.indexes, answered, strict=True):
                believed, what = believable((kind, payload))
                jobs.sink.answer((index,), believed, (what,), latency_us)

    def _renew(self) -> None:
        """Ends the worker, and has the next one ready before it is needed."""
        if self.worker is not None:
            self.worker.kill()
        self._worker_is_gone()
        self._want(self.residents[0])

    def _on_death(self, death: Death) -> None:
        unanswered = [(resident, job) for resident, jobs in self._batch for job in jobs.each()]
        self._batch.clear()
        self._running = 0
        self._pool.counts.kills[death.error.value] += 1
        culprit = None
        for resident, _ in unanswered:  # what runs again, or is answered below, counts there
            resident.executions -= 1
        if not death.blamed:
            self._unblamed_deaths += 1
        if not death.blamed and self._unblamed_deaths > _MAX_UNBLAMED_DEATHS:
            refusal = refused(SandboxUnavailable("the sandbox keeps being restarted; try again"))
            for resident, job in unanswered:
                self._finish(resident, job, refusal)
        elif death.blamed and len(unanswered) == 1:
            culprit, job = unanswered[0]
            self._finish(culprit, job, (kind_of(death.error), error_payload(death.error, death.message)))
        else:
            self._waiting += len(unanswered)
            if death.blamed:
                self._suspects.extend(unanswered)
            else:
                self._suspects.extendleft(reversed(unanswered))
        self._worker_is_gone()
        if culprit is not None:
            self._blame(culprit)
        self.pump()

    def _blame(self, resident: Resident) -> None:
        """Counts a worker that the resident killed; in quarantine what waits for it is answered."""
        now = self._pool.clock()
        if resident.died(now):
            self._pool.counts.quarantines += 1
            log.warning("program_quarantined", task_id=resident.program.task_id, version=resident.program.version)
        refusal = resident.refusal(now)
        if refusal is not None:
            self._answer_waiting(refusal, resident)

    async def _load_wanted(self) -> None:
        try:
            while self._wanted:
                await self._load(next(iter(self._wanted)))
        except LoopaiError as error:
            self._wanted.clear()
            self._answer_waiting(refused(error))
        finally:
            self._loading = None
        self.pump()

    async def _load(self, resident: Resident) -> None:
        if self.worker is not None and not self.worker.alive:
            self._worker_is_gone()
        worker = self.worker
        if worker is None:
            worker = self.worker = await self._take(resident.program.isolation)
            self._isolation = resident.program.isolation
        counts = self._pool.counts
        try:
            answer = await load(worker, resident.number, resident.program, self._pool.limits)
        except WorkerDied as error:
            counts.failed_loads += 1
            counts.kills[error.death.error.value] += 1
            self._worker_is_gone()
            if error.death.blamed:
                message = f"while it was loaded: {error.death.message}"
                self._answer_waiting((AnswerKind.ERROR, error_payload(ExecutionError.LOAD_FAILED, message)), resident)
                self._blame(resident)
            return
        counts.cold_loads += 1
        self._wanted.pop(resident, None)
        if self.shared:
            self._crowded = self._memory_share(worker) > _CROWDED
        if answer[0] == AnswerKind.SUCCESS:
            resident.loaded = True
        elif self._crowded and any(other.loaded for other in self.residents):
            self._move(resident)
        else:
            counts.failed_loads += 1
            resident.load_failure = answer
            self._answer_waiting(answer, resident)
            if not self.shared:
                worker.kill()
                self._worker_is_gone()

    async def _take(self, isolation: Isolation) -> WorkerProcess:
        if isolation is not _PROCESS:
            return await self._pool.take()
        async with self._pool.renewals:
            return await self._pool.take()

    def _move(self, resident: Resident) -> None:
        """Sends a program elsewhere for which there was no memory left beside the others."""
        work = [jobs for _, jobs in self._taken_out(resident)]
        self._leave(resident)
        count = sum(map(len, work))
        self._pool.queued -= count
        try:
            self._pool.submit(resident.program, work)
        except LoopaiError as error:
            self._pool.queued += count
            for jobs in work:
                self._finish(resident, jobs, refused(error))

    def _answer_waiting(self, answer: Answer, resident: Resident | None = None) -> None:
        """Answers what waits, of all residents or of one."""
        for owner, jobs in self._taken_out(resident):
            self._finish(owner, jobs, answer)

    def _taken_out(self, resident: Resident | None) -> list[_Run]:
        """What waits, of all residents or of one; it does so no longer."""
        taken: list[_Run] = []
        for queue in (self._suspects, self._queue):
            runs = list(queue)
            queue.clear()
            for run in runs:
                (taken if resident is None or run[0] is resident else queue).append(run)
        if resident is not None:
            self._wanted.pop(resident, None)
        self._waiting -= sum(len(jobs) for _, jobs in taken)
        return taken

    def _finish(self, resident: Resident, jobs: Jobs, answer: Answer) -> None:
        self._pool.queued -= len(jobs)
        if answer[0] != AnswerKind.REFUSED:
            resident.executions += len(jobs)
            resident.failures += len(jobs)
        jobs.answer(*answer)


def _end_unused(replacing: Task[_Replacement | None]) -> None:
    """Ends a worker that was made ready for a lane that is closed."""
    if not replacing.cancelled() and replacing.exception() is None:
        replacement = replacing.result()
        if replacement is not None:
            replacement[0].kill()


_EXPIRED: Final = refused(DeadlineExceeded("the time given for this request is used up"))
