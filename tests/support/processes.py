"""Looking at processes from outside, through ``/proc``."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

WAIT_SECONDS = 30.0


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    fields = _stat(pid)
    return bool(fields) and fields[0] != "Z"


def descendants(pid: int) -> list[int]:
    """The processes that the process started, and those that these started."""
    children: dict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").glob("[0-9]*"):
        if fields := _stat(int(entry.name)):
            children[int(fields[1])].append(int(entry.name))
    found = list(children[pid])
    for each in found:
        found.extend(children[each])
    return found


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Polls until the condition holds; fails with ``what`` after half a minute."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def wait_until_gone(pids: Iterable[int]) -> None:
    """Waits until none of the processes runs."""
    left = set(pids)
    wait_for(lambda: not any(alive(pid) for pid in left), f"still running: {left}")


def _stat(pid: int) -> list[str]:
    """The fields of ``/proc/<pid>/stat`` from the state on; empty when there is no such process."""
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
