"""What the client's calls answer with: the contracts of the bus where they fit, and what HTTP adds to them."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pydantic import AwareDatetime

from loopai_common.contracts.artifacts import (
    Activation,
    ActivationPage,
    ArtifactPage,
    ArtifactStatus,
    ProgramArtifact,
    SynthesisStrategy,
)
from loopai_common.contracts.base import Contract, ExecutionId, TaskId, Timestamp, Version
from loopai_common.contracts.execution import ExecutionPage, ExecutionRecord, ExecutionStatus, RecordStatus
from loopai_common.contracts.generation import EntryPoint, GenerationStarted
from loopai_common.contracts.health import HealthStatus
from loopai_common.contracts.tasks import Comparison, Isolation, TaskPage, TaskSpecification, TaskStatus, TaskSummary

Json = Any
"""A JSON value."""

Task = TaskSpecification
Artifact = ProgramArtifact

__all__ = [
    "Activation",
    "ActivationPage",
    "Artifact",
    "ArtifactPage",
    "ArtifactStatus",
    "BatchItem",
    "BatchItemResult",
    "BatchLine",
    "BatchResult",
    "Check",
    "Comparison",
    "EntryPoint",
    "Execution",
    "ExecutionAccepted",
    "ExecutionPage",
    "ExecutionRecord",
    "ExecutionStatus",
    "GenerationStarted",
    "Health",
    "HealthStatus",
    "Isolation",
    "Json",
    "Readiness",
    "RecordStatus",
    "SynthesisStrategy",
    "Task",
    "TaskEvent",
    "TaskPage",
    "TaskStatus",
    "TaskSummary",
]


class Execution(Contract):
    """Outcome of an execution. ``latency_ms`` is the time in the sandbox; ``output`` is ``None`` without success."""

    execution_id: ExecutionId
    task_id: TaskId
    program_id: str
    version: Version
    status: ExecutionStatus
    output: Json
    error_code: str | None
    error_message: str | None
    latency_ms: float
    sampled_for_validation: bool
    executed_at: Timestamp
    correlation_id: str


class ExecutionAccepted(Contract):
    """An execution that runs later; its record has the id ``execution_id``."""

    execution_id: ExecutionId
    task_id: TaskId | None
    version: Version | None
    status: RecordStatus
    accepted_at: Timestamp
    correlation_id: str


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One input of a batch. ``id`` comes back with its result; ``None`` stands for its number in the batch, from 1."""

    input: Json
    id: str | None = None
    force_validation: bool = False


class BatchItemResult(Contract):
    """Outcome of one item; ``latency_ms`` and ``execution_id`` are ``None`` for one that never ran."""

    id: str | None
    status: ExecutionStatus
    output: Json
    error_code: str | None
    error_message: str | None
    latency_ms: float | None
    execution_id: ExecutionId | None
    sampled_for_validation: bool


class BatchLine(BatchItemResult):
    """One result of a streamed batch; ``line`` is the item's number, from 1."""

    line: int


class BatchResult(Contract):
    """Outcomes of a batch, in the order of its items; durations in milliseconds."""

    batch_id: UUID
    task_id: TaskId
    version: Version
    total_items: int
    success_count: int
    failure_count: int
    total_duration_ms: float
    avg_latency_ms: float | None
    results: tuple[BatchItemResult, ...]
    started_at: Timestamp
    completed_at: Timestamp


@dataclass(frozen=True, slots=True)
class TaskEvent:
    """Something that happened to a task: ``kind`` is ``artifact.activated``, ``task.failed``, …

    ``task`` comes first, with the task as it is; ``id`` is ``None`` where the server gave none.
    """

    kind: str
    data: Json
    id: str | None = None


class Health(Contract):
    """A process that answers, and the version of its software."""

    status: HealthStatus
    version: str
    timestamp: AwareDatetime


class Check(Contract):
    """How one thing is that the API depends on; ``detail`` says what it lacks."""

    status: HealthStatus
    latency_ms: float | None = None
    detail: str | None = None


class Readiness(Contract):
    """Whether the API can work. ``degraded`` takes work, with less than it should have."""

    status: HealthStatus
    checks: dict[str, Check]

    @property
    def ready(self) -> bool:
        """Whether work is taken."""
        return self.status is not HealthStatus.UNHEALTHY

    @property
    def missing(self) -> str:
        """What is not as it should be, in one line."""
        return "; ".join(f"{n}: {c.detail}" for n, c in self.checks.items() if c.status is not HealthStatus.HEALTHY)
