"""Figures of the hot path as plain integers, shown to Prometheus by a collector (a counter a request costs 10 µs)."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from loopai_common.errors import LoopaiError

BUCKETS_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


CONNECTIONS = "connections"
SLOW_READERS = "slow_reader"
REJECTIONS = {
    "missing_api_key": "key",
    "invalid_api_key": "key",
    "insufficient_scope": "scope",
    "rate_limit_exceeded": "rate",
    "https_required": "https",
    "overloaded": "overload",
    "request_timeout": "timeout",
    "headers_too_large": "headers",
}
"""Why requests are turned away, by the code of the error; connections end for two more reasons."""


class PlainHistogram:
    """Counts of durations in seconds; one bucket more than there are bounds."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_SECONDS) + 1)
        self.total = 0.0

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


class RouteCounts:
    """Requests of one method to one route, by status, and how long they took."""

    __slots__ = ("durations", "statuses")

    def __init__(self) -> None:
        self.statuses: defaultdict[int, int] = defaultdict(int)
        self.durations = PlainHistogram()

    def observe(self, status: int, seconds: float) -> None:
        """Counts one request."""
        self.statuses[status] += 1
        durations = self.durations
        durations.counts[bisect_left(BUCKETS_SECONDS, seconds)] += 1
        durations.total += seconds


class BatchMetrics(Collector):
    """What batches count, item by item."""

    def __init__(self) -> None:
        self.items = {"success": 0, "error": 0, "timeout": 0}
        self.waits = 0

    def collect(self) -> Iterator[Metric]:
        """The figures as Prometheus families."""
        items = CounterMetricFamily("loopai_batch_items", "Items of batches by how they ended.", labels=["status"])
        for status, count in self.items.items():
            items.add_metric([status], count)
        yield items
        yield CounterMetricFamily("loopai_batch_waits", "Times an item of a batch waited for room.", self.waits)


class HttpMetrics(Collector):
    """What the HTTP side counts. Routes are templates, so the number of series is bounded."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.event_streams = 0
        self.rejected = dict.fromkeys([*REJECTIONS.values(), CONNECTIONS, SLOW_READERS], 0)
        self._routes: dict[tuple[str, str], RouteCounts] = {}

    def counts(self, method: str, route: str) -> RouteCounts:
        """The counts of one method and route, made when they are asked for first."""
        found = self._routes.get((method, route))
        if found is None:
            found = self._routes[method, route] = RouteCounts()
        return found

    def refused(self, error: LoopaiError) -> None:
        """Counts a request that was answered with ``error``, if it was turned away before anything was done for it."""
        reason = REJECTIONS.get(error.code)
        if reason is not None:
            self.rejected[reason] += 1

    def collect(self) -> Iterator[Metric]:
        """The figures as Prometheus families."""
        requests = CounterMetricFamily(
            "loopai_http_requests", "Requests answered.", labels=["method", "route", "status"]
        )
        durations = HistogramMetricFamily(
            "loopai_http_request_duration_seconds",
            "Time from the request to its answer.",
            labels=["method", "route"],
        )
        for (method, route), counts in list(self._routes.items()):
            for status, count in list(counts.statuses.items()):
                requests.add_metric([method, route, str(status)], count)
            durations.add_metric([method, route], counts.durations.buckets(), counts.durations.total)
        yield requests
        yield durations
        yield GaugeMetricFamily("loopai_http_requests_in_flight", "Requests being answered.", self.in_flight)
        yield GaugeMetricFamily("loopai_http_event_streams", "Clients that follow a task.", self.event_streams)
        rejected = CounterMetricFamily(
            "loopai_http_rejected_requests", "Requests and connections turned away.", labels=["reason"]
        )
        for reason, count in self.rejected.items():
            rejected.add_metric([reason], count)
        yield rejected
