"""The process that workers are forked from: it holds the standard library, and never reads a byte from outside.

Started as ``python -I -B -m loopai_executor.sandbox.zygote FD`` with an empty environment; ``FD`` is a SEQPACKET
socket to the executor. It leaves the host's namespaces, forks a locked test worker that must fail at everything it
tries, reports ready, and then forks workers on request. When the executor ends it ends, and its workers with it.
"""

import array
import contextlib
import encodings
import gc
import hashlib
import importlib
import os
import pkgutil
import resource
import select
import signal
import socket
import sys
import time
import zoneinfo
from collections.abc import Callable
from types import ModuleType
from typing import Final, NoReturn

from jsonschema_rs import Draft202012Validator

from loopai_executor.sandbox.lockdown import (
    LayerFailed,
    Limits,
    Lockdown,
    die_with_parent,
    enter_namespaces,
    forbid_new_privileges,
    hide_from_debuggers,
    make_forbidden_call,
    worker_uid,
)
from loopai_executor.sandbox.protocol import (
    MAX_MESSAGE,
    TO_ZYGOTE,
    Exited,
    Fork,
    Forked,
    NotForked,
    Ready,
    Refused,
    ZygoteOptions,
    encode,
)
from loopai_executor.sandbox.worker import Worker

_PRELOADED: Final = (
    "abc ast base64 binascii bisect calendar cmath codecs collections collections.abc colorsys contextlib copy csv",
    "dataclasses datetime decimal difflib email.utils enum fnmatch fractions functools graphlib hashlib heapq hmac",
    "html html.entities html.parser io ipaddress itertools json keyword locale math numbers operator pprint quopri",
    "random re reprlib secrets shlex statistics string stringprep struct textwrap time tokenize types typing",
    "unicodedata",
    "urllib.parse uuid warnings weakref xml.etree.ElementTree zlib zoneinfo _strptime _pydecimal linecache",
)
_HIDDEN: Final = frozenset(
    {
        "ctypes", "_ctypes", "_socket", "socket", "select", "selectors", "subprocess", "_posixsubprocess", "signal",
        "array", "pickle", "_pickle", "pkgutil", "importlib.metadata", "importlib.resources", "zipfile", "tempfile",
        "shutil", "loopai_common", "loopai_executor", "multiprocessing", "threading",
    }
)  # fmt: skip
_POLL_MS: Final = 1000
_SELF_TEST_SECONDS: Final = 10
_EXIT_UNLOCKED: Final = 70
_MARGIN_BYTES: Final = 2 << 20
_NEVER: Final = -1


class _NotAvailable:
    """Says it plainly when a program imports what is not there. Good manners, not a boundary."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: ModuleType | None = None) -> NoReturn:
        raise ModuleNotFoundError(f"the module {name!r} is not available to programs", name=name)


class Zygote:
    """Forks workers for the executor at the other end of ``control``."""

    def __init__(
        self,
        control: socket.socket,
        options: ZygoteOptions,
        lockdown: Lockdown,
        zones: list[zoneinfo.ZoneInfo],
        *,
        own_uids: bool,
    ) -> None:
        self._control = control
        self._zones = zones  # zoneinfo's own cache holds them weakly
        self._lockdown = lockdown
        self._own_uids = own_uids
        base = _address_space_bytes()
        self._limits = Limits(base + _MARGIN_BYTES + options.memory_bytes, options.cpu_seconds)
        self._workers: dict[int, int] = {}

    def self_test(self) -> list[str]:
        """What a locked worker could do although it must not; empty when the sandbox holds."""
        found = _reports_of(self._probe)
        if self._lockdown.missing:
            return found
        found += _reports_of(self._probe_landlock)
        if _signal_of(self._probe_forbidden) != signal.SIGSYS:
            found.append("make a system call that is not allowed")
        return found

    def serve(self) -> NoReturn:
        """Forks on request and reports exits, until the executor is gone."""
        wake_reader, wake_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)  # a tick for a worker that has not taken the signal yet
        signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(wake_reader, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll(_POLL_MS):
                if descriptor == wake_reader:
                    with contextlib.suppress(BlockingIOError):
                        os.read(wake_reader, 4096)
                else:
                    self._take_order()
            self._reap()

    def _take_order(self) -> None:
        try:
            message, ancillary, _, _ = self._control.recvmsg(
                MAX_MESSAGE, socket.CMSG_SPACE(2 * array.array("i").itemsize)
            )
        except OSError:
            os._exit(0)
        if not message:
            os._exit(0)  # the executor is gone
        order = TO_ZYGOTE.decode(message)
        descriptors = array.array("i")
        for _, _, data in ancillary:
            descriptors.frombytes(data)
        if isinstance(order, Fork):
            self._fork(order.worker, *descriptors)

    def _fork(self, worker: int, reads: int, writes: int) -> None:
        try:
            pid = os.fork()
        except OSError:  # too many processes, or too little memory
            os.close(reads)
            os.close(writes)
            self._say(encode(NotForked(worker)))
            return
        if pid == 0:
            signal.set_wakeup_fd(_NEVER)
            self._become_worker(worker, reads, writes)
        os.close(reads)
        os.close(writes)
        self._workers[pid] = worker
        reply = encode(Forked(worker, pid))
        if not hasattr(os, "pidfd_open"):
            self._say(reply)
            return
        pidfd = os.pidfd_open(pid)
        self._say(reply, pidfd)
        os.close(pidfd)

    def _become_worker(self, worker: int, reads: int, writes: int) -> NoReturn:
        try:
            os.dup2(reads, 0)
            os.dup2(writes, 1)
            loop = Worker()
            self._lock(worker)
            loop.run()
        finally:
            os._exit(_EXIT_UNLOCKED)

    def _lock(self, worker: int) -> None:
        self._lockdown.apply(self._limits, uid=worker_uid(worker) if self._own_uids else None)

    def _reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            worker = self._workers.pop(pid, None)
            if worker is not None:
                used = usage.ru_utime + usage.ru_stime
                self._say(encode(Exited(worker, os.waitstatus_to_exitcode(status), used, usage.ru_maxrss * 1024)))

    def _say(self, message: bytes, *descriptors: int) -> None:
        try:
            socket.send_fds(self._control, [message], descriptors)
        except OSError:
            os._exit(0)

    def _probe(self, writes: int) -> None:
        os.dup2(os.open("/", os.O_RDONLY), 0)
        os.dup2(writes, 1)
        self._lock(0)
        attempts: dict[str, Callable[[], object]] = {
            "open a file": lambda: os.open("/", os.O_RDONLY),
            "make a socket": socket.socket,
            "fork": os.fork,
            "read another descriptor": lambda: os.read(3, 1),
        }
        if self._lockdown.missing:
            # Without the filter only the limits hold, and these are what they are for.
            attempts = {"open a file": attempts["open a file"]}
        for name, attempt in attempts.items():
            with contextlib.suppress(OSError):
                attempt()
                os.write(1, f"{name}\n".encode())

    def _probe_landlock(self, writes: int) -> None:
        forbid_new_privileges()
        self._lockdown.restrict_landlock()
        with contextlib.suppress(PermissionError):
            os.open("/", os.O_RDONLY | os.O_DIRECTORY)
            os.write(writes, b"open a directory despite Landlock\n")

    def _probe_forbidden(self, writes: int) -> None:
        os.dup2(writes, 1)
        self._lock(0)
        make_forbidden_call()


def preload() -> list[zoneinfo.ZoneInfo]:
    """Loads what programs may import, with what the library itself loads lazily; returns the time zones, to be kept."""
    for name in " ".join(_PRELOADED).split():
        importlib.import_module(name)
    for codec in pkgutil.iter_modules(encodings.__path__):
        with contextlib.suppress(ImportError, AttributeError):
            importlib.import_module(f"encodings.{codec.name}")
    time.strptime("2020-01-01", "%Y-%m-%d")
    time.tzset()
    Draft202012Validator({"type": "string"}).is_valid(1)
    for algorithm in hashlib.algorithms_guaranteed:
        with contextlib.suppress(ValueError):
            hashlib.new(algorithm, usedforsecurity=False)
    return [zoneinfo.ZoneInfo(key) for key in zoneinfo.available_timezones()]


def hide() -> None:
    """Takes out of ``sys.modules`` what a program has no use for, and makes imports fail with a plain sentence.

    Not a boundary: native code reaches all of it.
    """
    for name in list(sys.modules):
        if name in _HIDDEN or name.partition(".")[0] in _HIDDEN:
            del sys.modules[name]
    sys.path.clear()
    sys.path_importer_cache.clear()
    sys.meta_path[:] = [_NotAvailable]
    sys.stdin = None
    vars(sys)["__stdin__"] = None
    sys.argv = [""]


def main(descriptor: int) -> NoReturn:
    """Runs the zygote on its control socket."""
    os.environ.clear()
    die_with_parent()
    interrupt_nobody()
    control = socket.socket(fileno=descriptor)
    message = control.recv(MAX_MESSAGE)
    options = TO_ZYGOTE.decode(message) if message else None
    if not isinstance(options, ZygoteOptions):
        os._exit(1)
    zones = preload()
    root = os.geteuid() == 0
    lockdown = Lockdown()
    if lockdown.missing and not options.degraded:
        refuse(control, f"the kernel lacks {', '.join(lockdown.missing)}")
    try:
        # Last, since /proc and the modules on disk are gone afterwards.
        zygote = Zygote(control, options, lockdown, zones, own_uids=root)
        namespaces = enter_namespaces()
        hide_from_debuggers()
        hide()
        able = zygote.self_test()
    except LayerFailed as error:
        refuse(control, str(error))
    if able and not options.degraded:
        refuse(control, f"a locked test worker could {', '.join(able)}")
    gc.collect()
    gc.freeze()
    control.send(encode(Ready(namespaces, [*lockdown.missing, *(f"nothing keeps a worker from: {a}" for a in able)])))
    zygote.serve()


def interrupt_nobody() -> None:
    """Has the kernel schedule this process and its workers as batches (sched(7)): one that wakes up waits for its turn.

    So a stranger's program interrupts no service, and the executor deals out a frame before the first of it is run.
    Where something else was chosen for the process, or the kernel does not know this, nothing changes.
    """
    if sys.platform == "linux" and os.sched_getscheduler(0) == os.SCHED_OTHER:
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def refuse(control: socket.socket, reason: str) -> NoReturn:
    """Tells the executor why there will be no workers, and ends."""
    control.send(encode(Refused(reason)))
    os._exit(2)


def _reports_of(probe: Callable[[int], None]) -> list[str]:
    """The lines that ``probe``, run in a forked child, writes to the descriptor it is given."""
    reads, writes = os.pipe()
    pid = os.fork()
    if pid == 0:
        _run_probe(probe, writes)
    os.close(writes)
    report = b""
    while select.select([reads], [], [], _SELF_TEST_SECONDS)[0]:
        part = os.read(reads, 4096)
        if not part:
            break
        report += part
    os.close(reads)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    found = report.decode().splitlines()
    if os.waitstatus_to_exitcode(status) not in (0, -signal.SIGKILL):
        found.append("not be locked")
    return found


def _signal_of(probe: Callable[[int], None]) -> int:
    """The signal that ``probe``, run in a forked child, dies of; 0 when it lives to its end."""
    pid = os.fork()
    if pid == 0:
        _run_probe(probe, 1)
    _, status = os.waitpid(pid, 0)
    return max(0, -os.waitstatus_to_exitcode(status))


def _run_probe(probe: Callable[[int], None], writes: int) -> NoReturn:
    code = 1
    try:
        probe(writes)
        code = 0
    finally:
        os._exit(code)


def _address_space_bytes() -> int:
    """What this process has mapped; 0 where the kernel does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


if __name__ == "__main__":
    main(int(sys.argv[1]))
