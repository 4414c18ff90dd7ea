"""What the artifact store measures. Labels come from closed sets; task ids never become one."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from loopai_artifact_store.domain import Activation, Backlog, Census
from loopai_artifact_store.ports import Timer
from loopai_common.contracts.artifacts import SynthesisStrategy
from loopai_common.errors import LoopaiError
from loopai_common.runtime import tracing
from loopai_common.runtime.metrics import LATENCY_BUCKETS


class StoreMetrics:
    """One instance's metrics. The gauges count what is stored: all instances show the same, so never add them up."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._operations = Histogram(
            "loopai_store_operation_duration_seconds",
            "Time of an operation on a port. Outcome: ok, the code of a deliberate error, or internal.",
            ["port", "backend", "operation", "outcome"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self._tasks = Gauge("loopai_tasks", "Tasks stored, by status.", ["status"], registry=registry)
        self._artifacts = Gauge("loopai_artifacts", "Versions stored, by status.", ["status"], registry=registry)
        self._published = Counter(
            "loopai_artifacts_published_total", "Versions published, by strategy.", ["strategy"], registry=registry
        )
        self._activations = Counter(
            "loopai_activations_total",
            "Activations: of all executions, forward or back to a lower version, or a rollout of a share of them.",
            ["direction"],
            registry=registry,
        )
        self._outbox = Gauge("loopai_outbox_events", "Events waiting in the outbox.", registry=registry)
        self._outbox_age = Gauge(
            "loopai_outbox_oldest_age_seconds", "Age of the oldest event in the outbox; 0 for none.", registry=registry
        )

    def timer(self, port: str, backend: str) -> Timer:
        """A timer for the operations of one adapter."""

        @contextmanager
        def timed(operation: str) -> Iterator[None]:
            outcome = "internal"
            started = time.perf_counter()
            attributes = {"db.system.name": backend, "db.operation.name": operation}
            try:
                with tracing.span(f"{port} {operation}", kind=tracing.Kind.CLIENT, attributes=attributes):
                    yield
                outcome = "ok"
            except LoopaiError as error:
                outcome = error.code
                raise
            finally:
                elapsed = time.perf_counter() - started
                self._operations.labels(port, backend, operation, outcome).observe(elapsed)

        return timed

    def published(self, strategy: SynthesisStrategy) -> None:
        """Counts a new version."""
        self._published.labels(strategy.value).inc()

    def activated(self, activation: Activation) -> None:
        """Counts an activation."""
        back = activation.from_version is not None and activation.to_version < activation.from_version
        direction = "back" if back else "forward"
        self._activations.labels(direction if activation.moves_pointer else "rollout").inc()

    def show(self, census: Census, backlog: Backlog) -> None:
        """Shows what is stored."""
        for task_status, count in census.tasks.items():
            self._tasks.labels(task_status.value).set(count)
        for artifact_status, count in census.artifacts.items():
            self._artifacts.labels(artifact_status.value).set(count)
        self._outbox.set(backlog.events)
        age = 0.0 if backlog.oldest is None else (datetime.now(UTC) - backlog.oldest).total_seconds()
        self._outbox_age.set(max(0.0, age))
