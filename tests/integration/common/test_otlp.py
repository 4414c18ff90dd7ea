"""What becomes of spans on their way to a real collector."""

import time

import pytest
from prometheus_client import generate_latest

from loopai_common.runtime import tracing
from loopai_common.runtime.metrics import create_registry
from tests.support.otlp import TraceCollector

QUEUE, BATCH, FLOOD = 2048, 512, 5000


def counted(outcome: str) -> int:
    (line,) = [
        line
        for line in generate_latest(create_registry("test")).decode().splitlines()
        if line.startswith(f'loopai_trace_spans_total{{outcome="{outcome}"}}')
    ]
    return int(float(line.split()[1]))


def test_what_a_full_queue_drops_is_counted_and_the_rest_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {outcome: counted(outcome) for outcome in tracing.span_counts}
    with TraceCollector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "60")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")
        with tracing.exported("test"):
            with collector.busy():
                for number in range(FLOOD):
                    tracing.start(f"span {number}", None).end()
                dropped = counted("dropped") - before["dropped"]
            assert FLOOD - QUEUE - BATCH <= dropped <= FLOOD - QUEUE
            deadline = time.monotonic() + 60
            while len(collector.spans) < FLOOD - dropped:
                assert time.monotonic() < deadline, f"{len(collector.spans)} spans arrived"
                time.sleep(0.02)
    assert len(collector.spans) == FLOOD - dropped
    assert counted("exported") - before["exported"] == FLOOD - dropped
    assert counted("failed") == before["failed"]
    assert counted("dropped") - before["dropped"] == dropped
