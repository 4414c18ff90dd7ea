"""Measuring one system under one load, and what all scenarios share."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
class Bench:
    """What a scenario is given: a running stack, a directory of its own, and how much to measure."""

    stack: LocalStack
    directory: Path
    seconds: float
    connections: Sequence[int]

    def measure(self, scenario: str, system: System, connections: int) -> Measurement:
        """Warms the system up under the load, then measures it."""
        load.run(system.target, connections=connections, seconds=_WARM_UP_SECONDS)
        before = cpu_seconds(system.processes)
        result = load.run(system.target, connections=connections, seconds=self.seconds)
        after = cpu_seconds(system.processes)
        # Requests in flight at the end cost CPU and are not counted: at most one a connection.
        used = {name: (after[name] - before[name]) * 1e6 / max(1, result.requests) for name in before}
        return Measurement(scenario, system.name, connections, result, used, memory(system.processes))
