"""Figures of the hot path as plain integers, shown to Prometheus by a collector (a counter a request costs 10 µs)."""

from bisect import bisect_left
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

BUCKETS_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class PlainHistogram:
    """Counts of durations in seconds; one bucket more than there are bounds."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_SECONDS) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        """Counts one duration."""
        self.counts[bisect_left(BUCKETS_SECONDS, seconds)] += 1
        self.total += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by upper bound, as Prometheus wants them."""
        cumulated = 0
        pairs: list[tuple[str, float]] = []
        for bound, count in zip((*map(str, BUCKETS_SECONDS), "+Inf"), self.counts, strict=True):
            cumulated += count
            pairs.append((bound, float(cumulated)))
        return pairs


class ExecutionMetrics(Collector):
    """What the execution engine counts."""

    def __init__(self) -> None:
        self.pending = 0
        self.rejected = 0
        self.resent = 0
        self.frames = 0
        self.frame_items = 0

    def collect(self) -> Iterator[Metric]:
        """The figures as Prometheus families."""
        yield GaugeMetricFamily("loopai_pending_executions", "Executions waiting for an answer.", self.pending)
        yield CounterMetricFamily(
            "loopai_rejected_executions", "Executions refused because too many were waiting.", self.rejected
        )
        yield CounterMetricFamily(
            "loopai_resent_executions", "Executions sent again because no answer came.", self.resent
        )
        yield CounterMetricFamily("loopai_frames", "Frames sent to executors.", self.frames)
        yield CounterMetricFamily("loopai_frame_items", "Executions sent in frames.", self.frame_items)


class HttpMetrics(Collector):
    """What the HTTP side counts. Routes are templates, so the number of series is bounded."""

    def __init__(self) -> None:
        self.requests: dict[tuple[str, str, int], int] = {}
        self.durations: dict[str, PlainHistogram] = {}
        self.in_flight = 0

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Counts one request."""
        key = (method, route, status)
        self.requests[key] = self.requests.get(key, 0) + 1
        histogram = self.durations.get(route)
        if histogram is None:
            histogram = self.durations[route] = PlainHistogram()
        histogram.observe(seconds)

    def collect(self) -> Iterator[Metric]:
        """The figures as Prometheus families."""
        requests = CounterMetricFamily(
            "loopai_http_requests", "Requests answered.", labels=["method", "route", "status"]
        )
        for (method, route, status), count in list(self.requests.items()):
            requests.add_metric([method, route, str(status)], count)
        yield requests
        durations = HistogramMetricFamily(
            "loopai_http_request_duration_seconds", "Time from the request to its answer.", labels=["route"]
        )
        for route, histogram in list(self.durations.items()):
            durations.add_metric([route], histogram.buckets(), histogram.total)
        yield durations
        yield GaugeMetricFamily("loopai_http_requests_in_flight", "Requests being answered.", self.in_flight)
