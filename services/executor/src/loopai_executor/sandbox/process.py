"""The executor's side of the sandbox: the zygote it starts, and the workers it talks to and distrusts.

A worker's bytes come from an attacker. A reply with the wrong number of answers, that is not JSON, too long, or that
nobody asked for ends the worker; so does a missed hard deadline. Callbacks, not futures: one batch is one call.
"""

import array
import asyncio
import contextlib
import fcntl
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from loopai_common.contracts.execution import ExecutionError
from loopai_common.errors import LoopaiError
from loopai_common.runtime.service import StartRefused
from loopai_executor.sandbox.cgroups import SandboxGroup
from loopai_executor.sandbox.protocol import (
    ANSWERS,
    FRAME_SLACK_BYTES,
    FROM_ZYGOTE,
    LENGTH,
    MAX_MESSAGE,
    TICK_SECONDS,
    Answers,
    Exited,
    Fork,
    Forked,
    NotForked,
    Ready,
    Refused,
    ZygoteOptions,
    encode,
    frame,
)

_READ_BYTES: Final = 1 << 14
_PIPE_BYTES: Final = 1 << 18
_START_SECONDS: Final = 30.0
_FORK_SECONDS: Final = 10.0
_EXIT_REPORT_SECONDS: Final = 2.0
_STOP_SECONDS: Final = 5.0
GRACE_SECONDS: Final = 0.2
"""What a worker gets on top of an item's time, so that its own clock comes first."""

_SILENT: Final = "the sandbox did not start: its zygote does not answer"


class SandboxUnavailable(LoopaiError):
    """There is no zygote to fork workers from; a new one is being started."""

    code = "overloaded"
    retryable = True


@dataclass(frozen=True, slots=True)
class Death:
    """Why a worker is gone. ``blamed`` says whether its program is the cause."""

    error: ExecutionError
    message: str
    blamed: bool = True


@dataclass(frozen=True, slots=True)
class WorkerUsage:
    """What a worker that ended had used, as the kernel counted it."""

    cpu_seconds: float
    peak_memory_bytes: int


UNEXPLAINED: Final = Death(ExecutionError.CRASHED, "the worker ended, and nobody knows how", blamed=False)

OnAnswers = Callable[[list[Answers], float], None]
"""Takes answers, in order, and the seconds since the batch was sent or the answers before."""

OnDeath = Callable[[Death], None]


class Ticker:
    """Looks after the workers that a batch is with, every 10 ms, and not at all when there are none."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._busy: set[WorkerProcess] = set()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, worker: "WorkerProcess") -> None:
        """A batch is with ``worker``."""
        self._busy.add(worker)
        if self._timer is None:
            self._timer = self._loop.call_later(TICK_SECONDS, self._tick)

    def forget(self, worker: "WorkerProcess") -> None:
        """It is answered, or the worker is gone."""
        self._busy.discard(worker)

    def _tick(self) -> None:
        self._timer = None
        now = time.perf_counter()
        for worker in tuple(self._busy):
            worker.tick(now)
        if self._busy:
            self._timer = self._loop.call_later(TICK_SECONDS, self._tick)


class WorkerProcess:
    """A locked worker. At most one batch is with it at a time."""

    def __init__(self, number: int, reads: int, writes: int, ticker: Ticker, *, output_bytes: int) -> None:
        self.number = number
        self.served = 0
        self.blank_bytes = 0
        self.born = time.monotonic()
        self.death: Death | None = None
        self._loop = asyncio.get_running_loop()
        self._reads, self._writes = reads, writes
        self._ticker = ticker
        self._frame_bytes = output_bytes + FRAME_SLACK_BYTES
        self._pidfd: int | None = None
        self._pid = 0
        self._host_pid: int | None = None
        self._open = True
        self._buffer = bytearray()
        self._expected = 0
        self._budget: Callable[[], float] = _no_time
        self._on_answers: OnAnswers | None = None
        self._on_death: OnDeath | None = None
        self._sent = 0.0
        self._since = 0.0
        self._deadline = 0.0
        self._waits_to_write = False
        self._exit: asyncio.Future[Death] = self._loop.create_future()
        for descriptor in (reads, writes):
            os.set_blocking(descriptor, False)
            with contextlib.suppress(
                OSError, AttributeError
            ):  # over the user's share of pipe memory: smaller, not wrong
                fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._loop.add_reader(reads, self._readable)

    @property
    def alive(self) -> bool:
        """Whether it can be given a batch."""
        return self._open

    @property
    def busy(self) -> bool:
        """Whether a batch is with it."""
        return self._on_answers is not None

    def submit(
        self, payload: bytes, count: int, budget: Callable[[], float], on_answers: OnAnswers, on_death: OnDeath
    ) -> None:
        """Sends a frame that is answered ``count`` times.

        ``budget`` is asked after each progress for the seconds that the next one may take. ``on_death`` is called once,
        when the worker is gone with answers missing.
        """
        self._expected = count
        self._budget, self._on_answers, self._on_death = budget, on_answers, on_death
        self._sent = self._since = time.perf_counter()  # uvloop's own clock counts whole milliseconds
        self._deadline = self._since + budget() + GRACE_SECONDS
        self._ticker.watch(self)
        self._write(frame(payload))

    def tick(self, now: float) -> None:
        """Makes a worker that is busy for long look at its clock; ends one that missed its deadline."""
        if now >= self._deadline:
            self.kill(Death(ExecutionError.TIME, "the program used up its time and did not stop when told to"))
        elif now - self._sent >= TICK_SECONDS:
            self._signal(signal.SIGALRM)

    def kill(self, death: Death | None = None) -> None:
        """Ends the worker; ``death`` is what a batch that is with it is told. Safe to call again."""
        if not self._open:
            return
        self._open = False
        self.death = death
        self._loop.remove_reader(self._reads)
        self._loop.remove_writer(self._writes)
        self._ticker.forget(self)
        self._signal_kill()
        os.close(self._reads)
        os.close(self._writes)
        on_death, self._on_death, self._on_answers = self._on_death, None, None
        if on_death is None:
            return
        if death is not None:
            on_death(death)
            return
        timer = self._loop.call_later(_EXIT_REPORT_SECONDS, self.exited, UNEXPLAINED)

        def report(exit_report: asyncio.Future[Death]) -> None:
            timer.cancel()
            on_death(exit_report.result())

        self._exit.add_done_callback(report)

    def forked(self, pid: int, pidfd: int | None) -> None:
        """Takes the handle by which the worker can be killed."""
        self._pid, self._pidfd = pid, pidfd
        if not self._open:
            self._signal_kill()

    def exited(self, death: Death) -> None:
        """Takes what it died of; :data:`UNEXPLAINED` when nobody will say."""
        if not self._exit.done():
            self._exit.set_result(death)

    def finish(self) -> None:
        """The worker is gone: takes what it said last, which may be in the pipe still, and lets go of it."""
        while self._open and self._readable():
            pass
        self.kill()

    def resident_bytes(self) -> int:
        """Its memory right now, 0 where the kernel does not say."""
        try:
            if self._host_pid is None:
                self._host_pid = _pid_of(self._pidfd, self._pid)
            with open(f"/proc/{self._host_pid}/statm", encoding="ascii") as file:
                return int(file.read().split()[1]) * resource.getpagesize()
        except OSError:
            return 0

    def _signal_kill(self) -> None:
        self._signal(signal.SIGKILL)
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(OSError):  # it is gone
            if self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, number)
            elif self._pid and sys.platform != "linux":
                os.kill(self._pid, number)

    def _readable(self) -> bool:
        """Takes what is in the pipe; returns whether there was something."""
        try:
            data = os.read(self._reads, _READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if data:
            self._receive(data)
        else:
            self.kill()
        return bool(data)

    def _receive(self, data: bytes) -> None:
        # The usual case: one read is one frame.
        if not self._buffer and len(data) >= LENGTH.size and len(data) == LENGTH.size + LENGTH.unpack_from(data)[0]:
            self._take(data[LENGTH.size :])
            return
        self._buffer += data
        while self._open and len(self._buffer) >= LENGTH.size:
            size = LENGTH.unpack_from(self._buffer)[0]
            if size > self._frame_bytes:
                self.kill(Death(ExecutionError.OUTPUT, "the worker sent more than it may"))
                return
            if len(self._buffer) < LENGTH.size + size:
                return
            payload = bytes(self._buffer[LENGTH.size : LENGTH.size + size])
            del self._buffer[: LENGTH.size + size]
            self._take(payload)

    def _take(self, payload: bytes) -> None:
        on_answers = self._on_answers
        if on_answers is None:
            self._distrust("it answered without being asked")
            return
        try:
            answers = ANSWERS.decode(payload)
            if not payload.isascii():
                payload.decode()  # slices are checked for structure only
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._distrust("its answer is not JSON")
            return
        counts = [len(payloads) for _, payloads in answers]
        count = sum(counts)
        if 0 in counts or not 0 < count <= self._expected:
            self._distrust("it answered more, or less, than it was asked")
            return
        now = time.perf_counter()
        elapsed, self._since = now - self._since, now
        self._expected -= count
        self.served += count
        if self._expected:
            on_answers(answers, elapsed)
            if self._open:
                self._deadline = now + self._budget() + GRACE_SECONDS
            return
        if self._buffer:
            self._distrust("it answered more than it was asked")
            return
        self._on_answers = self._on_death = None
        self._ticker.forget(self)
        on_answers(answers, elapsed)

    def _distrust(self, reason: str) -> None:
        self.kill(Death(ExecutionError.CRASHED, f"the worker broke the protocol: {reason}"))

    def _write(self, data: bytes | memoryview) -> None:
        try:
            sent = os.write(self._writes, data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.kill()
            return
        if sent < len(data):
            self._waits_to_write = True
            self._loop.add_writer(self._writes, self._write, memoryview(data)[sent:])
        elif self._waits_to_write:
            self._waits_to_write = False
            self._loop.remove_writer(self._writes)


class Zygote:
    """A running zygote. ``on_lost`` is called when it ends by itself, ``on_exit`` for each worker that ended."""

    def __init__(
        self,
        process: "subprocess.Popen[bytes]",
        control: socket.socket,
        ready: Ready,
        *,
        output_bytes: int,
        on_exit: Callable[[WorkerUsage], None],
        on_lost: Callable[[], None],
        group: SandboxGroup | None,
    ) -> None:
        self.namespaces = ready.namespaces
        self.missing = ready.missing
        self.pid = process.pid
        self.alive = True
        self._process = process
        self._control = control
        self._output_bytes = output_bytes
        self._on_exit, self._on_lost = on_exit, on_lost
        self._group = group
        self._loop = asyncio.get_running_loop()
        self._workers: dict[int, WorkerProcess] = {}
        self._forking: dict[int, asyncio.Future[None]] = {}
        self._numbers = 0
        self._ticker = Ticker()
        self._loop.add_reader(control.fileno(), self._readable)

    @classmethod
    async def start(
        cls,
        options: ZygoteOptions,
        *,
        output_bytes: int,
        on_exit: Callable[[WorkerUsage], None],
        on_lost: Callable[[], None],
        group: SandboxGroup | None = None,
    ) -> "Zygote":
        """Starts a zygote and waits until it has tested itself; raises :class:`StartRefused` with its reason."""
        process, control = _spawn(options, group)
        control.setblocking(False)
        try:
            async with asyncio.timeout(_START_SECONDS):
                message = await asyncio.get_running_loop().sock_recv(control, MAX_MESSAGE)
            ready = _ready(message)
        except BaseException as error:
            control.close()
            _end(process)
            if isinstance(error, TimeoutError | OSError):
                raise StartRefused(_SILENT) from error
            raise
        return cls(process, control, ready, output_bytes=output_bytes, on_exit=on_exit, on_lost=on_lost, group=group)

    async def fork(self) -> WorkerProcess:
        """A locked worker without a program; raises :class:`SandboxUnavailable`."""
        if not self.alive:
            raise SandboxUnavailable("the sandbox is being restarted; try again")
        self._numbers += 1
        number = self._numbers
        their_reads, our_writes = os.pipe()
        our_reads, their_writes = os.pipe()
        worker = WorkerProcess(number, our_reads, our_writes, self._ticker, output_bytes=self._output_bytes)
        forked = self._forking[number] = self._loop.create_future()
        self._workers[number] = worker
        try:
            socket.send_fds(self._control, [encode(Fork(number))], [their_reads, their_writes])
            async with asyncio.timeout(_FORK_SECONDS):
                await forked
        except BaseException as error:
            worker.kill()
            if isinstance(error, TimeoutError | OSError):
                raise SandboxUnavailable("the sandbox could not start a worker; try again") from error
            raise
        finally:
            self._forking.pop(number, None)
            os.close(their_reads)
            os.close(their_writes)
        return worker

    async def stop(self) -> None:
        """Kills the workers and ends the zygote; returns when the process is gone."""
        self._on_lost = _nothing
        self._lose()
        await asyncio.to_thread(_end, self._process)

    def _readable(self) -> None:
        while True:
            try:
                message, ancillary, _, _ = self._control.recvmsg(MAX_MESSAGE, socket.CMSG_SPACE(4))
            except BlockingIOError:
                return
            except OSError:
                message, ancillary = b"", []
            if not message:
                self._lose()
                return
            descriptors = array.array("i")
            for _, _, data in ancillary:
                descriptors.frombytes(data)
            told = FROM_ZYGOTE.decode(message)
            if isinstance(told, Forked):
                self._forked(told, descriptors[0] if descriptors else None)
            elif isinstance(told, Exited):
                self._exited(told)
            elif isinstance(told, NotForked):
                self._not_forked(told)

    def _forked(self, told: Forked, pidfd: int | None) -> None:
        worker = self._workers.get(told.worker)
        waiting = self._forking.get(told.worker)
        if worker is None:
            if pidfd is not None:
                os.close(pidfd)
            return
        worker.forked(told.pid, pidfd)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def _exited(self, told: Exited) -> None:
        worker = self._workers.pop(told.worker, None)
        self._on_exit(WorkerUsage(told.cpu_seconds, told.peak_memory_bytes))
        if worker is not None:
            worker.exited(self._death_of(told.exit_code))
            worker.finish()

    def _not_forked(self, told: NotForked) -> None:
        self._workers.pop(told.worker, None)
        waiting = self._forking.get(told.worker)
        if waiting is not None and not waiting.done():
            waiting.set_exception(SandboxUnavailable("the sandbox has no room for another worker; try again"))

    def _death_of(self, exit_code: int) -> Death:
        killed = exit_code == -signal.SIGKILL
        if killed and self._group is not None and not self._group.took_for_memory():
            return Death(ExecutionError.CRASHED, "the worker was killed")
        return death_of(exit_code)

    def _lose(self) -> None:
        """The zygote is gone, and the kernel has killed its workers."""
        if not self.alive:
            return
        self.alive = False
        self._loop.remove_reader(self._control.fileno())
        self._control.close()
        for waiting in self._forking.values():
            if not waiting.done():
                waiting.set_exception(SandboxUnavailable("the sandbox is being restarted; try again"))
        workers, self._workers = self._workers, {}
        lost = Death(ExecutionError.CRASHED, "the sandbox was restarted", blamed=False)
        for worker in workers.values():
            if worker.alive:
                worker.kill(lost)
            else:
                worker.exited(UNEXPLAINED)
        self._on_lost()


def verify_sandbox(options: ZygoteOptions) -> list[str]:
    """Starts a zygote, lets it test itself, and ends it; returns what is missing, which is nothing unless degraded.

    Blocks for the fraction of a second that this takes. Raises :class:`StartRefused`.
    """
    process, control = _spawn(options)
    with control:
        control.settimeout(_START_SECONDS)
        try:
            ready = _ready(control.recv(MAX_MESSAGE))
        except OSError as error:
            raise StartRefused(_SILENT) from error
        finally:
            control.close()
            _end(process)
    return ready.missing


def _spawn(
    options: ZygoteOptions, group: SandboxGroup | None = None
) -> "tuple[subprocess.Popen[bytes], socket.socket]":
    """Must run in the main thread: the kernel ends the zygote when the thread that started it ends."""
    kind = socket.SOCK_SEQPACKET if sys.platform == "linux" else socket.SOCK_DGRAM
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    command = [sys.executable, "-I", "-B", "-X", "utf8", "-m", "loopai_executor.sandbox.zygote", str(theirs.fileno())]
    with theirs:
        process = subprocess.Popen(
            command, pass_fds=(theirs.fileno(),), env={}, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
    if group is not None:
        group.add(process.pid)  # it waits for its options, so it has nothing and nobody yet
    ours.send(encode(options))
    return process, ours


def _ready(message: bytes) -> Ready:
    answer = FROM_ZYGOTE.decode(message) if message else Refused("its zygote ended; its standard error says why")
    if isinstance(answer, Ready):
        return answer
    reason = answer.reason if isinstance(answer, Refused) else "its zygote said something unexpected"
    raise StartRefused(
        f"the sandbox would not hold: {reason}. Run on a kernel that has it, or accept a weaker sandbox with "
        "LOOPAI_EXECUTOR_SANDBOX=degraded"
    )


def death_of(code: int) -> Death:
    """The limit that a worker hit, from how the kernel says it ended: its exit code, or minus the signal."""
    if code == -signal.SIGSYS:
        return Death(ExecutionError.FORBIDDEN, "the program made a system call that is not allowed")
    if code == -signal.SIGKILL:
        return Death(ExecutionError.MEMORY, "the kernel ended the worker for lack of memory")
    if code == -signal.SIGXCPU:
        return Death(ExecutionError.TIME, "the worker used up its processor time")
    if code < 0:
        return Death(ExecutionError.CRASHED, f"the worker died of {signal.Signals(-code).name}")
    return Death(ExecutionError.CRASHED, f"the worker exited with code {code}")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Waits for the zygote, which ends when its control socket is closed, and ends it when it does not."""
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(_STOP_SECONDS)


def _pid_of(pidfd: int | None, pid: int) -> int:
    """The worker's number in our own pid namespace; the zygote only knows the one in its own."""
    if pidfd is None:
        return pid
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pid:"))


def _no_time() -> float:
    return 0.0


def _nothing() -> None:
    return None
