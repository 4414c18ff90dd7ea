"""The memory of a deployment's processes while it is under load, and how fast it grows."""

import os
import statistics
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.processes import children_of, memory
from loopai_client.local.data_dir import RunningStack

METRICS_VARIABLE = "LOAD_METRICS"

_RESIDENT = "process_resident_memory_bytes"
_SAMPLES = 180
_SHORTEST_PAUSE_SECONDS = 0.5
_SECONDS = 5
_MB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Source:
    """``read`` gives the bytes of each process by its name; ``kind`` says what they count."""

    kind: str
    read: Callable[[], Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Growth:
    """The line of least squares through what a process had at different times."""

    process: str
    kind: str
    samples: int
    last_mb: float
    mb_per_hour: float
    growth_mb: float


def of_local(stack: RunningStack) -> Source:
    """The services of a stack on this machine, each with its descendants."""
    roots = {_name(pid): [pid] for pid in children_of(stack.pid)}
    return Source("PSS", lambda: {name: size.pss_bytes for name, size in memory(roots).items()})


def of_metrics(named: str) -> Source:
    """Services by what they show; ``named`` is ``NAME=URL`` of each, with commas between them."""
    urls = dict(part.strip().split("=", 1) for part in named.split(","))
    return Source("RSS", lambda: {name: _resident_bytes(url) for name, url in urls.items()})


class Watch:
    """Reads the memory from ``after_seconds`` on, for ``seconds`` or until it is left."""

    def __init__(self, source: Source, after_seconds: float, seconds: float) -> None:
        self._source = source
        self._after_seconds = after_seconds
        self._seconds = seconds
        self._pause_seconds = max(_SHORTEST_PAUSE_SECONDS, seconds / _SAMPLES)
        self._samples: list[tuple[float, Mapping[str, float]]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def growth(self) -> list[Growth]:
        """What each process did; nothing of those that were read less than twice."""
        names = dict.fromkeys(name for _, read in self._samples for name in read)
        found = (self._growth(name, [(at, read[name]) for at, read in self._samples if name in read]) for name in names)
        return [growth for growth in found if growth.samples > 1]

    def _growth(self, name: str, samples: Sequence[tuple[float, float]]) -> Growth:
        seconds, sizes = [at for at, _ in samples], [size / _MB for _, size in samples]
        slope = statistics.linear_regression(seconds, sizes).slope if len(samples) > 1 else 0.0
        return Growth(
            name, self._source.kind, len(samples), sizes[-1], slope * 3600, slope * (seconds[-1] - seconds[0])
        )

    def _run(self) -> None:
        if self._over.wait(self._after_seconds):
            return
        started = time.monotonic()
        while (passed := time.monotonic() - started) < self._seconds:
            self._samples.append((passed, self._source.read()))
            if self._over.wait(self._pause_seconds):
                return


def _name(pid: int) -> str:
    """`artifact-store` of `python -m loopai_artifact_store.main`, else the program's own name."""
    arguments = Path("/proc", str(pid), "cmdline").read_text().split("\0")
    module = next((argument for argument in arguments if argument.startswith("loopai_")), None)
    if module is None:
        return os.path.basename(arguments[0])
    return module.removeprefix("loopai_").split(".")[0].replace("_", "-")


def _resident_bytes(url: str) -> float:
    with urllib.request.urlopen(url, timeout=_SECONDS) as response:
        families = text_string_to_metric_families(response.read().decode())
    return sum(sample.value for family in families if family.name == _RESIDENT for sample in family.samples)
