"""The machine that the figures are of."""

import os
import platform
from pathlib import Path


def load_average() -> float:
    """How many processes wanted a core over the last minute: what else the machine does shows in it."""
    return round(os.getloadavg()[0], 2)


def describe() -> dict[str, str | int]:
    """CPU model, usable cores, memory, kernel, Python."""
    return {
        "cpu": _field("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory": _field("/proc/meminfo", "MemTotal"),
        "kernel": platform.release().partition("-")[0],
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def _field(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return "unknown"
