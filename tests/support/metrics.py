"""Every metric of every service, from the registries that show them; ``docs/metrics.md`` is written from this."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final, cast

from prometheus_client import CollectorRegistry

from loopai_api.execution.metrics import (
    CONNECTIONS,
    REJECTIONS,
    SLOW_READERS,
    BatchMetrics,
    ExecutionMetrics,
    HttpMetrics,
)
from loopai_artifact_store.metrics import CacheMetrics, StoreMetrics
from loopai_artifact_store.ports import CacheKind, ReadOutcome
from loopai_common.contracts import subjects
from loopai_common.contracts.artifacts import ArtifactStatus, SynthesisStrategy
from loopai_common.contracts.execution import ExecutionError
from loopai_common.contracts.frames import AnswerKind
from loopai_common.contracts.tasks import TaskStatus
from loopai_common.runtime.metrics import BusMetrics, create_registry
from loopai_common.runtime.settings import PREFIXES
from loopai_common.runtime.worker_metrics import MISSING
from loopai_executor.domain import Counts
from loopai_executor.metrics import ExecutorMetrics
from loopai_executor.sandbox.pool import Pool
from loopai_generator.metrics import GeneratorMetrics
from loopai_generator_proxy.domain import BreakerState, GeneratorRole, Outcome, StandIn
from loopai_generator_proxy.metrics import GenerationMetrics

CODES: Final = "a code of [errors](errors.md)"

Values = Collection[str] | str
"""The closed set of a label's values, or what they are."""

LABELS: Final[Mapping[str, Values]] = {
    "service": tuple(PREFIXES),
    "version": "the release",
    "subject": "a subject of the bus, without what names a task",
    "consumer": "a durable consumer of this service",
    "stream": (
        subjects.COMMANDS_STREAM,
        subjects.EVENTS_STREAM,
        subjects.EXECUTIONS_STREAM,
        subjects.DEAD_LETTERS_STREAM,
    ),
    "method": ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other"),
    "route": "a route's template, or `unmatched`",
    "lane": ("frame", "request"),
    "task_id": "a task's id; at most 20 at a time in each executor",
    "limit": tuple(error.value for error in ExecutionError),
    "port": ("catalog", "executions", "storage", "cache"),
    "backend": ("sqlite", "files", "mongodb", "azure", "redis", "memory"),
    "operation": "the name of the operation",
    "strategy": tuple(strategy.value for strategy in SynthesisStrategy),
    "direction": ("forward", "back", "rollout"),
    "level": (ReadOutcome.NEAR.value, ReadOutcome.FAR.value),
    "kind": tuple(kind.value for kind in CacheKind),
    "generator": tuple(role.value for role in GeneratorRole),
    "state": tuple(state.value for state in BreakerState),
    "stand_in": tuple(stand_in.value for stand_in in StandIn),
}

_LABELS_OF: Final[Mapping[tuple[str, str], Values]] = {
    ("loopai_trace_spans_total", "outcome"): ("exported", "failed", "dropped"),
    ("loopai_bus_messages_total", "outcome"): ("ok", "error", "internal", "dropped"),
    ("loopai_http_requests_total", "status"): "an HTTP status",
    ("loopai_http_rejected_requests_total", "reason"): (*dict.fromkeys(REJECTIONS.values()), CONNECTIONS, SLOW_READERS),
    ("loopai_batch_items_total", "status"): ("success", "error", "timeout"),
    ("loopai_executions_total", "status"): tuple(kind.name.lower() for kind in AnswerKind),
    ("loopai_task_executions_total", "outcome"): ("success", "failure"),
    ("loopai_records_dropped_total", "reason"): ("rate", "queue", "bus"),
    ("loopai_tasks", "status"): tuple(status.value for status in TaskStatus),
    ("loopai_artifacts", "status"): tuple(status.value for status in ArtifactStatus),
    ("loopai_store_operation_duration_seconds", "outcome"): f"`ok`, `internal`, or {CODES}",
    ("loopai_cache_read_duration_seconds", "outcome"): tuple(outcome.value for outcome in ReadOutcome),
    ("loopai_cache_read_duration_seconds", "operation"): tuple(kind.value for kind in CacheKind),
    ("loopai_cache_evictions_total", "reason"): ("size", "expired", "removed"),
    ("loopai_generations_total", "outcome"): tuple(outcome.value for outcome in Outcome),
    ("loopai_generation_attempts_total", "outcome"): (
        *("ok", "declined", "timeout", "connection", "status_4xx", "status_5xx", "redirect", "invalid", "cancelled"),
    ),
    ("loopai_generator_generations_total", "outcome"): f"`program`, `declined`, `cancelled`, or {CODES}",
}

_UNITS: Final = {"seconds": "seconds", "bytes": "bytes", "ratio": "share, 0 to 1"}


@dataclass(frozen=True, slots=True)
class MetricInfo:
    """A metric as an operator meets it; counters with their ``_total``."""

    name: str
    type: str
    meaning: str
    labels: tuple[str, ...]

    @property
    def unit(self) -> str:
        """By the last word of the name."""
        return _UNITS.get(self.name.removesuffix("_total").rpartition("_")[2], "number")

    @property
    def series(self) -> tuple[str, ...]:
        """The names of its series in Prometheus."""
        if self.type != "histogram":
            return (self.name,)
        return tuple(f"{self.name}_{suffix}" for suffix in ("bucket", "sum", "count"))

    def values(self, label: str) -> Values:
        """What a label of it can be."""
        return _LABELS_OF.get((self.name, label)) or LABELS[label]


def of_every_service() -> list[MetricInfo]:
    """What all services show."""
    return [m for m in _of(create_registry("api")) if m.name.startswith("loopai_")]


def of_the_bus() -> list[MetricInfo]:
    """What services on the bus show: all but the generator."""
    registry = CollectorRegistry()
    BusMetrics(registry)
    return _of(registry)


def of_workers() -> list[MetricInfo]:
    """What a service shows that runs in several workers."""
    meaning = "Workers that did not answer; of them, counters are shown as they last told them."
    return [MetricInfo(MISSING, "gauge", meaning, ())]


def of_each_service() -> dict[str, list[MetricInfo]]:
    """What each service shows besides."""
    registries = {service: CollectorRegistry() for service in PREFIXES}
    for collector in (HttpMetrics(), ExecutionMetrics(), BatchMetrics()):
        registries["api"].register(collector)
    group = SimpleNamespace(memory_bytes=lambda: 0)
    pool = SimpleNamespace(queued=0, warm_programs=0, workers=0, group=group, missing=(), busiest=lambda _: [])
    ExecutorMetrics(Counts(), cast(Pool, pool), registries["executor"])
    GenerationMetrics(registries["generator-proxy"])
    StoreMetrics(registries["artifact-store"])
    cache = CacheMetrics(registries["artifact-store"])
    cache.show_memory(lambda: 0, lambda: 0)
    cache.show_breaker(lambda: False)
    GeneratorMetrics(registries["generator"])
    return {service: _of(registry) for service, registry in registries.items()}


def every_metric() -> dict[str, MetricInfo]:
    """All of them by their name."""
    lists = [of_every_service(), of_the_bus(), of_workers(), *of_each_service().values()]
    return {metric.name: metric for metrics in lists for metric in metrics}


def metrics_markdown() -> str:
    """The page ``docs/metrics.md``."""
    sections = [
        ("Every service", of_every_service()),
        ("Every service on the bus (all but the generator)", of_the_bus()),
        ("Services in several workers", of_workers()),
        *of_each_service().items(),
    ]
    tables = "\n".join(f"## {title}\n\n{_table(metrics)}\n" for title, metrics in sections)
    return f"""\
# Metrics

Written by `make contracts` from the registries of the services. [Observability](observability.md) says how to collect
them, and which dashboards and alerts there are.

Names follow Prometheus: `_total` counts up, `_seconds` and `_bytes` are units, and a histogram has the series
`_bucket`, `_sum` and `_count`. Besides these every service shows `process_…`, `python_info` and `python_gc_…` of the
Python client.

{tables}"""


def _table(metrics: Iterable[MetricInfo]) -> str:
    rows = "\n".join(f"| `{m.name}` | {m.type} | {_labels(m)} | {m.unit} | {m.meaning} |" for m in metrics)
    return f"| metric | type | labels | unit | meaning |\n| --- | --- | --- | --- | --- |\n{rows}"


def _labels(metric: MetricInfo) -> str:
    return "; ".join(f"`{label}`: {_shown(metric.values(label))}" for label in metric.labels)


def _shown(values: Values) -> str:
    return values if isinstance(values, str) else ", ".join(f"`{value}`" for value in values)


def _of(registry: CollectorRegistry) -> list[MetricInfo]:
    """The metrics of a registry. The client's classes keep the names of labels to themselves."""
    found = []
    for collector in cast(Any, registry)._collector_to_names:
        names = getattr(collector, "_labelnames", None)
        for family in collector.collect():
            labels = tuple(family._labelnames if names is None and hasattr(family, "_labelnames") else names or ())
            name = f"{family.name}_total" if family.type == "counter" else family.name
            found.append(MetricInfo(name, family.type, family.documentation, labels))
    return found
