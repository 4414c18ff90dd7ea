"""Latency at half of the maximum throughput: an open loop at a given rate, so that stalls are not left out."""

import json
from collections.abc import Iterator

from benchmarks import load, programs
from benchmarks.bench import Bench, Figure
from benchmarks.load import Request
from benchmarks.systems import wait_until_it_answers
from loopai_client import demo

NAME = "half_load"

_CONNECTIONS = 64
_MORE_CONNECTIONS = 256


def run(bench: Bench) -> Iterator[Figure]:
    """Finds the maximum with a closed loop, then measures at half of it, and one request at a time."""
    tiny = programs.publish_tiny(bench.stack.nats_url)
    path = f"/api/v1/tasks/{tiny.task_id}/execute"
    bodies = [json.dumps({"input": {"text": message.text}}).encode() for message in demo.messages()[:500]]
    target = bench.system("Loopai", [Request(path, body) for body in bodies]).target
    wait_until_it_answers(target)
    most = load.run(target, connections=_MORE_CONNECTIONS, seconds=bench.seconds).requests_per_second
    rate = most / 2
    at_half = load.run_at_rate(target, connections=_CONNECTIONS, seconds=bench.seconds, rate=rate)
    note = f"{rate:,.0f} requests/s, open loop, {at_half.requests_per_second:,.0f}/s answered, {at_half.errors} errors"
    yield Figure(NAME, "maximum throughput", most, "requests/s", f"closed loop, {_MORE_CONNECTIONS} connections")
    for name, value in (("p50", at_half.p50_ms), ("p95", at_half.p95_ms), ("p99", at_half.p99_ms)):
        yield Figure(NAME, f"latency {name} at half load", value, "ms", note)
    alone = load.run(target, connections=1, seconds=bench.seconds)
    yield Figure(NAME, "latency p50 of a request alone", alone.p50_ms, "ms", "1 connection, idle system")
    yield Figure(NAME, "latency p99 of a request alone", alone.p99_ms, "ms", "1 connection, idle system")
