"""One program, many callers: the hot path, beside the same program in services without Loopai."""

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import programs
from benchmarks.baselines import program
from benchmarks.bench import Bench, Measurement
from benchmarks.load import Load, Request
from benchmarks.systems import (
    System,
    fastapi_and_faststream,
    fastapi_in_process,
    go_is_here,
    net_http,
    wait_until_it_answers,
)
from loopai_client import demo
from loopai_client.client import MAX_WAIT_SECONDS, LoopaiClient

NAME = "single_program"


def run(bench: Bench) -> Iterator[Measurement]:
    """Learns the spam filter, then measures each system at each number of connections."""
    learned, kept_aside = demo.split(demo.messages())
    bodies = [json.dumps({"input": {"text": message.text}}).encode() for message in kept_aside]
    with LoopaiClient(bench.stack.base_url) as client:
        task = client.create_task(demo.definition(learned), wait_seconds=MAX_WAIT_SECONDS)
        if task.status != "ready":
            raise RuntimeError(f"no program to measure: {task.status} {task.status_reason or ''}")
        source = bench.directory / "program.py"
        source.write_text(client.get_code(task.id), encoding="utf-8")
    yield _alone(bench, source, bodies)
    path = f"/api/v1/tasks/{task.id}/execute"
    yield from _measure(bench, bench.system("Loopai, spam filter", [Request(path, body) for body in bodies]))
    tiny = programs.publish_tiny(bench.stack.nats_url)
    path = f"/api/v1/tasks/{tiny.task_id}/execute"
    yield from _measure(bench, bench.system("Loopai", [Request(path, body) for body in bodies]))
    source.write_text(programs.TINY, encoding="utf-8")
    if go_is_here():
        with net_http(bodies, bench.directory) as system:
            yield from _measure(bench, system)
    with fastapi_in_process(source, bodies) as system:
        yield from _measure(bench, system)
    with fastapi_and_faststream(source, bodies, bench.directory / "nats-baseline") as system:
        yield from _measure(bench, system)


def _measure(bench: Bench, system: System) -> Iterator[Measurement]:
    answer = json.loads(wait_until_it_answers(system.target))
    if answer["output"] not in {"ham", "spam"}:
        raise RuntimeError(f"{system.name} does not classify: {answer}")
    for connections in bench.connections:
        yield bench.measure(NAME, system, connections)


def _alone(bench: Bench, source: Path, bodies: Sequence[bytes]) -> Measurement:
    """The program called in a loop, with nothing around it: what no server can do without."""
    run = program.load(source)
    inputs = [json.loads(body)["input"] for body in bodies]
    latencies = []
    started, cpu_started = time.perf_counter(), time.process_time()
    while time.perf_counter() - started < bench.seconds / 3:
        for value in inputs:
            before = time.perf_counter()
            run(value)
            latencies.append((time.perf_counter() - before) * 1000)
    seconds, cpu_us = time.perf_counter() - started, (time.process_time() - cpu_started) * 1e6
    latencies.sort()
    p50, p95, p99 = (demo.percentile(latencies, share) for share in (0.5, 0.95, 0.99))
    load = Load(len(latencies), 0, seconds, p50, p95, p99)
    return Measurement(NAME, "the program alone", 0, load, {"program": cpu_us / len(latencies)}, {})
