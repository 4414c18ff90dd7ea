"""What the figures should be, and where in a file of results they stand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

LOOPAI = "Loopai"

Results = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Goal:
    """``measured`` finds the value in results, ``None`` where they have none; ``at_least`` turns the limit round."""

    name: str
    limit: float
    unit: str
    measured: Callable[[Results], float | None]
    at_least: bool = False

    def is_met(self, value: float) -> bool:
        """Whether the value is on the right side of the limit."""
        return value >= self.limit if self.at_least else value <= self.limit


def measurement(results: Results, system: str, connections: int) -> dict[str, Any] | None:
    """What was measured of a system at a number of connections."""
    found = (m for m in results["measurements"] if (m["system"], m["connections"]) == (system, connections))
    return next(found, None)


def _cpu(connections: int) -> Callable[[Results], float | None]:
    def measured(results: Results) -> float | None:
        found = measurement(results, LOOPAI, connections)
        return float(found["total_cpu_us"]) if found else None

    return measured


def _ratio(above: str, below: str, connections: int) -> Callable[[Results], float | None]:
    def measured(results: Results) -> float | None:
        first, second = measurement(results, above, connections), measurement(results, below, connections)
        return float(first["total_cpu_us"] / second["total_cpu_us"]) if first and second else None

    return measured


def _figure(scenario: str, prefix: str) -> Callable[[Results], float | None]:
    """The figure whose name begins so, the highest where there are several."""

    def measured(results: Results) -> float | None:
        found = [f for f in results["figures"] if f["scenario"] == scenario and f["name"].startswith(prefix)]
        return max((float(f["value"]) for f in found), default=None)

    return measured


GOALS: Sequence[Goal] = (
    Goal("CPU a request at 64 connections, all processes", 35, "µs", _cpu(64)),
    Goal("CPU a request at 256 connections, all processes", 25, "µs", _cpu(256)),
    Goal(
        "CPU of FastAPI + FastStream over Loopai's, 256 connections",
        20,
        "x",
        _ratio("FastAPI + FastStream", LOOPAI, 256),
        at_least=True,
    ),
    Goal(
        "CPU of FastAPI in process over Loopai's, 256 connections",
        6,
        "x",
        _ratio("FastAPI, in process", LOOPAI, 256),
        at_least=True,
    ),
    Goal(
        "CPU of Loopai over that of Go net/http in process, 256 connections",
        1,
        "x",
        _ratio(LOOPAI, "Go net/http, in process", 256),
    ),
    Goal("latency p50 at half load", 10, "ms", _figure("half_load", "latency p50 at half load")),
    Goal("latency p99 at half load", 20, "ms", _figure("half_load", "latency p99 at half load")),
    Goal("latency p50 of a request alone", 1, "ms", _figure("half_load", "latency p50 of a request alone")),
    Goal("memory at rest of the largest process (PSS)", 100, "MB", _figure("cold_start", "memory at rest of ")),
    Goal(
        "first execution of a version never seen, fetch included",
        15,
        "ms",
        _figure("cold_start", "first execution of a version never seen"),
    ),
    Goal("isolation, an execution in a batch of 64", 4, "µs", _figure("sandbox", "isolation")),
    *(
        Goal(
            f"CPU a request, 100 programs{grouped} to one, {connections} connections",
            1.6,
            "x",
            _figure("many_programs", f"CPU a request, 100 programs{grouped} to one, {connections} connections"),
        )
        for grouped in ("", " in a group")
        for connections in (64, 256)
    ),
    *(
        Goal(
            f"throughput, 1,000 programs{grouped} to one, {connections} connections",
            50,
            "%",
            _figure("many_programs", f"throughput, 1000 programs{grouped} to one, {connections} connections"),
            at_least=True,
        )
        for grouped in ("", " in a group")
        for connections in (64, 256)
    ),
)
