"""Several processes of one service behind one address: a small parent forks them, keeps them running, stops them.

The parent reserves the port, and every worker listens on it with a socket of its own. The parent has no event loop,
no threads and no connections, and makes no ids, so that nothing of that kind is shared by fork.

uvicorn's own supervisor would not do: it starts a dead worker again without a growing wait, kills one whose thread did
not answer a ping within seconds, shares one socket, and leaves its workers running when it is killed itself.
"""

import ctypes
import math
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

from loopai_common.runtime.logging import get_logger

EXIT_REFUSED: Final = 2
EXIT_FAILED_AT_START: Final = 3

_FIRST_BACKOFF_SECONDS: Final = 0.1
_LONGEST_BACKOFF_SECONDS: Final = 10.0
_STEADY_SECONDS: Final = 30.0
_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_SIGNALS: Final = (*_STOP_SIGNALS, signal.SIGCHLD)
_PR_SET_PDEATHSIG: Final = 1

log = get_logger()


@dataclass(frozen=True, slots=True)
class Worker:
    """What a worker process knows of itself: its seat (0 to ``count`` - 1), and where its siblings are met.

    A worker that is started again takes the seat of the one that died.
    """

    seat: int
    count: int
    directory: Path


def reserve(host: str, port: int) -> list[socket.socket]:
    """Takes the port for this process and its workers with sockets that never listen; 0 takes a free one.

    Raises :class:`OSError` when somebody listens there already, with ``SO_REUSEPORT`` too: two services that share a
    port unawares would each answer half of the requests.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, _, _, _, address in found:
        _bound(family, address, shared=False).close()
    return [_bound(family, address, shared=True) for family, _, _, _, address in found]


def join(reserved: Sequence[socket.socket]) -> list[socket.socket]:
    """A worker's own sockets on the reserved addresses: the kernel deals connections out among those that listen.

    When a worker ends its sockets go with it, and new connections to the others. Measured against one socket that
    all accept from in docs/performance.md.
    """
    return [_bound(each.family, each.getsockname(), shared=True) for each in reserved]


def _bound(family: int, address: Any, *, shared: bool) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


class _Seat:
    """A place for one worker after the other."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.pid: int | None = None
        self.starts = 0
        self.started_at = 0.0
        self.due_at = 0.0
        self.backoff = _FIRST_BACKOFF_SECONDS


class WorkerParent:
    """Runs ``count`` workers until SIGTERM or SIGINT. Call :meth:`run` once, in the main thread.

    Workers then get SIGTERM and ``stop_seconds``, and SIGKILL after that; a second SIGINT kills them at once.
    """

    def __init__(self, count: int, stop_seconds: float) -> None:
        self.exit_code = 0
        """0 when all stopped as asked, 1 when one did not; that of a first worker that refused or failed to start."""
        self._seats = [_Seat(number) for number in range(count)]
        self._stop_seconds = stop_seconds
        self._pid = os.getpid()
        self._prctl = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None
        self._asked: list[int] = []
        self._kill_at: float | None = None
        self._wake_reader, self._wake_writer = os.pipe()

    def run(self) -> int | None:
        """Returns the seat in each worker, right after it was forked, and ``None`` in the parent, when all ended."""
        for descriptor in (self._wake_reader, self._wake_writer):
            os.set_blocking(descriptor, False)
        for number in _SIGNALS:
            signal.signal(number, self._signalled)
        signal.set_wakeup_fd(self._wake_writer, warn_on_full_buffer=False)
        log.info("workers_starting", workers=len(self._seats))
        while True:
            self._reap()
            if self._kill_at is None:
                if self._asked or self.exit_code:
                    self._begin_stop()
                    continue
                for seat in self._seats:
                    if seat.pid is None and time.monotonic() >= seat.due_at and self._fork(seat) == 0:
                        return seat.number
            else:
                if not any(seat.pid for seat in self._seats):
                    return None
                if time.monotonic() >= self._kill_at or self._asked.count(signal.SIGINT) > 1:
                    self._kill()
            self._wait()

    def _fork(self, seat: _Seat) -> int:
        """Forks the worker of a seat; returns its process id, and 0 in the worker."""
        with _blocked():  # a signal meant for the worker must not meet the parent's handlers in it
            pid = os.fork()
            if pid == 0:
                self._become_worker()
                return 0
        seat.pid, seat.started_at, seat.starts = pid, time.monotonic(), seat.starts + 1
        log.info("worker_started", worker=seat.number, worker_pid=pid, starts=seat.starts)
        return pid

    def _become_worker(self) -> None:
        if self._prctl is not None:
            # The kernel ends this process with the parent, even when that is killed with -9.
            self._prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != self._pid:  # it died before the tie was made
                os._exit(EXIT_FAILED_AT_START)
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.close(self._wake_reader)
        os.close(self._wake_writer)

    def _reap(self) -> None:
        """Takes note of every child that ended; as the first process of a container also of strangers."""
        by_pid = {seat.pid: seat for seat in self._seats}
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if seat := by_pid.get(pid):
                seat.pid = None
                self._ended(seat, pid, os.waitstatus_to_exitcode(status))

    def _ended(self, seat: _Seat, pid: int, code: int) -> None:
        if self._kill_at is not None:
            # SIGTERM before it began to serve ends it at once, and nothing was accepted by then.
            if code not in {0, -signal.SIGTERM}:
                log.error("worker_ended_badly", worker=seat.number, worker_pid=pid, exit_code=code)
                self.exit_code = self.exit_code or 1
            return
        now = time.monotonic()
        if seat.starts == 1 and code > 0 and now - seat.started_at < _STEADY_SECONDS:
            self.exit_code = code  # it does not start here; it has said why, and would say it again and again
            return
        if now - seat.started_at >= _STEADY_SECONDS:
            seat.backoff = _FIRST_BACKOFF_SECONDS
        seat.due_at = now + seat.backoff
        log.warning("worker_ended", worker=seat.number, worker_pid=pid, exit_code=code, restart_in_seconds=seat.backoff)
        seat.backoff = min(2 * seat.backoff, _LONGEST_BACKOFF_SECONDS)

    def _begin_stop(self) -> None:
        self._kill_at = time.monotonic() + self._stop_seconds
        for seat in self._seats:
            if seat.pid is not None:
                os.kill(seat.pid, signal.SIGTERM)  # not reaped yet, so the number is still its own

    def _kill(self) -> None:
        self._kill_at = math.inf
        for seat in self._seats:
            if seat.pid is not None:
                os.kill(seat.pid, signal.SIGKILL)

    def _wait(self) -> None:
        """Sleeps until a signal comes or something is due."""
        if self._kill_at is not None:
            due = self._kill_at
        else:
            due = min((seat.due_at for seat in self._seats if seat.pid is None), default=math.inf)
        timeout = None if due == math.inf else max(0.0, due - time.monotonic())
        if select.select([self._wake_reader], [], [], timeout)[0]:
            os.read(self._wake_reader, 4096)

    def _signalled(self, number: int, _: FrameType | None) -> None:
        if number in _STOP_SIGNALS:
            self._asked.append(number)


@contextmanager
def _blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
