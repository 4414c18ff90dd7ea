"""What the executor shows on ``/metrics``: read from plain counters when somebody asks."""

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from loopai_common.contracts.execution import ExecutionError
from loopai_common.contracts.frames import AnswerKind
from loopai_common.runtime.metrics import CONSUMER_GAUGES
from loopai_executor.domain import DURATION_BUCKETS, LANES, Counts
from loopai_executor.sandbox.pool import Pool

HIGHEST: Final = frozenset(
    {*CONSUMER_GAUGES, "loopai_worker_peak_memory_bytes", "loopai_sandbox_degraded", "loopai_executor_cgroup_limited"}
)
"""The gauges that do not add up over executors."""

TOP_TASKS: Final = 20
_DROPS: Final = ("rate", "queue", "bus")


class ExecutorMetrics(Collector):
    """Collects what :class:`Counts` and the pool hold."""

    def __init__(self, counts: Counts, pool: Pool, registry: CollectorRegistry) -> None:
        self._counts = counts
        self._pool = pool
        registry.register(self)

    def describe(self) -> list[Metric]:
        """Nothing: the registry need not collect to know the names."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every metric of the executor."""
        counts, pool = self._counts, self._pool
        executions = CounterMetricFamily(
            "loopai_executions", "Executions by outcome and by the way they came.", labels=["status", "lane"]
        )
        for kind in AnswerKind:
            for lane in LANES:
                executions.add_metric([kind.name.lower(), lane], counts.executions[lane][kind])
        yield executions
        yield self._durations()
        tasks = CounterMetricFamily(
            "loopai_task_executions",
            f"Executions of the {TOP_TASKS} busiest tasks by outcome, counted while their programs are loaded.",
            labels=["task_id", "outcome"],
        )
        for task, total, failures in pool.busiest(TOP_TASKS):
            tasks.add_metric([task, "success"], total - failures)
            tasks.add_metric([task, "failure"], failures)
        yield tasks
        kills = CounterMetricFamily("loopai_worker_kills", "Workers that died, by the limit.", labels=["limit"])
        for limit in ExecutionError:
            kills.add_metric([limit.value], counts.kills[limit.value])
        yield kills
        dropped = CounterMetricFamily(
            "loopai_records_dropped", "Sampled executions that were not recorded, by reason.", labels=["reason"]
        )
        for reason in _DROPS:
            dropped.add_metric([reason], counts.records_dropped[reason])
        yield dropped
        for name, text, count in (
            ("loopai_records_published", "Records of sampled executions that left.", counts.records_published),
            ("loopai_execution_batches", "Batches given to workers.", counts.batches),
            ("loopai_execution_batch_items", "Executions in these batches.", counts.batched_items),
            ("loopai_executions_overloaded", "Executions refused for lack of room.", counts.overloaded),
            ("loopai_worker_spawns", "Workers forked.", counts.worker_spawns),
            ("loopai_program_loads", "Programs loaded into a worker.", counts.cold_loads),
            ("loopai_program_load_failures", "Programs that did not load.", counts.failed_loads),
            ("loopai_program_quarantines", "Programs no longer tried for a while.", counts.quarantines),
            (
                "loopai_rollout_candidates_missed",
                "Times that a version being rolled out was left out, since its code was not to be had.",
                counts.candidates_missed,
            ),
            ("loopai_sandbox_restarts", "Zygotes that had to be replaced.", counts.zygote_restarts),
            ("loopai_worker_cpu_seconds", "Processor time of workers that ended.", counts.worker_cpu_seconds),
        ):
            yield CounterMetricFamily(name, text, value=count)
        for name, text, value in (
            ("loopai_execution_queue_depth", "Executions waiting or running.", pool.queued),
            ("loopai_warm_programs", "Programs loaded right now.", pool.warm_programs),
            ("loopai_sandbox_workers", "Worker processes that are there, the spare ones too.", pool.workers),
            ("loopai_worker_peak_memory_bytes", "Largest memory of a worker so far.", counts.worker_peak_memory_bytes),
            (
                "loopai_executor_cgroup_limited",
                "1 when the workers are in a control group with limits.",
                pool.group is not None,
            ),
            ("loopai_sandbox_degraded", "1 when a layer of the sandbox is missing.", bool(pool.missing)),
        ):
            yield GaugeMetricFamily(name, text, value=float(value))
        if pool.group is not None:
            yield GaugeMetricFamily(
                "loopai_sandbox_memory_bytes",
                "Memory of all workers and what they are forked from.",
                value=float(pool.group.memory_bytes()),
            )

    def _durations(self) -> Metric:
        total = 0
        buckets = []
        for bound, number in zip((*map(str, DURATION_BUCKETS), "+Inf"), self._counts.durations, strict=True):
            total += number
            buckets.append((bound, float(total)))
        return HistogramMetricFamily(
            "loopai_execution_duration_seconds",
            "Time of an execution in its worker.",
            buckets=buckets,
            sum_value=self._counts.duration_seconds,
        )
