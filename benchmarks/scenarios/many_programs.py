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
_CONNECTIONS = 64
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
        found = []
        for count in _COUNTS:
            codes = [programs.classifier(number) for number in range(len(published), count)]
            published += programs.publish(stack.nats_url, codes)
            system = inner.system(f"Loopai, {count} program{'s' * (count > 1)}", _traffic(published))
            wait_until_it_answers(system.target)
            _settle(system)
            found.append(inner.measure(NAME, system, _CONNECTIONS))
            yield found[-1]
    one = found[0]
    for count, measured in zip(_COUNTS[1:], found[1:], strict=True):
        ratio = measured.total_cpu_us / one.total_cpu_us
        yield Figure(NAME, f"CPU a request, {count} programs to one", ratio, "x", f"{_CONNECTIONS} connections, Zipf")
        share = measured.load.requests_per_second / one.load.requests_per_second
        yield Figure(NAME, f"throughput, {count} programs to one", share * 100, "%", f"{_CONNECTIONS} connections")


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
