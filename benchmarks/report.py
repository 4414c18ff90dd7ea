"""The figures as tables and as a file. ``python -m benchmarks.report FILE…`` prints files as a page of Markdown."""

import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import load, machine
from benchmarks.bench import Figure, Measurement
from benchmarks.document import number, page
from benchmarks.goals import LOOPAI

_MB = 1024 * 1024
_SHOWN_US = 0.05
_TEXT_COLUMNS = frozenset({"system", "process", "by process", "scenario", "figure", "unit", "note", ""})


def one_line(result: Measurement | Figure) -> str:
    """A result as it is told while the others run."""
    if isinstance(result, Figure):
        return f"{result.name}: {number(result.value)} {result.unit} ({result.note})"
    figures = f"{result.load.requests_per_second:,.0f}/s, {result.total_cpu_us:.1f} µs"
    return f"{result.system}, {result.connections} connections: {figures}"


def print_report(measurements: Sequence[Measurement], figures: Sequence[Figure]) -> None:
    """Tables of what was measured."""
    console = Console(highlight=False, width=None if Console().is_terminal else 140)
    if measurements:
        _print_measurements(console, measurements)
    if figures:
        table = _table("scenario", "figure", "value", "unit", "note")
        for figure in figures:
            table.add_row(figure.scenario, figure.name, number(figure.value), figure.unit, figure.note)
        console.print(table)


def _print_measurements(console: Console, measurements: Sequence[Measurement]) -> None:
    """A table of all measurements, one of CPU by process, and one of memory after the load."""
    table = _table("connections", "system", "requests/s", "CPU µs/request", "p50 ms", "p95 ms", "p99 ms", "errors", "")
    for connections in sorted({m.connections for m in measurements}):
        rows = [m for m in measurements if m.connections == connections]
        ours = next((m for m in rows if m.system == LOOPAI), None)
        for m in rows:
            ratio = (
                f"{m.total_cpu_us / ours.total_cpu_us:.1f} x the CPU"
                if ours and m is not ours and m.scenario == ours.scenario
                else ""
            )
            of = m.load
            latencies = [f"{of.p50_ms:.2f}", f"{of.p95_ms:.2f}", f"{of.p99_ms:.2f}"]
            figures = [f"{of.requests_per_second:,.0f}", f"{m.total_cpu_us:.1f}", *latencies, str(of.errors)]
            table.add_row(str(connections), m.system, *figures, ratio, end_section=m is rows[-1])
    console.print(table)
    console.print("CPU µs a request, by process (each with all its descendants)")
    detail = _table("connections", "system", "by process")
    for m in sorted(measurements, key=lambda m: m.connections):
        parts = sorted(m.cpu_us.items(), key=lambda part: -part[1])
        detail.add_row(
            str(m.connections), m.system, ", ".join(f"{name} {used:.1f}" for name, used in parts if used >= _SHOWN_US)
        )
    console.print(detail)
    console.print("Memory after the last load (PSS adds up, RSS counts shared pages in each)")
    sizes = _table("system", "process", "processes", "RSS MB", "PSS MB")
    for m in _last_of_each(measurements):
        for name, size in m.memory.items():
            figures = [str(size.processes), f"{size.rss_bytes / _MB:.0f}", f"{size.pss_bytes / _MB:.0f}"]
            sizes.add_row(m.system, name, *figures)
    console.print(sizes)


def write_report(
    measurements: Sequence[Measurement],
    figures: Sequence[Figure],
    directory: Path,
    *,
    seconds: float,
    load_average: float,
) -> Path:
    """Writes the results with the machine described; returns the file. ``load_average`` is that before the start."""
    directory.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)
    body = {
        "at": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": machine.describe(),
        "load_average": load_average,
        "load_generator": load.generator(),
        "seconds": seconds,
        "measurements": [_as_json(m) for m in measurements],
        "figures": [asdict(figure) for figure in figures],
    }
    path = directory / f"{now.strftime('%Y%m%d-%H%M%S')}-{time.perf_counter_ns() % 1000:03}.json"
    path.write_text(json.dumps(body, indent=2) + "\n")
    return path


def _as_json(measurement: Measurement) -> dict[str, Any]:
    load_figures = {**asdict(measurement.load), "requests_per_second": measurement.load.requests_per_second}
    return {**asdict(measurement), "load": load_figures, "total_cpu_us": measurement.total_cpu_us}


def _last_of_each(measurements: Iterable[Measurement]) -> Iterable[Measurement]:
    return {m.system: m for m in measurements}.values()


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="left" if column in _TEXT_COLUMNS else "right")
    return table


if __name__ == "__main__":
    print(page([json.loads(Path(file).read_text()) for file in sys.argv[1:]]), end="")
