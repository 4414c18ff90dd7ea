"""Metrics of the bus, and the registry that a service's ``/metrics`` shows."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.gc_collector import GCCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from loopai_common import __version__
from loopai_common.runtime.tracing import span_counts

CONSUMER_GAUGES = (
    "loopai_bus_consumer_pending_messages",
    "loopai_bus_consumer_unacknowledged_messages",
    "loopai_bus_stream_messages",
    "loopai_bus_stream_bytes",
)
"""The gauges that every instance and worker shows alike, so that they never add up."""

LATENCY_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


def create_registry(service: str) -> CollectorRegistry:
    """A registry with the process's own figures and the build's version. One for each service, never the global one."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    labels = ["service", "version"]
    info = Gauge("loopai_build_info", "Constant 1; the labels say what runs.", labels, registry=registry)
    info.labels(service, __version__).set(1)
    registry.register(_TraceMetrics())
    return registry


class _TraceMetrics(Collector):
    """What became of the spans of this process."""

    def collect(self) -> Iterator[Metric]:
        spans = CounterMetricFamily(
            "loopai_trace_spans",
            "Spans, by what became of them: exported, failed (the collector did not take them), dropped (the queue was"
            " full).",
            labels=["outcome"],
        )
        for outcome, count in span_counts.items():
            spans.add_metric([outcome], count)
        yield spans


class BusMetrics:
    """What passes over the bus. ``subject`` is the subject's class, never a task's own subject."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.messages = Counter(
            "loopai_bus_messages_total",
            "Messages handled, by outcome: ok, error (a deliberate one), internal, dropped (past its deadline).",
            ["subject", "outcome"],
            registry=registry,
        )
        self.duration = Histogram(
            "loopai_bus_handler_duration_seconds",
            "Time in the handler of a message.",
            ["subject"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.redeliveries = Counter(
            "loopai_bus_redeliveries_total", "Messages that came again.", ["subject"], registry=registry
        )
        self.dead_letters = Counter(
            "loopai_bus_dead_letters_total",
            "Messages given up and kept.",
            ["subject"],
            registry=registry,
        )
        self.reconnects = Counter("loopai_bus_reconnects_total", "Reconnections to NATS.", registry=registry)
        self.errors = Counter(
            "loopai_bus_connection_errors_total", "Errors that the NATS client reported.", registry=registry
        )
        pending, unacknowledged, messages, size = CONSUMER_GAUGES
        self.pending = Gauge(
            pending,
            "Messages that wait for a consumer; all its instances show the same.",
            ["consumer"],
            registry=registry,
        )
        self.unacknowledged = Gauge(
            unacknowledged, "Messages that a consumer was given and has not settled.", ["consumer"], registry=registry
        )
        self.stream_messages = Gauge(messages, "Messages that a stream keeps.", ["stream"], registry=registry)
        self.stream_bytes = Gauge(size, "What the messages of a stream take.", ["stream"], registry=registry)
