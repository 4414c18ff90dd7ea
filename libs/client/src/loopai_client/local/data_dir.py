"""The lock of a data directory: one stack at a time, and how to find the one that runs."""

import fcntl
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_LOCK_NAME = "stack.pid"
_POLL_SECONDS = 0.05
_READ_ATTEMPTS = 40
_MAX_CONTENT_BYTES = 4096


@dataclass(frozen=True, slots=True)
class RunningStack:
    """The stack that holds a data directory: its supervisor, and where its API answers."""

    pid: int
    url: str


class AlreadyRunning(Exception):
    """Another stack uses the data directory."""

    def __init__(self, data_dir: Path, running: RunningStack) -> None:
        super().__init__(
            f"Loopai is running already for {data_dir}: {running.url} (process {running.pid}). "
            "Stop it with `loopai down`, or choose another --data-dir."
        )


class StillRunning(Exception):
    """The stack was asked to stop and has not within the time, or cannot be told about."""


@contextmanager
def held(data_dir: Path, url: str) -> Iterator[None]:
    """Holds the data directory for this process; raises :class:`AlreadyRunning`.

    The kernel releases the lock when the process ends, however it ends, so a stale file means nothing.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(data_dir / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(data_dir, _read(descriptor)) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "url": url}).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def running_stack(data_dir: Path) -> RunningStack | None:
    """The stack that holds the data directory, or ``None`` when none does."""
    try:
        descriptor = os.open(data_dir / _LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(descriptor)
    else:
        return None
    finally:
        os.close(descriptor)


def stop_running(data_dir: Path, *, timeout_seconds: float) -> RunningStack | None:
    """Stops the stack of the data directory and waits until it is gone; returns it, ``None`` when none ran.

    Raises :class:`StillRunning` after ``timeout_seconds``.
    """
    stack = running_stack(data_dir)
    if stack is None:
        return None
    os.kill(stack.pid, signal.SIGTERM)
    deadline = time.monotonic() + timeout_seconds
    while running_stack(data_dir) is not None:
        if time.monotonic() > deadline:
            raise StillRunning(f"process {stack.pid} has not stopped within {timeout_seconds:g} s")
        time.sleep(_POLL_SECONDS)
    return stack


def _read(descriptor: int) -> RunningStack:
    """What the holder wrote; it does so right after taking the lock, so an empty file is waited for."""
    for _ in range(_READ_ATTEMPTS):
        if content := os.pread(descriptor, _MAX_CONTENT_BYTES, 0):
            fields = json.loads(content)
            return RunningStack(int(fields["pid"]), str(fields["url"]))
        time.sleep(_POLL_SECONDS)
    raise StillRunning("another stack is just starting or stopping here; try again")
