"""Metrics of the generator."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from loopai_common.runtime.metrics import LATENCY_BUCKETS


class GeneratorMetrics:
    """What was asked for and what came of it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._generations = Counter(
            "loopai_generator_generations_total",
            "Requests for a program, by outcome: program, declined (success=false), cancelled (the client left), "
            "or an error's code.",
            ["outcome"],
            registry=registry,
        )
        self._duration = Histogram(
            "loopai_generator_duration_seconds",
            "Time from a valid request to its answer, waiting included.",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self._in_flight = Gauge(
            "loopai_generator_in_flight", "Requests being served, the waiting ones included.", registry=registry
        )

    def started(self) -> None:
        """A valid request came in."""
        self._in_flight.inc()

    def finished(self, outcome: str, seconds: float) -> None:
        """It was answered."""
        self._in_flight.dec()
        self._generations.labels(outcome).inc()
        self._duration.observe(seconds)
