"""1, 100 and 1,000 programs under Zipf-distributed traffic over the whole path, in a stack of its own."""

import json
import random
import time
from collections.abc import Iterator, Sequence

from benchmarks import programs
from benchmarks.bench import Bench, Figure, Measurement
from benchmarks.load import Request
from benchmarks.processes import cpu_seconds
from benchmarks.systems import System, wait_until_it_answers
from loopai_client import demo
from tests.support.stack import LocalStack

NAME = "many_programs"

_COUNTS = (1, 100, 1000)
_CONNECTIONS = (64, 256)
_REQUESTS = 20_000
_SETTLE_SECONDS = 30.0
_QUIET = 0.1
"""Seconds of CPU in a second, over all processes."""


def run(bench: Bench) -> Iterator[Measurement | Figure]:
    """Publishes 1, 100 and 1,000 programs, and calls them each time, the k-th with a share of 1/k."""
    with LocalStack(bench.directory / "many") as stack:
        # The programs are given; nobody shall learn a thousand more in the background.
        stack.terminate("generator-proxy")
        published: list[programs.Published] = []
        inner = Bench(stack, 0.0, bench.directory, bench.seconds, bench.connections)
        found: dict[int, list[Measurement]] = {connections: [] for connections in _CONNECTIONS}
        for count in _COUNTS:
            codes = [programs.classifier(number) for number in range(len(published), count)]
            published += programs.publish(stack.nats_url, codes)
            system = inner.system(f"Loopai, {count} program{'s' * (count > 1)}", _traffic(published))
            wait_until_it_answers(system.target)
            _settle(system)
            for connections, measured in found.items():
                measured.append(inner.measure(NAME, system, connections))
                yield measured[-1]
    for connections, (one, *others) in found.items():
        for count, many in zip(_COUNTS[1:], others, strict=True):
            what = f"{count} programs to one, {connections} connections"
            yield Figure(NAME, f"CPU a request, {what}", many.total_cpu_us / one.total_cpu_us, "x", "Zipf")
            share = many.load.requests_per_second / one.load.requests_per_second
            yield Figure(NAME, f"throughput, {what}", share * 100, "%", "Zipf")


def _settle(system: System) -> None:
    """Waits until nothing works any more: an executor loads what was activated, one program after the other."""
    until = time.monotonic() + _SETTLE_SECONDS
    before, after = 0.0, sum(cpu_seconds(system.processes).values())
    while after - before > _QUIET and time.monotonic() < until:
        time.sleep(1.0)
        before, after = after, sum(cpu_seconds(system.processes).values())


def _traffic(published: Sequence[programs.Published]) -> list[Request]:
    dice = random.Random(0)
    texts = [message.text for message in demo.messages()[:1000]]
    shares = [1 / rank for rank in range(1, len(published) + 1)]
    return [
        Request(
            f"/api/v1/tasks/{program.task_id}/execute", json.dumps({"input": {"text": dice.choice(texts)}}).encode()
        )
        for program in dice.choices(published, shares, k=_REQUESTS)
    ]
