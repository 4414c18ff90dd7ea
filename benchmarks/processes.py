"""What processes cost: CPU seconds and memory of a process and all its descendants, from ``/proc``."""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a process tree. PSS counts a page shared by n processes as 1/n in each, so it adds up; RSS does not."""

    rss_bytes: int
    pss_bytes: int
    processes: int


def cpu_seconds(roots: Mapping[str, Iterable[int]]) -> dict[str, float]:
    """User and system time, by name, of each root's tree, children that ended and were waited for included."""
    children = _children()
    return {name: sum(_cpu(pid) for root in pids for pid in _tree(root, children)) for name, pids in roots.items()}


def memory(roots: Mapping[str, Iterable[int]]) -> dict[str, Memory]:
    """Memory, by name, of each root's tree."""
    children = _children()
    found = {}
    for name, pids in roots.items():
        parts = [_memory(pid) for root in pids for pid in _tree(root, children)]
        found[name] = Memory(sum(rss for rss, _ in parts), sum(pss for _, pss in parts), len(parts))
    return found


def children_of(pid: int) -> list[int]:
    """The processes that a process started itself and that run."""
    return _children().get(pid, [])


def _children() -> dict[int, list[int]]:
    children: dict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").glob("[0-9]*"):
        fields = _stat(int(entry.name))
        if fields:
            children[int(fields[1])].append(int(entry.name))
    return children


def _tree(root: int, children: Mapping[int, list[int]]) -> list[int]:
    found = [root]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def _cpu(pid: int) -> float:
    return sum(map(int, _stat(pid)[11:15])) / _TICKS_PER_SECOND  # utime, stime, cutime, cstime


def _stat(pid: int) -> list[str]:
    """The fields of ``/proc/<pid>/stat`` after the name, from the state on; empty when the process is gone."""
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _memory(pid: int) -> tuple[int, int]:
    try:
        lines = Path("/proc", str(pid), "smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return 0, 0
    values = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    return values.get("Rss", 0), values.get("Pss", 0)
