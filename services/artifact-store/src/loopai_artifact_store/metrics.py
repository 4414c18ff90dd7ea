"""What the artifact store measures. Labels come from closed sets; task ids never become one."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from loopai_artifact_store.domain import Activation, Backlog, Census
from loopai_artifact_store.ports import CacheKind, ReadOutcome, Timer
from loopai_common.contracts.artifacts import SynthesisStrategy
from loopai_common.errors import LoopaiError
from loopai_common.runtime import tracing
from loopai_common.runtime.metrics import LATENCY_BUCKETS

_READ_BUCKETS = (0.000005, 0.00001, 0.000025, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0)
_HITS = (ReadOutcome.NEAR, ReadOutcome.FAR)
_EVICTIONS = ("size", "expired", "removed")


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
        self._undocumented = Gauge(
            "loopai_undocumented_changes", "Changes that the recovery documents do not tell yet.", registry=registry
        )
        self._undocumented_age = Gauge(
            "loopai_undocumented_oldest_age_seconds",
            "Age of the oldest change that the recovery documents do not tell yet; 0 for none.",
            registry=registry,
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
        self._outbox_age.set(_age_seconds(backlog.oldest))
        self._undocumented.set(backlog.changes)
        self._undocumented_age.set(_age_seconds(backlog.oldest_change))


def _age_seconds(since: datetime | None) -> float:
    return 0.0 if since is None else max(0.0, (datetime.now(UTC) - since).total_seconds())


class CacheMetrics:
    """What the cache of one instance does. Operations on Redis are among those of the ports."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._reads = Histogram(
            "loopai_cache_read_duration_seconds",
            "Time of a read through the cache, by what was read. Outcome: near (from memory), far (from Redis), store, "
            "joined (waited for the load of another), failed.",
            ["operation", "outcome"],
            buckets=_READ_BUCKETS,
            registry=registry,
        )
        self._hits = Counter(
            "loopai_cache_hits_total", "Reads answered by a level of the cache.", ["level"], registry=registry
        )
        self._misses = Counter("loopai_cache_misses_total", "Reads that the store had to answer.", registry=registry)
        self._joined = Counter(
            "loopai_cache_stampedes_joined_total",
            "Misses that waited for the load of another one instead of loading themselves.",
            registry=registry,
        )
        self._refreshes = Counter(
            "loopai_cache_refreshes_total",
            "Values loaded anew in the background because they were used shortly before their end.",
            ["kind"],
            registry=registry,
        )
        self._evictions = Counter(
            "loopai_cache_evictions_total",
            "Entries that memory gave up. Reason: size, expired, removed (something was written).",
            ["reason"],
            registry=registry,
        )
        self._warmed = Counter(
            "loopai_cache_warmed_total", "Tasks whose program was loaded at start.", registry=registry
        )
        self._read_children = {
            (kind, outcome): self._reads.labels(kind.value, outcome.value)
            for kind in CacheKind
            for outcome in ReadOutcome
        }
        self._hit_children = {outcome: self._hits.labels(outcome.value) for outcome in _HITS}
        self._eviction_children = {reason: self._evictions.labels(reason) for reason in _EVICTIONS}
        self._answered = self._asked = 0
        self._show(
            "loopai_cache_hit_ratio",
            "Share of the reads since start that the cache answered.",
            lambda: self._answered / self._asked if self._asked else 0.0,
        )

    def read(self, kind: CacheKind, outcome: ReadOutcome, seconds: float) -> None:
        """Counts a read."""
        self._read_children[kind, outcome].observe(seconds)
        self._asked += 1
        hit = self._hit_children.get(outcome)
        if hit is not None:
            self._answered += 1
            hit.inc()
            return
        self._misses.inc()
        if outcome is ReadOutcome.JOINED:
            self._joined.inc()

    def refreshed(self, kind: CacheKind) -> None:
        """Counts a refresh."""
        self._refreshes.labels(kind.value).inc()

    def evicted(self, reason: str, count: int) -> None:
        """Counts evictions."""
        if count:
            self._eviction_children[reason].inc(count)

    def warmed(self, tasks: int) -> None:
        """Counts what was warmed."""
        self._warmed.inc(tasks)

    def show_memory(self, entries: Callable[[], int], size_bytes: Callable[[], int]) -> None:
        """Shows how much memory holds."""
        self._show("loopai_cache_entries", "Entries in memory.", entries)
        self._show("loopai_cache_bytes", "Roughly what the entries in memory take.", size_bytes)

    def show_breaker(self, is_open: Callable[[], bool]) -> None:
        """Shows whether Redis is left alone."""
        self._show("loopai_cache_breaker_open", "1 while Redis does not answer and is left alone.", is_open)

    def _show(self, name: str, text: str, value: Callable[[], float]) -> None:
        Gauge(name, text, registry=self._registry).set_function(value)
