"""Metrics of the generator-proxy."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from loopai_common.runtime.metrics import LATENCY_BUCKETS
from loopai_generator_proxy.domain import Outcome

_ACCURACY_BUCKETS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 0.99, 1.0)
_DURATION_BUCKETS = (*LATENCY_BUCKETS, 120.0, 300.0, 600.0)


class GenerationMetrics:
    """Counts generations (the service's observer) and the attempts of the HTTP adapter."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.attempts = Counter(
            "loopai_generation_attempts_total",
            "HTTP calls to the generator, by outcome: ok, declined, timeout, connection, status_4xx, status_5xx, "
            "redirect, invalid, cancelled (the total deadline, or a stop).",
            ["outcome"],
            registry=registry,
        )
        self.retries = Counter(
            "loopai_generation_retries_total", "Attempts that repeated a failed one.", registry=registry
        )
        self.attempt_duration = Histogram(
            "loopai_generation_attempt_duration_seconds",
            "Time of one HTTP call to the generator.",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self._outcomes = Counter(
            "loopai_generations_total",
            "Generations, by outcome: activated, draft (below the target), failed, skipped (done before, or no task), "
            "interrupted (comes again).",
            ["outcome"],
            registry=registry,
        )
        self._duration = Histogram(
            "loopai_generation_duration_seconds",
            "Time from the message to the version.",
            buckets=_DURATION_BUCKETS,
            registry=registry,
        )
        self._rounds = Histogram(
            "loopai_generation_rounds",
            "Programs that were checked until one was published.",
            buckets=(1, 2, 3, 5, 10),
            registry=registry,
        )
        self._accuracy = Histogram(
            "loopai_generation_accuracy_ratio",
            "Accuracy on all its examples of each program that was published.",
            buckets=_ACCURACY_BUCKETS,
            registry=registry,
        )
        self._in_flight = Gauge("loopai_generations_in_flight", "Generations that run right now.", registry=registry)

    def started(self) -> None:
        """A generation began."""
        self._in_flight.inc()

    def finished(self, outcome: Outcome, seconds: float) -> None:
        """A generation ended."""
        self._in_flight.dec()
        self._outcomes.labels(outcome.value).inc()
        self._duration.observe(seconds)

    def checked(self, rounds: int) -> None:
        """A program was found after so many rounds."""
        self._rounds.observe(rounds)

    def published(self, accuracy: float) -> None:
        """A program with this accuracy was stored."""
        self._accuracy.observe(accuracy)
