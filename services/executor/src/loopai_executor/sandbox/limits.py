"""What the workers of an executor may use together."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """``memory_bytes`` of a worker and ``output_bytes`` of an execution; the rest counts programs, jobs, workers."""

    memory_bytes: int
    output_bytes: int
    load_timeout_ms: int
    max_programs: int
    max_queued_items: int
    spare_workers: int
    degraded: bool
