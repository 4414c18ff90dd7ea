"""The bodies of the HTTP API that differ from the contracts of the bus, and the examples of its documentation."""

from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, Strict, field_validator, model_validator
from pydantic.json_schema import SkipJsonSchema

from loopai_common.contracts.artifacts import (
    ActivationPage,
    ArtifactPage,
    Language,
    Percentage,
    ProgramArtifact,
    SynthesisStrategy,
)
from loopai_common.contracts.base import MAX_VERSION, ExecutionId, GenerationId, TaskId, Timestamp, Version
from loopai_common.contracts.execution import (
    MAX_BATCH_ITEMS,
    MAX_TIMEOUT_MS,
    ExecutionError,
    ExecutionPage,
    ExecutionRecord,
    ExecutionStatus,
    RecordStatus,
)
from loopai_common.contracts.generation import Constraints, EntryPoint
from loopai_common.contracts.health import HealthStatus
from loopai_common.contracts.tasks import (
    MAX_EXAMPLES,
    Example,
    TaskChanges,
    TaskDefinition,
    TaskPage,
    TaskSpecification,
    TaskStatus,
)

MAX_ITEM_ID_LENGTH = 200

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
    "isolation": "call",
    "comparison": "exact",
    "comparison_threshold": 0.8,
    "status": "ready",
    "status_reason": None,
    "active_version": 1,
    "rollout": None,
    "total_versions": 1,
    "revision": 2,
    "created_at": "2026-01-05T09:00:00.000Z",
    "updated_at": "2026-01-05T09:00:02.000Z",
    "examples": EXAMPLE_DEFINITION["examples"],
}
EXAMPLE_EVENTS = f"""\
event: task
data: {{"id":"{EXAMPLE_TASK["id"]}","name":"spam-detection","status":"generating"}}

id: 01938f5e-4b00-7d11-8a22-3b4c5d6e7f80
event: artifact.activated
data: {{"task_id":"{EXAMPLE_TASK["id"]}","task_name":"spam-detection","version":1,"percentage":100.0}}

"""
"""The beginning of a stream; the data is shortened."""

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
EXAMPLE_RECORD: dict[str, Any] = {
    "id": EXAMPLE_EXECUTION["execution_id"],
    "task_id": EXAMPLE_TASK["id"],
    "program_id": EXAMPLE_EXECUTION["program_id"],
    "version": 1,
    "input": {"text": "Free entry! Claim your prize now"},
    "output": "spam",
    "status": "success",
    "error_code": None,
    "error_message": None,
    "latency_ms": 0.041,
    "memory_usage_mb": None,
    "sampled_for_validation": False,
    "validation_id": None,
    "executed_at": "2026-01-05T09:01:00.000Z",
    "correlation_id": EXAMPLE_EXECUTION["correlation_id"],
}
EXAMPLE_BATCH: dict[str, Any] = {
    "items": [
        {"id": "m-1", "input": {"text": "Free entry! Claim your prize now"}},
        {"id": "m-2", "input": {"text": 5}, "force_validation": True},
    ],
    "max_concurrency": 50,
    "timeout_ms": 500,
}
EXAMPLE_BATCH_ITEM_RESULT: dict[str, Any] = {
    "id": "m-1",
    "status": "success",
    "output": "spam",
    "error_code": None,
    "error_message": None,
    "latency_ms": 0.041,
    "execution_id": EXAMPLE_EXECUTION["execution_id"],
    "sampled_for_validation": False,
}
EXAMPLE_BATCH_ITEM_FAILURE: dict[str, Any] = {
    "id": "m-2",
    "status": "error",
    "output": None,
    "error_code": "input_schema_violation",
    "error_message": "the input does not satisfy the task's input schema: input/text must be of type string (type)",
    "latency_ms": None,
    "execution_id": None,
    "sampled_for_validation": False,
}
EXAMPLE_BATCH_ANSWER: dict[str, Any] = {
    "batch_id": "01938f60-3333-7abc-8def-0123456789ab",
    "task_id": EXAMPLE_TASK["id"],
    "version": 1,
    "total_items": 2,
    "success_count": 1,
    "failure_count": 1,
    "total_duration_ms": 2.417,
    "avg_latency_ms": 0.041,
    "results": [EXAMPLE_BATCH_ITEM_RESULT, EXAMPLE_BATCH_ITEM_FAILURE],
    "started_at": "2026-01-05T09:01:00.000Z",
    "completed_at": "2026-01-05T09:01:00.002Z",
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
    "specification_digest": "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "fallback": None,
}


EXAMPLE_HEALTH: dict[str, Any] = {"status": "healthy", "version": "0.1.0", "timestamp": "2026-01-05T09:00:00.000Z"}
EXAMPLE_CHECK: dict[str, Any] = {"status": "healthy", "latency_ms": 0.7, "detail": None}
EXAMPLE_FAILED_EXECUTIONS: dict[str, dict[str, Any]] = {
    "program_error": {
        **EXAMPLE_EXECUTION,
        "status": "error",
        "output": None,
        "error_code": "program_raised",
        "error_message": "KeyError: 'text'",
    },
    "program_timeout": {
        **EXAMPLE_EXECUTION,
        "status": "timeout",
        "output": None,
        "error_code": "limit_time",
        "error_message": "the program ran out of time",
        "latency_ms": 1000.0,
    },
}
EXAMPLE_ERROR: dict[str, Any] = {
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


class CreateTaskRequest(TaskDefinition):
    """A new task. Unknown fields are refused, so that a misspelt one is not lost."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_DEFINITION]})


class UpdateTaskRequest(TaskChanges):
    """What shall change. A field that is left out stays as it is; `examples` are added to those there are."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "accuracy_target": 0.95,
                    "examples": [{"input": {"text": "You have won a prize! Call now"}, "output": "spam"}],
                }
            ]
        },
    )

    @field_validator("*", mode="before")
    @classmethod
    def _not_null(cls, value: object) -> object:
        if value is None:
            raise ValueError("must not be null; leave the field out to keep what it is")
        return value

    @model_validator(mode="after")
    def _not_nothing(self) -> Self:
        if not self.model_fields_set:
            raise ValueError(f"must hold at least one of {', '.join(type(self).model_fields)}")
        return self


class GenerateRequest(BaseModel):
    """How the new version shall be made; every field may be left out. `examples` are added to the task's."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"constraints": "Treat links as a sign of spam."}]}
    )

    constraints: Constraints | None = None
    strategy: SynthesisStrategy = SynthesisStrategy.AUTO
    examples: Annotated[tuple[Example, ...], Field(max_length=MAX_EXAMPLES)] = ()


class GenerateResponse(BaseModel):
    """The generation is under way. A task with an active version stays `ready` meanwhile."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "task_id": EXAMPLE_TASK["id"],
                    "generation_id": "01938f60-4444-7abc-8def-0123456789ab",
                    "status": "generating",
                }
            ]
        }
    )

    task_id: TaskId
    generation_id: GenerationId
    status: TaskStatus = TaskStatus.GENERATING


class ActivateRequest(BaseModel):
    """Which share of the executions the version gets. `expected_version`, when given, must be the active version
    (`null`: none is).
    """

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"percentage": 10, "reason": "try it on a tenth"}]},
    )

    percentage: Percentage = 100.0
    reason: Annotated[str, Field(max_length=2000)] = ""
    expected_version: Annotated[Version, Field(ge=1, le=MAX_VERSION)] | None = None


class UploadProgramRequest(BaseModel):
    """A program. `activate: false` only stores it."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"code": "def run(input):\n    return 'spam' if 'prize' in input['text'] else 'ham'\n"}]
        },
    )

    code: Annotated[str, Field(min_length=1)]
    entry_point: EntryPoint = EntryPoint.RUN
    language: Language = Language.PYTHON
    synthesis_strategy: SynthesisStrategy = SynthesisStrategy.AUTO
    activate: Annotated[bool, Strict()] = True


class ActivationListResponse(ActivationPage):
    """What was done to the pointer of a task, newest first."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "items": [
                        {
                            "at": "2026-01-05T09:00:02.000Z",
                            "actor": "system",
                            "from_version": None,
                            "to_version": 1,
                            "percentage": 100.0,
                            "reason": "published",
                        }
                    ],
                    "next_cursor": None,
                }
            ]
        }
    )


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


class ExecuteRequestV2(BaseModel):
    """One input to run. ``version`` left out: the active one."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"input": {"text": "Free entry! Claim your prize now"}}]},
    )

    input: JsonValue
    version: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    force_validation: bool = False
    timeout_ms: Annotated[int, Field(ge=1, le=MAX_TIMEOUT_MS)] | None = None


class ExecuteRequest(ExecuteRequestV2):
    """One input to run. ``version`` left out: the active one. ``task_id``, when given, must equal the path's."""

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


class ExecutionAcceptedResponse(BaseModel):
    """An execution that runs later. ``version`` is the one asked for, ``null`` for the one active when it runs."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "execution_id": EXAMPLE_EXECUTION["execution_id"],
                    "task_id": EXAMPLE_TASK["id"],
                    "version": None,
                    "status": "accepted",
                    "accepted_at": EXAMPLE_EXECUTION["executed_at"],
                    "correlation_id": EXAMPLE_EXECUTION["correlation_id"],
                }
            ]
        }
    )

    execution_id: ExecutionId
    task_id: TaskId | None
    version: Version | None
    status: RecordStatus
    accepted_at: Timestamp
    correlation_id: str


class ExecutionRecordResponse(ExecutionRecord):
    """A recorded execution. ``input`` and ``output`` are ``null`` until it has run, and where they are too large."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_RECORD]})


class ExecutionListResponse(ExecutionPage):
    """A page of recorded executions, newest first."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"items": [EXAMPLE_RECORD], "next_cursor": None}]})


class BatchItemRequest(BaseModel):
    """One item of a batch. ``id`` is the caller's own, and unique in the batch."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [EXAMPLE_BATCH["items"][0]]})

    id: Annotated[str, Field(min_length=1, max_length=MAX_ITEM_ID_LENGTH)]
    input: JsonValue
    force_validation: bool = False


class ExecuteBatchRequest(BaseModel):
    """Inputs for one program. ``timeout_ms`` is for each item; ``version`` left out: the active one for all."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [EXAMPLE_BATCH]})

    items: Annotated[list[BatchItemRequest], Field(min_length=1, max_length=MAX_BATCH_ITEMS)]
    version: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    max_concurrency: Annotated[int, Field(ge=1, le=100)] = 100
    stop_on_first_error: bool = False
    timeout_ms: Annotated[int, Field(ge=1, le=MAX_TIMEOUT_MS)] | None = None


class BatchStreamOptions(BaseModel):
    """Options of a streamed batch, in the query. A JSON batch has them in its body."""

    model_config = ConfigDict(extra="forbid")

    version: Annotated[int, Field(ge=1, le=2**31 - 1, description="Left out: the active one.")] | None = None
    timeout_ms: Annotated[int, Field(ge=1, le=MAX_TIMEOUT_MS, description="Time of each item.")] | None = None
    max_concurrency: Annotated[int, Field(ge=1, le=100, description="Items under way at a time.")] = 100


class BatchItemResponse(BaseModel):
    """Outcome of one item. ``latency_ms`` and ``execution_id`` are ``null`` for an item that never ran; its
    ``error_code`` is then the code of the error that a request of its own would have got, or ``not_run``.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_BATCH_ITEM_RESULT, EXAMPLE_BATCH_ITEM_FAILURE]})

    id: str | None
    status: ExecutionStatus
    output: JsonValue
    error_code: str | None
    error_message: str | None
    latency_ms: float | None
    execution_id: ExecutionId | None
    sampled_for_validation: bool


class BatchLineResponse(BatchItemResponse):
    """One line of a streamed batch's answer. ``line`` is the number of the request's line; ``id`` is ``null`` where
    that line could not be read.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{**EXAMPLE_BATCH_ITEM_RESULT, "line": 1}]})

    line: int


class ExecuteBatchResponse(BaseModel):
    """Outcomes of a batch, in the order of its items. Durations are in milliseconds; ``avg_latency_ms`` is over the
    items that ran, ``null`` when none did.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_BATCH_ANSWER]})

    batch_id: UUID
    task_id: TaskId
    version: Version
    total_items: int
    success_count: int
    failure_count: int
    total_duration_ms: float
    avg_latency_ms: float | None
    results: list[BatchItemResponse]
    started_at: AwareDatetime
    completed_at: AwareDatetime


class ErrorDetail(BaseModel):
    """One broken rule: where, what to do, and the name of the rule."""

    field: str
    message: str
    code: str


class ErrorResponse(BaseModel):
    """What every error answers with. ``trace_id`` is the request's correlation id."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_ERROR]})

    code: str
    message: str
    details: list[ErrorDetail]
    trace_id: str
    timestamp: AwareDatetime


class Problem(BaseModel):
    """What every error answers with (RFC 9457). ``type`` explains the code, ``instance`` is the path that was asked
    for, ``trace_id`` the request's correlation id. ``execution`` is there when a program failed, and only then.
    """

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    trace_id: str
    errors: list[ErrorDetail]
    execution: ExecuteResponse | SkipJsonSchema[None] = Field(default=None, exclude_if=lambda value: value is None)


class HealthResponse(BaseModel):
    """The process answers."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_HEALTH]})

    status: HealthStatus
    version: str
    timestamp: AwareDatetime


class CheckResponse(BaseModel):
    """How one thing is that the service needs; ``detail`` says what is wrong."""

    status: HealthStatus
    latency_ms: float
    detail: str | None


class ReadinessResponse(HealthResponse):
    """Whether the service can do its work, and how everything is that it needs for that."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{**EXAMPLE_HEALTH, "checks": {"nats": EXAMPLE_CHECK, "executor": EXAMPLE_CHECK}}]
        }
    )

    checks: dict[str, CheckResponse]
