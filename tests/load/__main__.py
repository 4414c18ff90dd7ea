"""``python -m tests.load SCENARIO``: a scenario of ``scenarios.json`` without k6; exit code 1 when a limit is broken.

In an open loop: latency counts from when a request was due. LOOPAI_API_KEY is the key, where one is needed.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from loopai_client.errors import LoopaiError
from loopai_client.local.data_dir import RunningStack, running_stack
from loopai_client.local.stack import DEFAULT_DATA_DIR
from tests.load import memory, runner, scenarios
from tests.load.memory import METRICS_VARIABLE, Source
from tests.load.runner import Report

_LATE_MS = 5.0


def main() -> int:
    """Runs the scenario, prints what came of it, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.load", description=__doc__)
    parser.add_argument("scenario", choices=scenarios.names())
    scale = float(os.environ.get("LOAD_SCALE", "1"))
    parser.add_argument("--scale", type=float, default=scale, help="factor of rates and durations (LOAD_SCALE, or 1)")
    parser.add_argument("--url", default=os.environ.get("LOOPAI_URL"), help="the API (LOOPAI_URL, or the local stack)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the report")
    options = parser.parse_args()
    stack = running_stack(Path(os.environ.get("LOOPAI_DATA_DIR", DEFAULT_DATA_DIR)))
    url = options.url or (stack and stack.url)
    if not url:
        parser.error("no stack runs here: start one with `loopai up`, or say --url")
    scenario = scenarios.scenario(options.scenario, options.scale)
    key = os.environ.get("LOOPAI_API_KEY", "")
    try:
        report = runner.run(scenario, options.scale, url.rstrip("/"), key, _memory(url.rstrip("/"), stack))
    except LoopaiError as error:
        sys.exit(str(error))
    _print(report)
    if options.json:
        options.json.write_text(json.dumps(report.as_json(), indent=2) + "\n")
    return 1 if report.broken_limits else 0


def _memory(url: str, stack: RunningStack | None) -> Source | None:
    """Where the memory of the processes behind the URL can be read."""
    if stack and stack.url == url:
        return memory.of_local(stack)
    named = os.environ.get(METRICS_VARIABLE)
    return memory.of_metrics(named) if named else None


def _print(report: Report) -> None:
    for stage in report.stages:
        print(
            f"{stage.name}: {stage.requests:,} requests in {stage.seconds:g} s, "
            f"{stage.answered_per_second:,.0f}/s answered with 200, {stage.errors:,} errors {stage.ends}, "
            f"p50 {stage.p50_ms:.2f}, p95 {stage.p95_ms:.2f}, p99 {stage.p99_ms:.2f} ms"
        )
    for growth in report.memory:
        print(
            f"memory of {growth.process} ({growth.kind}): {growth.last_mb:.1f} MB, {growth.mb_per_hour:+.1f} MB/h, "
            f"{growth.growth_mb:+.2f} MB while watched ({growth.samples} samples)"
        )
    if report.scenario == "soak" and not report.memory:
        print(f"memory: not known; {METRICS_VARIABLE} names what to read it from")
    if report.generator_late_ms > _LATE_MS:
        print(
            f"The load generator itself was up to {report.generator_late_ms:.0f} ms late; latencies have that in them."
        )
    for broken in report.broken_limits:
        print(f"BROKEN LIMIT {broken}")


if __name__ == "__main__":
    sys.exit(main())
