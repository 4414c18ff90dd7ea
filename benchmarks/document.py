"""Files of results as one Markdown page: the machine, the goals, and every figure."""

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.goals import GOALS, LOOPAI, Results, measurement

_MB = 1024 * 1024
_BUSY = 0.5
_WHOLE_FROM = 1000
_HEAD = """\
# Performance report

Made by `make report` from what `make bench` wrote; edit neither this page nor those files.
[benchmarks/README.md](../benchmarks/README.md) says what each scenario does and how to read the figures,
[performance](performance.md) what they mean."""


def page(files: Sequence[Results]) -> str:
    """The report of the results, the newest first."""
    newest_first = sorted(files, key=lambda results: str(results["at"]), reverse=True)
    return "\n\n".join([_HEAD, *(block for results in newest_first for block in _blocks(results))]) + "\n"


def number(value: float) -> str:
    """A number as tables show it."""
    return f"{value:,.0f}" if value >= _WHOLE_FROM else f"{value:.2f}"


def _blocks(results: Results) -> Iterator[str]:
    yield f"## Measured {results['at']}"
    yield _table("machine", "", rows=list(_machine(results)))
    cores, before = int(results["machine"]["cores"]), float(results["load_average"])
    if before > _BUSY * cores:
        yield (
            f"**The machine was busy**: {before:g} processes wanted its {cores} cores before the start. CPU is higher "
            "and latencies are much higher than on a quiet one, and goals that are missed here may be met there."
        )
    goals = list(_goals(results))
    if goals:
        yield "### Goals"
        yield _table("figure", "measured >", "goal >", "met", rows=goals)
    measurements = results["measurements"]
    if measurements:
        yield "### Requests"
        yield "The last column is CPU over Loopai's at as many connections in the same scenario."
        yield _table(
            "scenario",
            "system",
            "connections >",
            "requests/s >",
            "CPU µs/request >",
            "p50 ms >",
            "p95 ms >",
            "p99 ms >",
            "errors >",
            "ratio >",
            rows=[_request(results, m) for m in measurements],
        )
        yield "### CPU by process"
        yield "Microseconds a request of each process with all its descendants."
        yield _table("system", "connections >", "by process", rows=[_cpu(m) for m in measurements])
        yield "### Memory after the last load"
        yield "PSS adds up over processes; RSS counts pages that several share in each of them."
        yield _table("system", "process", "processes >", "RSS MB >", "PSS MB >", rows=list(_memory(measurements)))
    if results["figures"]:
        yield "### Other figures"
        yield _table("scenario", "figure", "value >", "unit", "note", rows=[_figure(f) for f in results["figures"]])


def _machine(results: Results) -> Iterator[list[str]]:
    machine = results["machine"]
    yield from ([name, str(machine[name])] for name in machine)
    yield ["load average before the start", f"{results['load_average']:g}"]
    yield ["load by", str(results["load_generator"])]
    yield ["each measurement", f"{results['seconds']:g} s"]


def _goals(results: Results) -> Iterator[list[str]]:
    for goal in GOALS:
        value = goal.measured(results)
        if value is not None:
            limit = f"{'≥' if goal.at_least else '≤'} {goal.limit:g} {goal.unit}"
            yield [goal.name, f"{number(value)} {goal.unit}", limit, "yes" if goal.is_met(value) else "**no**"]


def _request(results: Results, m: dict[str, Any]) -> list[str]:
    load = m["load"]
    ours = measurement(results, LOOPAI, m["connections"])
    comparable = ours and ours["scenario"] == m["scenario"] and ours["system"] != m["system"]
    ratio = f"{m['total_cpu_us'] / ours['total_cpu_us']:.2f}" if ours and comparable else ""
    latencies = [f"{load[name]:.2f}" for name in ("p50_ms", "p95_ms", "p99_ms")]
    figures = [f"{load['requests_per_second']:,.0f}", f"{m['total_cpu_us']:.1f}", *latencies, str(load["errors"])]
    return [m["scenario"], m["system"], str(m["connections"]), *figures, ratio]


def _cpu(m: dict[str, Any]) -> list[str]:
    parts = sorted(m["cpu_us"].items(), key=lambda part: -part[1])
    return [m["system"], str(m["connections"]), ", ".join(f"{name} {used:.1f}" for name, used in parts)]


def _memory(measurements: Sequence[dict[str, Any]]) -> Iterator[list[str]]:
    for m in {m["system"]: m for m in measurements}.values():
        for name, size in m["memory"].items():
            sizes = [f"{size[kind] / _MB:.0f}" for kind in ("rss_bytes", "pss_bytes")]
            yield [m["system"], name, str(size["processes"]), *sizes]


def _figure(f: dict[str, Any]) -> list[str]:
    return [f["scenario"], f["name"], number(f["value"]), f["unit"], f["note"]]


def _table(*columns: str, rows: Sequence[Sequence[str]]) -> str:
    """A table; columns whose name ends with ``>`` are aligned right."""
    marks = ["---:" if column.endswith(">") else "---" for column in columns]
    lines = [[column.removesuffix(" >") for column in columns], marks, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
