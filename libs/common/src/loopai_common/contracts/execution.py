"""Executions: running a program on inputs.

The hot path uses ``msgspec`` structs: an input's bytes travel untouched to the worker, an output's bytes travel
untouched to the caller (:class:`msgspec.Raw`).
"""

from enum import StrEnum

import msgspec
from pydantic import Field, JsonValue

from loopai_common.contracts.artifacts import ExampleFailure, Language, Score
from loopai_common.contracts.base import Contract
from loopai_common.contracts.tasks import JsonSchema

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


class CheckExample(Contract):
    """An example for the check; ``held_back`` ones were not shown to the generator."""

    input: JsonValue
    output: JsonValue
    held_back: bool = False


class CheckProgram(Contract):
    """Query: load the program in the sandbox and run it on the examples, with the task's schemas.

    Outputs are compared exactly: numbers within 1e-9, object keys in any order.
    """

    code: str
    language: Language = Language.PYTHON
    entry_point: str = "run"
    input_schema: JsonSchema
    output_schema: JsonSchema
    examples: tuple[CheckExample, ...] = ()
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
