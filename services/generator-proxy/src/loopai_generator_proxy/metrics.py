"""Metrics of the generator-proxy."""

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from loopai_common.runtime.metrics import LATENCY_BUCKETS
from loopai_generator_proxy.domain import BreakerState, GeneratorRole, Outcome, StandIn

_ACCURACY_BUCKETS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 0.99, 1.0)
_DURATION_BUCKETS = (*LATENCY_BUCKETS, 120.0, 300.0, 600.0)


class GeneratorMetrics:
    """Counts the calls to one generator; see :meth:`GenerationMetrics.calls_to`."""

    def __init__(self, metrics: "GenerationMetrics", role: GeneratorRole) -> None:
        self._attempts = partial(metrics.attempts.labels, role.value)
        self._attempt_duration = metrics.attempt_duration.labels(role.value)
        self._retries = metrics.retries.labels(role.value)
        self._state = partial(metrics.breaker_state.labels, role.value)
        self._transitions = partial(metrics.breaker_transitions.labels, role.value)
        self._show(BreakerState.CLOSED)

    def attempted(self, outcome: str, seconds: float) -> None:
        """An attempt ended."""
        self._attempts(outcome).inc()
        self._attempt_duration.observe(seconds)

    def retried(self) -> None:
        """An attempt repeats one that failed."""
        self._retries.inc()

    def breaker_changed(self, state: BreakerState) -> None:
        """The circuit breaker went into ``state``."""
        self._transitions(state.value).inc()
        self._show(state)

    def _show(self, state: BreakerState) -> None:
        for each in BreakerState:
            self._state(each.value).set(each is state)


class GenerationMetrics:
    """Counts generations (the service's observer) and the calls that they make."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.attempts = Counter(
            "loopai_generation_attempts_total",
            "HTTP calls to the generator, by outcome: ok, declined, timeout, connection, status_4xx, status_5xx, "
            "redirect, invalid, cancelled (the total deadline, or a stop).",
            ["generator", "outcome"],
            registry=registry,
        )
        self.retries = Counter(
            "loopai_generation_retries_total",
            "Attempts that repeated a failed one.",
            ["generator"],
            registry=registry,
        )
        self.attempt_duration = Histogram(
            "loopai_generation_attempt_duration_seconds",
            "Time of one HTTP call to the generator.",
            ["generator"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.breaker_state = Gauge(
            "loopai_generator_breaker_state",
            "1 for the state that the circuit breaker is in: closed, open, half_open (a call probes).",
            ["generator", "state"],
            registry=registry,
        )
        self.breaker_transitions = Counter(
            "loopai_generator_breaker_transitions_total",
            "Changes of the circuit breaker, by the state it went into.",
            ["generator", "state"],
            registry=registry,
        )
        self._outcomes = Counter(
            "loopai_generations_total",
            "Generations, by outcome: activated, draft (below the target), kept (an earlier version stands in), "
            "failed, skipped (done before, or no task), interrupted (comes again).",
            ["outcome"],
            registry=registry,
        )
        self._fallbacks = Counter(
            "loopai_generation_fallbacks_total",
            "Generations whose generator was unavailable, by what stands in: earlier_version, learner.",
            ["stand_in"],
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

    def calls_to(self, role: GeneratorRole) -> GeneratorMetrics:
        """What counts the calls to one of the generators."""
        return GeneratorMetrics(self, role)

    def started(self) -> None:
        """A generation began."""
        self._in_flight.inc()

    def fell_back(self, stand_in: StandIn) -> None:
        """The generator is unavailable, and this is what there is instead."""
        self._fallbacks.labels(stand_in.value).inc()

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
