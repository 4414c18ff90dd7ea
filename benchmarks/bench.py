"""Measuring one system under one load, and what all scenarios share."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks import load
from benchmarks.processes import Memory, cpu_seconds, memory
from benchmarks.systems import System
from tests.support.stack import LocalStack

_WARM_UP_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Measurement:
    """One system under one load. CPU in microseconds a request, by process, each with all its descendants."""

    scenario: str
    system: str
    connections: int
    load: load.Load
    cpu_us: dict[str, float]
    memory: dict[str, Memory]

    @property
    def total_cpu_us(self) -> float:
        """CPU a request over all server processes."""
        return sum(self.cpu_us.values())


@dataclass(frozen=True, slots=True)
class Figure:
    """One number. ``note`` says what it is compared with, or under which conditions it was taken."""

    scenario: str
    name: str
    value: float
    unit: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Bench:
    """What a scenario is given: a running stack, a directory of its own, and how much to measure."""

    stack: LocalStack
    ready_seconds: float
    directory: Path
    seconds: float
    connections: Sequence[int]

    def system(self, name: str, requests: Sequence[load.Request]) -> System:
        """The stack as a system under load."""
        url = urlsplit(self.stack.base_url)
        target = load.Target(url.hostname or "", url.port or 80, requests)
        return System(name, target, {process: [pid] for process, pid in self.stack.pids.items()})

    def measure(self, scenario: str, system: System, connections: int) -> Measurement:
        """Warms the system up under the load, then measures it."""
        load.run(system.target, connections=connections, seconds=_WARM_UP_SECONDS)
        before = cpu_seconds(system.processes)
        result = load.run(system.target, connections=connections, seconds=self.seconds)
        after = cpu_seconds(system.processes)
        # Requests in flight at the end cost CPU and are not counted: at most one a connection.
        used = {name: (after[name] - before[name]) * 1e6 / max(1, result.requests) for name in before}
        return Measurement(scenario, system.name, connections, result, used, memory(system.processes))
