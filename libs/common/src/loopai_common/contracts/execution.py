"""Executions: running a program on inputs.

The hot path uses ``msgspec`` structs: an input's bytes travel untouched to the worker, an output's bytes travel
untouched to the caller (:class:`msgspec.Raw`).
"""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated
from uuid import UUID

import msgspec
from pydantic import AfterValidator, Field, JsonValue

from loopai_common.contracts.artifacts import ExampleFailure, Language, Score
from loopai_common.contracts.base import MAX_VERSION, Contract, ExecutionId, TaskId, Timestamp, Version, VersionNumber
from loopai_common.contracts.tasks import (
    DEFAULT_COMPARISON_THRESHOLD,
    NAME_PATTERN,
    UUID_PATTERN,
    Comparison,
    JsonSchema,
    Share,
    TaskReference,
)

MAX_TIMEOUT_MS = 60_000
MAX_BATCH_ITEMS = 10_000


class ExecutionStatus(StrEnum):
    """How an execution ended."""

    SUCCESS = "success"
    ERROR = "error"
    TIMEOUT = "timeout"


class ExecutionError(StrEnum):
    """Why an execution did not succeed; the names of limits say which one was hit."""

    RAISED = "program_raised"
    NOT_JSON = "output_not_json"
    OUTPUT_SCHEMA_VIOLATION = "output_schema_violation"
    LOAD_FAILED = "load_failed"
    TIME = "limit_time"
    MEMORY = "limit_memory"
    OUTPUT = "limit_output"
    CRASHED = "crashed"
    FORBIDDEN = "forbidden"
    QUARANTINED = "quarantined"


class Execution(msgspec.Struct, frozen=True, gc=False):
    """One input to run. ``timeout_ms`` 1–60000, ``None``: the executor's default."""

    input: msgspec.Raw
    timeout_ms: int | None = None
    force_validation: bool = False
    execution_id: str | None = None


class ExecuteBatch(msgspec.Struct, frozen=True):
    """Several inputs for the same program, answered in one message in the same order."""

    executions: list[Execution]


class ExecutionResult(msgspec.Struct, frozen=True, gc=False):
    """Outcome of one execution.

    ``latency_ms`` is the time in the worker as the executor measured it (shared evenly when items ran as one batch).
    ``output`` is ``null`` unless ``status`` is ``success``.
    """

    execution_id: str
    task_id: str
    program_id: str
    version: int
    status: ExecutionStatus
    output: msgspec.Raw
    error_code: ExecutionError | None
    error_message: str | None
    latency_ms: float
    sampled_for_validation: bool
    executed_at: str


class RejectedDetail(msgspec.Struct, frozen=True):
    """One violation of the input schema: JSON-pointer path, what to do, and the schema keyword."""

    field: str
    message: str
    code: str


class RejectedExecution(msgspec.Struct, frozen=True):
    """An item of a batch that never ran, because its input was refused."""

    code: str
    message: str
    details: list[RejectedDetail] = []


class BatchResult(msgspec.Struct, frozen=True):
    """Answers to an :class:`ExecuteBatch`: for each item its result, or why it was refused."""

    results: list[ExecutionResult | RejectedExecution]


class ExecuteCommand(msgspec.Struct, frozen=True):
    """Command: run one input, durably and later; its outcome is the event ``execution.completed``.

    ``task`` is an id or a name, ``version`` ``None`` the active one. The same ``execution_id`` (a UUID; left out: made
    from the message) is one execution, however often the command comes.
    """

    task: Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=NAME_PATTERN)]
    input: msgspec.Raw
    execution_id: Annotated[str, msgspec.Meta(pattern=UUID_PATTERN)] | None = None
    version: Annotated[int, msgspec.Meta(ge=1, le=MAX_VERSION)] | None = None
    timeout_ms: Annotated[int, msgspec.Meta(ge=1, le=MAX_TIMEOUT_MS)] | None = None
    force_validation: bool = False


class RecordStatus(StrEnum):
    """Where a recorded execution is: taken but not run yet, or how it ended."""

    ACCEPTED = "accepted"
    SUCCESS = "success"
    ERROR = "error"
    TIMEOUT = "timeout"


class ExecutionRecord(Contract):
    """What is remembered of an asynchronous or sampled execution, and the data of the event ``execution.completed``.

    ``error_code`` is an :class:`ExecutionError`, or the code of the error that kept the program from running; then
    ``program_id`` and maybe ``task_id`` are unknown. ``executed_at`` is when it ended, or, while ``accepted``, when
    that was. ``input`` and ``output`` are ``null`` while it is ``accepted``, and where they are too large to keep.
    """

    id: ExecutionId
    task_id: TaskId | None = None
    program_id: str | None = None
    version: Version | None = None
    input: JsonValue = None
    output: JsonValue = None
    status: RecordStatus
    error_code: str | None = None
    error_message: str | None = None
    latency_ms: float | None = None
    memory_usage_mb: float | None = None
    sampled_for_validation: bool = False
    validation_id: UUID | None = None
    executed_at: Timestamp
    correlation_id: str


class EncodedRecord(msgspec.Struct, frozen=True, kw_only=True):
    """As :class:`ExecutionRecord`, with the input's and the output's own bytes."""

    id: str
    task_id: str | None = None
    program_id: str | None = None
    version: int | None = None
    input: msgspec.Raw
    output: msgspec.Raw
    status: RecordStatus
    error_code: str | None = None
    error_message: str | None = None
    latency_ms: float | None = None
    memory_usage_mb: float | None = None
    sampled_for_validation: bool = False
    validation_id: str | None = None
    executed_at: str
    correlation_id: str


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("must be a time that has a year from 1 to 9999 in UTC") from error


class AcceptExecution(Contract):
    """Command: remember that an execution was accepted, provided that the task's ``version`` can run."""

    execution_id: ExecutionId
    task: TaskReference
    version: VersionNumber | None = None


class GetExecution(Contract):
    """Query: one recorded execution."""

    execution_id: ExecutionId


class ListExecutions(Contract):
    """Query: a page of a task's recorded executions, newest first. ``since`` leaves out what is older."""

    task: TaskReference
    status: RecordStatus | None = None
    since: Annotated[Timestamp, AfterValidator(_in_utc)] | None = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: str | None = None


class ExecutionPage(Contract):
    """A page of records; ``next_cursor`` is ``None`` on the last one. A page ends early when its records are large."""

    items: tuple[ExecutionRecord, ...]
    next_cursor: str | None = None


class CheckExample(Contract):
    """An example for the check; ``held_back`` ones were not shown to the generator."""

    input: JsonValue
    output: JsonValue
    held_back: bool = False


class CheckProgram(Contract):
    """Query: load the program in the sandbox and run it on the examples, with the task's schemas and ``comparison``."""

    code: str
    language: Language = Language.PYTHON
    entry_point: str = "run"
    input_schema: JsonSchema
    output_schema: JsonSchema
    examples: tuple[CheckExample, ...] = ()
    comparison: Comparison = Comparison.EXACT
    comparison_threshold: Share = DEFAULT_COMPARISON_THRESHOLD
    timeout_ms: int = Field(default=1000, ge=1, le=MAX_TIMEOUT_MS)


class CheckReport(Contract):
    """What the check found. ``problem`` is set when the program does not even load, and says why."""

    loaded: bool
    problem: str | None = None
    shown: Score = Score()
    held_back: Score = Score()
    latency_p50_ms: float | None = None
    latency_p99_ms: float | None = None
    failures: tuple[ExampleFailure, ...] = ()
