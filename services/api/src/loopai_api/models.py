"""The bodies of the HTTP API that differ from the contracts of the bus, and the examples of its documentation."""

from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue

from loopai_common.contracts.artifacts import ArtifactPage, ProgramArtifact
from loopai_common.contracts.base import ExecutionId, TaskId, Version
from loopai_common.contracts.execution import MAX_TIMEOUT_MS, ExecutionError, ExecutionStatus
from loopai_common.contracts.tasks import TaskDefinition, TaskPage, TaskSpecification

EXAMPLE_DEFINITION: dict[str, Any] = {
    "name": "spam-detection",
    "description": "Decide whether a text message is spam or ham.",
    "input_schema": {
        "type": "object",
        "properties": {"text": {"type": "string"}},
        "required": ["text"],
    },
    "output_schema": {"enum": ["spam", "ham"]},
    "examples": [
        {"input": {"text": "Free entry! Text WIN to 80086 to claim your prize"}, "output": "spam"},
        {"input": {"text": "Are we still on for lunch?"}, "output": "ham"},
    ],
    "accuracy_target": 0.9,
}
EXAMPLE_TASK: dict[str, Any] = {
    "id": "01938f5e-3a6b-7c4d-9e1f-2a3b4c5d6e7f",
    **{k: v for k, v in EXAMPLE_DEFINITION.items() if k != "examples"},
    "total_examples": 2,
    "latency_target_ms": 10,
    "sampling_rate": 0.1,
    "status": "ready",
    "status_reason": None,
    "active_version": 1,
    "total_versions": 1,
    "created_at": "2026-01-05T09:00:00.000Z",
    "updated_at": "2026-01-05T09:00:02.000Z",
    "examples": EXAMPLE_DEFINITION["examples"],
}
EXAMPLE_EXECUTION: dict[str, Any] = {
    "execution_id": "01938f60-1111-7abc-8def-0123456789ab",
    "task_id": EXAMPLE_TASK["id"],
    "program_id": "01938f5f-2222-7abc-8def-0123456789ab",
    "version": 1,
    "status": "success",
    "output": "spam",
    "error_code": None,
    "error_message": None,
    "latency_ms": 0.041,
    "sampled_for_validation": False,
    "executed_at": "2026-01-05T09:01:00.000Z",
    "correlation_id": "01938f60-1111-7abc-8def-0123456789ab",
}
EXAMPLE_ARTIFACT: dict[str, Any] = {
    "id": EXAMPLE_EXECUTION["program_id"],
    "task_id": EXAMPLE_TASK["id"],
    "version": 1,
    "language": "python",
    "entry_point": "run",
    "code": None,
    "digest": "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
    "size_bytes": 21480,
    "synthesis_strategy": "ml",
    "confidence_score": 0.98,
    "complexity_metrics": {"cyclomatic_complexity": 5, "lines_of_code": 42, "estimated_latency_ms": 0.04},
    "llm_provider": None,
    "llm_model": None,
    "generation_cost": 0.0,
    "generation_time_sec": 1.9,
    "validation": None,
    "status": "active",
    "deployment_percentage": 100.0,
    "created_at": "2026-01-05T09:00:02.000Z",
    "deployed_at": "2026-01-05T09:00:02.000Z",
    "parent_version": None,
}


class CreateTaskRequest(TaskDefinition):
    """A new task. Unknown fields are refused, so that a misspelt one is not lost."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_DEFINITION]})


class TaskResponse(TaskSpecification):
    """A task, with its examples."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_TASK]})


class TaskListResponse(TaskPage):
    """A page of tasks, oldest first."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"items": [{k: v for k, v in EXAMPLE_TASK.items() if k != "examples"}], "next_cursor": None}]
        }
    )


class ArtifactResponse(ProgramArtifact):
    """One version of a task's program."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_ARTIFACT]})


class ArtifactListResponse(ArtifactPage):
    """A page of versions, oldest first."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"items": [EXAMPLE_ARTIFACT], "next_cursor": None}]})


class ExecuteRequest(BaseModel):
    """One input to run. ``version`` left out: the active one. ``task_id``, when given, must equal the path's."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"input": {"text": "Free entry! Claim your prize now"}}]},
    )

    input: JsonValue
    version: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    force_validation: bool = False
    timeout_ms: Annotated[int, Field(ge=1, le=MAX_TIMEOUT_MS)] | None = None
    task_id: Annotated[str, Field(min_length=36, max_length=36)] | None = None


class ExecuteResponse(BaseModel):
    """Outcome of an execution. ``output`` is ``null`` unless ``status`` is ``success``."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_EXECUTION]})

    execution_id: ExecutionId
    task_id: TaskId
    program_id: str
    version: Version
    status: ExecutionStatus
    output: JsonValue
    error_code: ExecutionError | None
    error_message: str | None
    latency_ms: float
    sampled_for_validation: bool
    executed_at: AwareDatetime
    correlation_id: str


class ErrorDetail(BaseModel):
    """One broken rule: where, what to do, and the name of the rule."""

    field: str
    message: str
    code: str


class ErrorResponse(BaseModel):
    """What every error answers with. ``trace_id`` is the request's correlation id."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "code": "validation_error",
                    "message": "the request breaks 1 rule",
                    "details": [
                        {
                            "field": "accuracy_target",
                            "message": "input should be less than or equal to 1",
                            "code": "less_than_equal",
                        }
                    ],
                    "trace_id": "01938f60-1111-7abc-8def-0123456789ab",
                    "timestamp": "2026-01-05T09:00:00.000Z",
                }
            ]
        }
    )

    code: str
    message: str
    details: list[ErrorDetail]
    trace_id: str
    timestamp: AwareDatetime
