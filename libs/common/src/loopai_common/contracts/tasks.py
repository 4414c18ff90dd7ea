"""Tasks: what a program shall do."""

import re
from enum import StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, Strict

from loopai_common.contracts.base import Contract, GenerationId, TaskId, Timestamp, Version, VersionNumber

MAX_EXAMPLES = 10_000
NAME_PATTERN = r"^[A-Za-z0-9_.-]+$"
UUID_PATTERN = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
"""The one form in which ids are written."""


class TaskStatus(StrEnum):
    """Where a task is in its life."""

    GENERATING = "generating"
    READY = "ready"
    FAILED = "failed"
    ARCHIVED = "archived"


class Isolation(StrEnum):
    """What executions of one program may share.

    ``call``: a worker process, with module globals that are fresh for every call. ``process``: nothing, a fresh worker
    for every batch. ``none``: a worker process and its module globals; for programs that are known to keep no state.
    Programs of two tasks never share a process under these.

    ``group``: as ``call``, but the worker process is shared with other tasks that say ``group`` too, of the same owner:
    whoever runs this installation. Cheaper where many programs have little to do each. A program can see and change
    what the others in its process do, and slow down or end all of them: trust each one with the inputs of all.
    """

    CALL = "call"
    PROCESS = "process"
    NONE = "none"
    GROUP = "group"


class Comparison(StrEnum):
    """When the output for an example counts as right.

    ``exact``: equal; numbers within 1e-9, object keys in any order. ``fuzzy``: the same, but strings (in objects and
    lists too) need only be similar: 1 minus their edit distance over the longer one's length reaches the threshold.
    ``numeric``: the same, but numbers need only be near: 1 minus their difference over the larger magnitude reaches it.
    ``structured``: the share of the fields that are equal reaches the threshold. A field is a value that holds no
    others, wherever it stands; one too many counts like a wrong one.
    """

    EXACT = "exact"
    FUZZY = "fuzzy"
    NUMERIC = "numeric"
    STRUCTURED = "structured"


DEFAULT_COMPARISON_THRESHOLD = 0.8
"""One field of five may be wrong, or one character of five."""


def _not_a_uuid(name: str) -> str:
    try:
        UUID(name)
    except ValueError:
        return name
    raise ValueError("must not itself be a UUID, so that a name is never taken for an id")


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return text


def _no_nul(text: str) -> str:
    if "\x00" in text:
        raise ValueError("must not hold a NUL character")
    return text


TaskName = Annotated[str, Field(min_length=1, max_length=200, pattern=NAME_PATTERN), AfterValidator(_not_a_uuid)]
TaskReference = Annotated[str, Field(min_length=1, max_length=200, pattern=NAME_PATTERN)]
"""A task's id or its name."""

Description = Annotated[str, Field(min_length=1, max_length=5000), AfterValidator(_not_blank), AfterValidator(_no_nul)]


def _schema_shape(value: object) -> object:
    if not isinstance(value, dict | bool):
        raise ValueError("must be a JSON Schema: an object, or true or false")
    return value


JsonSchema = Annotated[dict[str, JsonValue] | bool, BeforeValidator(_schema_shape)]
Share = Annotated[float, Strict(), Field(ge=0.0, le=1.0, allow_inf_nan=False)]
"""A number from 0 to 1; neither ``"0.5"`` nor ``true`` is one."""

LatencyTarget = Annotated[int, Strict(), Field(ge=1, le=60_000)]

_UUID_TEXT = re.compile(UUID_PATTERN)


def task_id_or_none(reference: str) -> TaskId | None:
    """The id that ``reference`` spells in its canonical form, or ``None`` when it can only be a name."""
    return TaskId(UUID(reference)) if _UUID_TEXT.fullmatch(reference) else None


class Example(Contract):
    """One input and the output that the program shall give for it."""

    input: JsonValue
    output: JsonValue


class TaskDefinition(Contract):
    """What the author of a task says about it."""

    name: TaskName
    description: Description
    input_schema: JsonSchema
    output_schema: JsonSchema
    examples: Annotated[tuple[Example, ...], Field(max_length=MAX_EXAMPLES)] = ()
    accuracy_target: Share = 0.9
    latency_target_ms: LatencyTarget = 10
    sampling_rate: Share = 0.1
    isolation: Isolation = Isolation.CALL
    comparison: Comparison = Comparison.EXACT
    comparison_threshold: Share = DEFAULT_COMPARISON_THRESHOLD
    """How near an output must be; ``exact`` does not look at it."""


class TaskChanges(Contract):
    """What shall become of a task; ``None`` leaves a field as it is, ``examples`` are added to those there are."""

    description: Description | None = None
    accuracy_target: Share | None = None
    latency_target_ms: LatencyTarget | None = None
    sampling_rate: Share | None = None
    isolation: Isolation | None = None
    comparison: Comparison | None = None
    comparison_threshold: Share | None = None
    examples: Annotated[tuple[Example, ...], Field(max_length=MAX_EXAMPLES)] = ()


class Rollout(Contract):
    """A version that gets ``percentage`` (above 0, below 100) of the executions that name no version."""

    version: Version
    percentage: float


class TaskSummary(Contract):
    """A task as it stands in a list: everything but its examples, which are counted."""

    id: TaskId
    name: str
    description: str
    input_schema: JsonSchema
    output_schema: JsonSchema
    total_examples: int
    accuracy_target: float
    latency_target_ms: int
    sampling_rate: float
    isolation: Isolation = Isolation.CALL
    comparison: Comparison = Comparison.EXACT
    comparison_threshold: float = DEFAULT_COMPARISON_THRESHOLD
    status: TaskStatus
    status_reason: str | None = None
    """Why the task is where it is, when there is something to say: for ``failed``, the cause and the remedy."""
    active_version: Version | None
    rollout: Rollout | None = None
    """The version that is being tried beside the active one, if any."""
    total_versions: int
    revision: int = 1
    """Counts the changes of the task; its ``ETag`` over HTTP."""
    created_at: Timestamp
    updated_at: Timestamp


class TaskSpecification(TaskSummary):
    """A whole task."""

    examples: tuple[Example, ...] = ()


class CreateTask(Contract):
    """Command: store this task and have a program generated for it.

    ``idempotency_key`` makes a retry safe: the same key with the same definition answers with the task that exists.
    """

    definition: TaskDefinition
    idempotency_key: Annotated[str, Field(min_length=1, max_length=255)] | None = None


class GetTask(Contract):
    """Query: one task. ``include_examples=False`` leaves the examples out (an empty list)."""

    task: TaskReference
    include_examples: bool = True


class ListTasks(Contract):
    """Query: a page of tasks in the order of their creation. ``cursor`` is the ``next_cursor`` of the page before."""

    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: str | None = None
    status: TaskStatus | None = None
    name_prefix: Annotated[str, Field(max_length=200)] | None = None


class TaskPage(Contract):
    """A page of tasks; ``next_cursor`` is ``None`` on the last one."""

    items: tuple[TaskSummary, ...]
    next_cursor: str | None = None


class UpdateTask(Contract):
    """Command: change the task, provided that its revision is one of ``expected_revisions`` (``None``: whichever).

    Raises ``precondition_failed`` when it is not, and ``task_archived``.
    """

    task: TaskReference
    changes: TaskChanges
    expected_revisions: tuple[int, ...] | None = None


class ArchiveTask(Contract):
    """Command: the task runs no more and never changes again; its name stays taken. Doing it again changes nothing."""

    task: TaskReference


class FailTask(Contract):
    """Command: the generation ended without a program that may run. ``reason`` is shown to the author of the task.

    A task that has an active version stays ``ready``: a failed improvement takes nothing away.
    """

    task_id: TaskId
    generation_id: GenerationId
    reason: Annotated[str, Field(min_length=1, max_length=2000)]
    fallback_version: VersionNumber | None = None
    """An earlier version that stands in for the one that was not made; it becomes active where none is."""


class TaskCreated(Contract):
    """Event: a task was stored; its first generation is due."""

    task_id: TaskId
    name: str
    generation_id: GenerationId


class TaskUpdated(Contract):
    """Event: what was asked for in the task was changed; what it is now has this ``revision``, or a later one."""

    task_id: TaskId
    name: str
    revision: int


class TaskArchived(Contract):
    """Event: the task runs no more."""

    task_id: TaskId
    name: str


class TaskFailed(Contract):
    """Event: a generation ended without a program that may run."""

    task_id: TaskId
    name: str
    generation_id: GenerationId
    reason: str
    fallback_version: Version | None = None
    """The earlier version that stands in, made for the same specification."""
