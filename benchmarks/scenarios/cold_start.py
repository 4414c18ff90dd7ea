"""Time to ready, the first execution of a version that no executor has seen, and memory at rest."""

import json
import statistics
import time
from collections.abc import Iterator

from nats.aio.client import Client

from benchmarks import programs
from benchmarks.bench import Bench, Figure
from benchmarks.load import Request
from benchmarks.processes import memory
from benchmarks.systems import post, wait_until_it_answers

NAME = "cold_start"

_VERSIONS = 20
_MB = 1024 * 1024


def run(bench: Bench) -> Iterator[Figure]:
    """Publishes versions that are not activated, so that nothing warms them, and calls each twice."""
    yield Figure(NAME, "time to ready, whole stack", bench.ready_seconds, "s", "six processes, empty data directory")
    for name, size in memory({name: [pid] for name, pid in bench.stack.pids.items()}).items():
        note = f"RSS {size.rss_bytes / _MB:.0f} MB, {size.processes} processes"
        yield Figure(NAME, f"memory at rest of {name} (PSS)", size.pss_bytes / _MB, "MB", note)
    tiny = programs.publish_tiny(bench.stack.nats_url)

    async def work(client: Client) -> list[programs.Published]:
        return [
            await programs.publish_version(client, tiny.task_id, programs.classifier(n), activate=False)
            for n in range(_VERSIONS)
        ]

    versions = programs.connected(bench.stack.nats_url, work)
    path = f"/api/v1/tasks/{tiny.task_id}/execute"
    target = bench.system("Loopai", [Request(path, b'{"input":{"text":"free entry"}}')]).target
    wait_until_it_answers(target)
    first: list[float] = []
    second: list[float] = []
    for published in versions:
        body = json.dumps({"input": {"text": "free entry"}, "version": published.version}).encode()
        for latencies in (first, second):
            started = time.perf_counter()
            answer = json.loads(post(target, Request(path, body)))
            latencies.append((time.perf_counter() - started) * 1000)
            if answer["output"] != "spam":
                raise RuntimeError(f"a version does not classify: {answer}")
    note = f"median of {_VERSIONS}, new connection each, fetch from the store included"
    yield Figure(NAME, "first execution of a version never seen", statistics.median(first), "ms", note)
    yield Figure(NAME, "the execution after it", statistics.median(second), "ms", f"median of {_VERSIONS}")
