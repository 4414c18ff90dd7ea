"""1, 100 and 1,000 programs under Zipf-distributed traffic over the whole path, in stacks of their own.

Once with a process for each program, once with ``isolation: group``, where they share some.
"""

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
_ISOLATIONS = {"call": "", "group": " in a group"}
"""What tasks ask for, and how it is called."""
_CONNECTIONS = (64, 256)
_REQUESTS = 20_000
_SETTLE_SECONDS = 30.0
_QUIET = 0.1
"""Seconds of CPU in a second, over all processes."""


def run(bench: Bench) -> Iterator[Measurement | Figure]:
    """Publishes programs and calls them, the k-th with a share of 1/k: each in a process of its own, then grouped."""
    ones: dict[int, Measurement] = {}
    for isolation, addition in _ISOLATIONS.items():
        with LocalStack(bench.directory / f"many-{isolation}") as stack:
            # The programs are given; nobody shall learn a thousand more in the background.
            stack.terminate("generator-proxy")
            inner = Bench(stack, 0.0, bench.directory, bench.seconds, bench.connections)
            published: list[programs.Published] = []
            for count in _COUNTS if not ones else _COUNTS[1:]:  # a program alone in a group is a program alone
                codes = [programs.classifier(number) for number in range(len(published), count)]
                published += programs.publish(stack.nats_url, codes, isolation=isolation)
                what = f"{count} program{'s' * (count > 1)}{addition}"
                system = inner.system(f"Loopai, {what}", _traffic(published))
                wait_until_it_answers(system.target)
                _settle(system)
                for connections in _CONNECTIONS:
                    measured = inner.measure(NAME, system, connections)
                    yield measured
                    if count == 1:
                        ones[connections] = measured
                    else:
                        yield from _compared(what, connections, measured, ones[connections])


def _compared(what: str, connections: int, many: Measurement, one: Measurement) -> Iterator[Figure]:
    name = f"{what} to one, {connections} connections"
    yield Figure(NAME, f"CPU a request, {name}", many.total_cpu_us / one.total_cpu_us, "x", "Zipf")
    share = many.load.requests_per_second / one.load.requests_per_second
    yield Figure(NAME, f"throughput, {name}", share * 100, "%", "Zipf")


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
