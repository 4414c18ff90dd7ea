"""Rules of tasks, their versions, and the pointer to the active one. Pure: nothing here reads or writes anything.

A change of a task is decided here on a :class:`TaskState`, and applied by a catalog as a whole or not at all. The
status of a version follows from its verdict and from where the pointer is; it is never stored beside them.
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Generic, Self, TypeVar
from uuid import UUID

from loopai_common.contracts import subjects
from loopai_common.contracts.artifacts import (
    ActivateArtifact,
    ArtifactActivated,
    ArtifactPublished,
    ArtifactStatus,
    ProgramArtifact,
    PublishArtifact,
)
from loopai_common.contracts.base import ArtifactId, Contract, Digest, ExecutionId, GenerationId, TaskId, Version
from loopai_common.contracts.execution import ExecutionRecord
from loopai_common.contracts.generation import GenerateProgram, StartGeneration
from loopai_common.contracts.tasks import (
    MAX_EXAMPLES,
    Comparison,
    FailTask,
    Isolation,
    Rollout,
    TaskCreated,
    TaskFailed,
    TaskStatus,
    TaskUpdated,
    UpdateTask,
    task_id_or_none,
)
from loopai_common.contracts.tasks import TaskArchived as TaskWasArchived
from loopai_common.errors import (
    ActivationRefused,
    ArtifactNotFound,
    ExecutionNotFound,
    IdempotencyKeyReused,
    LoopaiError,
    PayloadTooLarge,
    PreconditionFailed,
    TaskArchived,
    TaskNotFound,
    TaskNotReady,
    ValidationFailed,
    VersionConflict,
    Violation,
)
from loopai_common.identifiers import new_id, new_uuid

T = TypeVar("T")

TaskKey = TaskId | str
"""What a task is found by: its id, or its name."""

MAX_PAGE_BYTES: Final = 3 * 1024 * 1024
"""A page ends early when its items hold more, so that the answer fits one message even where JSON escapes it."""

MAX_TASK_BYTES: Final = subjects.MAX_PAYLOAD_BYTES - 64 * 1024
"""A whole task, examples included, is answered in one message."""

WHOLE: Final = 100.0
"""The share of the executions that moves the pointer."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Origin:
    """When, and within which request, something happens."""

    at: datetime
    correlation_id: str
    traceparent: str


@dataclass(frozen=True, slots=True)
class Event:
    """A fact that waits in the outbox; ``body`` is JSON."""

    id: str
    subject: str
    task_id: TaskId
    body: str
    origin: Origin


@dataclass(frozen=True, slots=True)
class Task:
    """A task without its examples. The schemas are JSON text: most operations never look into them."""

    id: TaskId
    name: str
    description: str
    input_schema: str
    output_schema: str
    total_examples: int
    examples_bytes: int
    accuracy_target: float
    latency_target_ms: int
    sampling_rate: float
    isolation: Isolation
    comparison: Comparison
    comparison_threshold: float
    status: TaskStatus
    status_reason: str | None
    active_version: Version | None
    rollout: Rollout | None
    total_versions: int
    revision: int
    created_at: datetime
    updated_at: datetime

    @property
    def size_bytes(self) -> int:
        """Roughly what the task takes in an answer."""
        return len(self.description) + len(self.input_schema) + len(self.output_schema) + 1000


@dataclass(frozen=True, slots=True)
class Examples:
    """Examples that satisfy a task's schemas; ``text`` is the JSON text of the list."""

    count: int
    text: str = field(repr=False)

    @property
    def size_bytes(self) -> int:
        """What they take in a message."""
        return len(self.text.encode())


@dataclass(frozen=True, slots=True)
class Program:
    """The code of a program as stored: ``digest`` is that of its UTF-8 bytes."""

    digest: Digest
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Artifact:
    """One version. ``document`` is what was published, its status the verdict on it; the rest moves."""

    document: ProgramArtifact
    generation_id: GenerationId
    deployed_at: datetime | None
    active: bool
    percentage: float

    @property
    def version(self) -> Version:
        """The number of this version."""
        return self.document.version

    @property
    def status(self) -> ArtifactStatus:
        """``active`` where the pointer is, ``deprecated`` where it has been, else the verdict."""
        return artifact_status(self.document.status, active=self.active, deployed=self.deployed_at is not None)

    def as_contract(self, code: str | None = None) -> ProgramArtifact:
        """The version as it is answered."""
        moved = {
            "status": self.status,
            "deployed_at": self.deployed_at,
            "deployment_percentage": self.percentage,
            "code": code,
        }
        return self.document.model_copy(update=moved)


@dataclass(frozen=True, slots=True)
class Activation:
    """Who gave ``to_version`` which share of the executions, when, why, and which version had the pointer before.

    ``number`` is its place in the history of the task, given by the catalog; later ones have higher numbers.
    """

    at: datetime
    actor: str
    from_version: Version | None
    to_version: Version
    percentage: float
    reason: str
    number: int = 0

    @property
    def moves_pointer(self) -> bool:
        """Whether the whole of the executions went to the version."""
        return self.percentage == WHOLE


@dataclass(frozen=True, slots=True)
class Generation:
    """What became of a generation: ``version`` is ``None`` when it failed."""

    id: GenerationId
    version: Version | None


@dataclass(frozen=True, slots=True)
class IdempotencyClaim:
    """A key and the digest of what it came with."""

    key: str
    digest: str
    at: datetime

    def check(self, known_digest: str) -> None:
        """Raises :class:`IdempotencyKeyReused` when the key is known to stand for something else."""
        if known_digest != self.digest:
            raise IdempotencyKeyReused("the idempotency key was used before with another body")


@dataclass(frozen=True, slots=True)
class TaskCreation:
    """A new task with all that must become visible with it."""

    task: Task
    examples: Examples
    event: Event
    claim: IdempotencyClaim | None


@dataclass(frozen=True, slots=True)
class TaskCopy:
    """All that a catalog knows of one task at one moment.

    ``examples`` is the JSON text of the list; versions and activations stand in their order, generations by id.
    Idempotency keys are no part of it: they are gone after a week anyway.
    """

    task: Task
    examples: str = field(repr=False)
    artifacts: tuple[Artifact, ...] = ()
    activations: tuple[Activation, ...] = ()
    generations: tuple[Generation, ...] = ()


@dataclass(frozen=True, slots=True)
class Flaw:
    """Something about a task that must not be: a word for its kind, and a sentence."""

    kind: str
    sentence: str


@dataclass(frozen=True, slots=True)
class TaskState:
    """What a change is decided on, read in the transaction that applies the change.

    ``generation`` is what became of the generation that the change names, ``target`` the version that it names;
    ``claimed`` says that its idempotency key was used before, for the same.
    """

    task: Task
    generation: Generation | None = None
    target: Artifact | None = None
    claimed: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """What shall be true afterwards. ``version`` is the one that the change is about; ``artifact`` is a new one, and
    ``examples`` are added to those there are.
    """

    task: Task
    version: Version | None = None
    artifact: Artifact | None = None
    examples: Examples | None = None
    activation: Activation | None = None
    generation: Generation | None = None
    events: tuple[Event, ...] = ()


Decision = Callable[[TaskState], Change]
"""Pure, because a catalog may ask again when somebody else was faster. Raises the error that refuses the change."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list; ``more`` says that it goes on."""

    items: tuple[T, ...]
    more: bool


@dataclass(frozen=True, slots=True, order=True)
class RecordPosition:
    """Where a record of an execution stands in a list: by time (in whole milliseconds), then by id."""

    at: datetime
    id: UUID

    @classmethod
    def of(cls, record: ExecutionRecord) -> Self:
        """The position of ``record``."""
        return cls(record.executed_at, record.id)

    @classmethod
    def from_bytes(cls, position: bytes) -> Self:
        """The position that :meth:`to_bytes` wrote."""
        at = _EPOCH + timedelta(milliseconds=int.from_bytes(position[:-16], signed=True))
        return cls(at, UUID(bytes=position[-16:]))

    def to_bytes(self) -> bytes:
        """As it stands in a cursor."""
        return ((self.at - _EPOCH) // timedelta(milliseconds=1)).to_bytes(8, signed=True) + self.id.bytes


@dataclass(frozen=True, slots=True)
class Census:
    """How many there are, by status."""

    tasks: dict[TaskStatus, int]
    artifacts: dict[ArtifactStatus, int]


@dataclass(frozen=True, slots=True)
class Undocumented:
    """What the recovery documents of a task do not tell yet: the task itself, and these versions.

    ``revision`` is that of the last change of them.
    """

    task_id: TaskId
    revision: int
    versions: tuple[Version, ...]


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits: events in the outbox, and changes for the recovery documents; ``None`` when nothing does."""

    events: int
    oldest: datetime | None
    changes: int = 0
    oldest_change: datetime | None = None


def task_key(reference: str) -> TaskKey:
    """Canonical lower-case UUID text is an id, anything else a name."""
    return task_id_or_none(reference) or reference


def task_not_found(key: TaskKey) -> TaskNotFound:
    """The error for a task that is not there."""
    return TaskNotFound(f"there is no task '{key}'")


def artifact_not_found(task: Task, version: Version) -> ArtifactNotFound:
    """The error for a version that is not there."""
    return ArtifactNotFound(f"task '{task.name}' has no version {version}")


def execution_not_found(execution_id: ExecutionId) -> ExecutionNotFound:
    """The error for an execution that is not recorded."""
    return ExecutionNotFound(f"there is no record of an execution '{execution_id}'")


def digest_of(content: bytes) -> Digest:
    """The digest under which ``content`` is stored."""
    return Digest(f"sha256:{hashlib.sha256(content).hexdigest()}")


def checked_digest(digest: Digest) -> Digest:
    """Returns ``digest`` when it is one, so that it may become part of a path; raises :class:`ValidationFailed`."""
    if _DIGEST.fullmatch(digest) is None:
        raise ValidationFailed(
            "the digest is malformed", details=[Violation("digest", "must be sha256:<hex>", "digest")]
        )
    return digest


def program_of(code: str) -> Program:
    """``code`` as bytes with their digest; raises :class:`ValidationFailed` when it has no UTF-8 form."""
    try:
        content = code.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValidationFailed(
            "the code is not valid text", details=[Violation("code", "must not hold lone surrogates", "unicode")]
        ) from error
    return Program(digest_of(content), content)


def json_text(value: Any, *, canonical: bool = False) -> str:
    """``value`` as compact JSON; with ``canonical``, equal values give equal text.

    Raises :class:`ValidationFailed` for what JSON in UTF-8 cannot carry.
    """
    try:
        text = json.dumps(
            value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=canonical, check_circular=False
        )
        text.encode("utf-8")
    except (ValueError, RecursionError) as error:  # UnicodeEncodeError is a ValueError
        raise ValidationFailed(
            "the definition holds what JSON cannot carry",
            details=[Violation("", "must hold no NaN, no infinity, no lone surrogate, no endless nesting", "json")],
        ) from error
    return text


def event(subject: str, task_id: TaskId, body: Contract, origin: Origin) -> Event:
    """A new event."""
    return Event(new_id(), subject, task_id, body.model_dump_json(), origin)


def share_of(version: Version, active: Version | None, rollout: Rollout | None) -> float:
    """The percentage of the executions that ``version`` gets of those that name none."""
    if rollout is not None and version == rollout.version:
        return rollout.percentage
    if version != active:
        return 0.0
    return WHOLE if rollout is None else WHOLE - rollout.percentage


def artifact_status(verdict: ArtifactStatus, *, active: bool, deployed: bool) -> ArtifactStatus:
    """The status of a version out of the verdict on it and the pointer."""
    if active:
        return ArtifactStatus.ACTIVE
    return ArtifactStatus.DEPRECATED if deployed else verdict


def verdict_on(task: Task, command: PublishArtifact) -> ArtifactStatus:
    """``validated`` when the validation reached the task's target."""
    validation = command.validation
    if validation is None or validation.accuracy is None:
        return ArtifactStatus.DRAFT
    return ArtifactStatus.VALIDATED if validation.accuracy >= task.accuracy_target else ArtifactStatus.DRAFT


def publish(
    state: TaskState, command: PublishArtifact, program: Program, artifact_id: ArtifactId, origin: Origin
) -> Change:
    """The next version of the task; the one that exists when the generation was published before.

    Raises :class:`TaskArchived`, and :class:`ArtifactNotFound` for a parent that is not there.
    """
    if state.generation is not None and state.generation.version is not None:
        return Change(state.task, state.generation.version)
    task = _changeable(state.task)
    if command.parent_version is not None and command.parent_version > task.total_versions:
        raise artifact_not_found(task, command.parent_version)
    version = Version(task.total_versions + 1)
    document = ProgramArtifact(
        **command.model_dump(include=_COPIED_FIELDS),
        id=artifact_id,
        version=version,
        digest=program.digest,
        size_bytes=len(program.content),
        status=verdict_on(task, command),
        deployment_percentage=0.0,
        created_at=origin.at,
        deployed_at=None,
    )
    activate = command.activate and (not command.only_over_parent or task.active_version == command.parent_version)
    artifact = Artifact(
        document,
        command.generation_id,
        deployed_at=origin.at if activate else None,
        active=activate,
        percentage=WHOLE if activate else 0.0,
    )
    published = ArtifactPublished(
        task_id=task.id,
        task_name=task.name,
        version=version,
        digest=program.digest,
        status=artifact.status,
        generation_id=command.generation_id,
    )
    stored = Change(
        replace(task, total_versions=version, updated_at=origin.at),
        version,
        artifact=artifact,
        generation=Generation(command.generation_id, version),
        events=(event(subjects.ARTIFACT_PUBLISHED, task.id, published, origin),),
    )
    if activate:
        return _deploy(stored, artifact, WHOLE, "system", "published", origin)
    if command.failure_reason is not None:
        return _failed(stored, command.generation_id, command.failure_reason, origin)
    return stored


_COPIED_FIELDS = set(ProgramArtifact.model_fields) & set(PublishArtifact.model_fields) - {"code"}


def activate(state: TaskState, command: ActivateArtifact, origin: Origin) -> Change:
    """``command.version`` with its share of the executions, provided that the pointer is where the caller believes.

    Raises :class:`TaskArchived`, :class:`ArtifactNotFound`, :class:`VersionConflict`, :class:`ActivationRefused`, and
    :class:`TaskNotReady` for a share where no version has the rest.
    """
    task = _changeable(state.task)
    if state.target is None:
        raise artifact_not_found(task, command.version)
    if not command.unconditional and task.active_version != command.expected_version:
        raise VersionConflict(
            f"the active version of task '{task.name}' is {task.active_version}, not {command.expected_version}; "
            "read it again and decide again"
        )
    if command.percentage > 0:
        _check_runnable(task, state.target, command.percentage)
    unchanged = Change(task, command.version)
    if command.percentage == share_of(command.version, task.active_version, task.rollout):
        return unchanged
    if command.version == task.active_version and command.percentage < WHOLE:
        raise ActivationRefused(
            f"version {command.version} is the active one of task '{task.name}', which gets what the others leave; "
            "activate another version with the share that it shall have"
        )
    return _deploy(unchanged, state.target, command.percentage, command.actor, command.reason, origin)


def _check_runnable(task: Task, artifact: Artifact, percentage: float) -> None:
    if artifact.status is ArtifactStatus.FAILED:
        raise ActivationRefused(
            f"version {artifact.version} of task '{task.name}' failed; activate another one, or make a new one"
        )
    if task.active_version is None and percentage < WHOLE:
        raise TaskNotReady(
            f"task '{task.name}' has no active version that could have the rest of the executions; "
            "activate one with percentage 100 first"
        )


def update(state: TaskState, command: UpdateTask, more: Examples, origin: Origin) -> Change:
    """The task with what ``command`` says, and with ``more`` examples.

    Raises :class:`TaskArchived`, :class:`PreconditionFailed` for another revision than expected, and what
    :func:`_with_examples` raises.
    """
    task = _changeable(state.task)
    if command.expected_revisions is not None and task.revision not in command.expected_revisions:
        raise PreconditionFailed(f"task '{task.name}' was changed; read it again and decide again")
    said = command.changes.model_dump(exclude={"examples"}, exclude_none=True)
    return _told(_with_examples(Change(replace(task, **said)), more, state.task, origin), state.task, origin)


def start_generation(
    state: TaskState, command: StartGeneration, more: Examples, generation_id: GenerationId, origin: Origin
) -> Change:
    """The command to make a new version, with ``more`` examples; a task without an active version is ``generating``.

    Nothing when the generation was started before: its key is claimed, or it has ended even. Raises
    :class:`TaskArchived` and what :func:`_with_examples` raises.
    """
    if state.claimed or state.generation is not None:
        return Change(state.task)
    task = _changeable(state.task)
    if task.active_version is None:
        task = replace(task, status=TaskStatus.GENERATING, status_reason=None)
    order = GenerateProgram(
        task_id=task.id, generation_id=generation_id, constraints=command.constraints, strategy=command.strategy
    )
    started = Change(task, events=(event(subjects.TASK_GENERATE_COMMAND, task.id, order, origin),))
    changed = _with_examples(started, more, state.task, origin)
    return _told(changed, state.task, origin) if more.count else changed


def _told(change: Change, before: Task, origin: Origin) -> Change:
    """``change`` with the event that the task is another one than ``before``; nothing is told of no change."""
    if change.task == before:
        return change
    body = TaskUpdated(task_id=before.id, name=before.name, revision=before.revision + 1)
    return replace(change, events=(event(subjects.TASK_UPDATED, before.id, body, origin), *change.events))


def archive(state: TaskState, origin: Origin) -> Change:
    """The task archived; nothing when it is already."""
    task = state.task
    if task.status is TaskStatus.ARCHIVED:
        return Change(task)
    archived = replace(task, status=TaskStatus.ARCHIVED, status_reason=None, rollout=None, updated_at=origin.at)
    body = TaskWasArchived(task_id=task.id, name=task.name)
    return Change(archived, events=(event(subjects.TASK_ARCHIVED, task.id, body, origin),))


def revised(state: TaskState, decide: Decision) -> Change:
    """What ``decide`` says, with a new revision when that changes the task."""
    change = decide(state)
    if change.task == state.task:
        return change
    return replace(change, task=replace(change.task, revision=state.task.revision + 1))


def check_size(task: Task) -> None:
    """Raises :class:`PayloadTooLarge` when the task is larger than one message carries."""
    texts = (task.description, task.input_schema, task.output_schema)
    size_bytes = task.examples_bytes + sum(len(text.encode()) for text in texts)
    if size_bytes > MAX_TASK_BYTES:
        raise PayloadTooLarge(
            f"the task would take {size_bytes} bytes of at most {MAX_TASK_BYTES}; give fewer or smaller examples"
        )


def _with_examples(change: Change, more: Examples, before: Task, origin: Origin) -> Change:
    """``change`` with the examples added.

    Raises :class:`ValidationFailed` when they become too many, and :class:`PayloadTooLarge` when they become too large.
    """
    task = replace(
        change.task,
        total_examples=before.total_examples + more.count,
        examples_bytes=before.examples_bytes + (more.size_bytes if more.count else 0),
    )
    if task.total_examples > MAX_EXAMPLES:
        room = MAX_EXAMPLES - before.total_examples
        violation = Violation("examples", f"must be at most {room}, for {MAX_EXAMPLES} in all", "too_long")
        raise ValidationFailed("the task would have too many examples", details=[violation])
    check_size(task)
    if task != before:
        task = replace(task, updated_at=origin.at)
    return replace(change, task=task, examples=more if more.count else None)


def fail(state: TaskState, command: FailTask, origin: Origin) -> Change:
    """The generation ended without a program; nothing when its end is known already.

    The version that stands in becomes active where none is. Raises :class:`TaskArchived`, and for a version that cannot
    stand in :class:`ArtifactNotFound` and :class:`ActivationRefused`.
    """
    if state.generation is not None:
        return Change(state.task)
    task = _changeable(state.task)
    stored = Change(task, generation=Generation(command.generation_id, None))
    if command.fallback_version is not None and task.active_version is None:
        if state.target is None:
            raise artifact_not_found(task, command.fallback_version)
        _check_runnable(task, state.target, WHOLE)
        reason = f"fallback: {command.reason}"
        stored = _deploy(
            replace(stored, version=command.fallback_version), state.target, WHOLE, "system", reason, origin
        )
    return _failed(stored, command.generation_id, command.reason, origin, command.fallback_version)


def runnable_version(task: Task, version: Version | None) -> Version:
    """The version that runs when ``version`` is asked for (``None``: the active one).

    Raises :class:`TaskArchived` and :class:`TaskNotReady`.
    """
    _changeable(task)
    return active_version(task) if version is None else version


def active_version(task: Task) -> Version:
    """Where the pointer is; raises :class:`TaskNotReady` when it is nowhere yet."""
    if task.active_version is not None:
        return task.active_version
    reason = f": {task.status_reason}" if task.status_reason else ""
    raise TaskNotReady(f"task '{task.name}' has no active version; it is {task.status}{reason}")


def flaws(copy: TaskCopy) -> tuple[Flaw, ...]:
    """What breaks the rules that every change keeps: gapless versions, and references that lead somewhere."""
    task, found = copy.task, []
    there = [artifact.version for artifact in copy.artifacts]
    known = set(there)
    if there != list(range(1, task.total_versions + 1)):
        found.append(Flaw("gap", f"its versions are {there}, and shall be 1 to {task.total_versions} without a gap"))
    if task.active_version is not None and task.active_version not in known:
        found.append(Flaw("dangling_pointer", f"its active version {task.active_version} is not there"))
    if task.status is TaskStatus.READY and task.active_version is None:
        found.append(Flaw("wrong_status", "it is ready, and no version is active"))
    if task.status in (TaskStatus.GENERATING, TaskStatus.FAILED) and task.active_version is not None:
        found.append(Flaw("wrong_status", f"it is {task.status}, and version {task.active_version} is active"))
    if task.rollout is not None and (task.rollout.version not in known or task.rollout.version == task.active_version):
        found.append(Flaw("dangling_rollout", f"its rollout of version {task.rollout.version} leads nowhere"))
    moves = [activation.to_version for activation in copy.activations if activation.moves_pointer]
    if (moves[-1] if moves else None) != task.active_version:
        found.append(Flaw("wrong_history", f"its history does not end with its active version {task.active_version}"))
    if lost := {activation.to_version for activation in copy.activations} - known:
        found.append(Flaw("dangling_history", f"its history names versions that are not there: {sorted(lost)}"))
    if lost := {made.version for made in copy.generations if made.version is not None} - known:
        found.append(Flaw("dangling_generation", f"generations made versions that are not there: {sorted(lost)}"))
    for artifact in copy.artifacts:
        if artifact.document.task_id != task.id:
            found.append(Flaw("foreign_version", f"version {artifact.version} is one of another task"))
    return tuple(found)


def import_events(task: Task, artifacts: Iterable[Artifact], origin: Origin) -> tuple[Event, ...]:
    """What happened when a task came whole from elsewhere: its versions run from now on.

    One that waits for its first program gets one here, because whoever was to make it may be no more.
    """
    if task.status is TaskStatus.ARCHIVED:
        return ()
    if task.status is TaskStatus.GENERATING:
        created = TaskCreated(task_id=task.id, name=task.name, generation_id=GenerationId(new_uuid()))
        return (event(subjects.TASK_CREATED, task.id, created, origin),)
    events = []
    for artifact in sorted(artifacts, key=lambda artifact: not artifact.active):
        if artifact.percentage > 0:
            activated = ArtifactActivated(
                task_id=task.id,
                task_name=task.name,
                version=artifact.version,
                previous_version=None if artifact.active else task.active_version,
                digest=artifact.document.digest,
                percentage=WHOLE if artifact.active else artifact.percentage,
            )
            events.append(event(subjects.ARTIFACT_ACTIVATED, task.id, activated, origin))
    return tuple(events)


def take_page(rows: Iterable[T], limit: int, size_bytes: Callable[[T], int]) -> Page[T]:
    """Up to ``limit`` rows, fewer when they are large; takes no more rows than it needs to know that there are more."""
    taken: list[T] = []
    total = 0
    for row in rows:
        total += size_bytes(row)
        if len(taken) == limit or (taken and total > MAX_PAGE_BYTES):
            return Page(tuple(taken), more=True)
        taken.append(row)
    return Page(tuple(taken), more=False)


def encode_cursor(scope: bytes, position: bytes) -> str:
    """An opaque cursor for the list ``scope``, after ``position``."""
    return base64.urlsafe_b64encode(_seal(scope, position) + position).decode("ascii").rstrip("=")


def decode_cursor(scope: bytes, cursor: str) -> bytes:
    """The position of a cursor that :func:`encode_cursor` made for this list; raises :class:`ValidationFailed`.

    The seal keeps apart what a service made and what a caller made up or took from another list. It is no secret: a
    cursor grants nothing.
    """
    try:
        sealed = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise _bad_cursor() from error
    position = sealed[_SEAL_BYTES:]
    if sealed[:_SEAL_BYTES] != _seal(scope, position):
        raise _bad_cursor()
    return position


_SEAL_BYTES: Final = 8


def _seal(scope: bytes, position: bytes) -> bytes:
    return hashlib.blake2b(position, digest_size=_SEAL_BYTES, key=scope, person=b"loopai-cursor").digest()


def _bad_cursor() -> LoopaiError:
    violation = Violation("cursor", "must be the next_cursor of a page of the same list", "cursor")
    return ValidationFailed("the cursor is not one of this list", details=[violation])


def _changeable(task: Task) -> Task:
    if task.status is TaskStatus.ARCHIVED:
        raise TaskArchived(f"task '{task.name}' is archived")
    return task


def _deploy(change: Change, artifact: Artifact, percentage: float, actor: str, reason: str, origin: Origin) -> Change:
    """The version with this share of the executions: all of them are the pointer, none of them the end of a rollout."""
    task, version = change.task, artifact.version
    previous = task.active_version
    activation = Activation(origin.at, actor, previous, version, percentage, reason)
    if activation.moves_pointer:
        task = replace(task, status=TaskStatus.READY, status_reason=None, active_version=version, rollout=None)
    else:
        task = replace(task, rollout=Rollout(version=version, percentage=percentage) if percentage else None)
    deployed = ArtifactActivated(
        task_id=task.id,
        task_name=task.name,
        version=version,
        previous_version=previous,
        digest=artifact.document.digest,
        percentage=percentage,
    )
    events = [event(subjects.ARTIFACT_ACTIVATED, task.id, deployed, origin)]
    if activation.moves_pointer and previous is not None and version < previous:
        events.append(event(subjects.ARTIFACT_ROLLED_BACK, task.id, deployed, origin))
    return replace(
        change,
        task=replace(task, updated_at=origin.at),
        activation=activation,
        events=(*change.events, *events),
    )


def _failed(
    change: Change, generation_id: GenerationId, reason: str, origin: Origin, fallback: Version | None = None
) -> Change:
    task = change.task
    failed = TaskFailed(
        task_id=task.id, name=task.name, generation_id=generation_id, reason=reason, fallback_version=fallback
    )
    if task.active_version is None:
        task = replace(task, status=TaskStatus.FAILED, status_reason=reason, updated_at=origin.at)
    return replace(change, task=task, events=(*change.events, event(subjects.TASK_FAILED, task.id, failed, origin)))
