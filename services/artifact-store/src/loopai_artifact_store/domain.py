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
from loopai_common.contracts.tasks import FailTask, TaskFailed, TaskStatus, task_id_or_none
from loopai_common.errors import (
    ArtifactNotFound,
    ExecutionNotFound,
    LoopaiError,
    TaskArchived,
    TaskNotFound,
    TaskNotReady,
    ValidationFailed,
    VersionConflict,
    Violation,
)
from loopai_common.identifiers import new_id

T = TypeVar("T")

TaskKey = TaskId | str
"""What a task is found by: its id, or its name."""

MAX_PAGE_BYTES: Final = 3 * 1024 * 1024
"""A page ends early when its items hold more, so that the answer fits one message even where JSON escapes it."""

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
    accuracy_target: float
    latency_target_ms: int
    sampling_rate: float
    status: TaskStatus
    status_reason: str | None
    active_version: Version | None
    total_versions: int
    created_at: datetime
    updated_at: datetime

    @property
    def size_bytes(self) -> int:
        """Roughly what the task takes in an answer."""
        return len(self.description) + len(self.input_schema) + len(self.output_schema) + 1000


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
            "deployment_percentage": 100.0 if self.active else 0.0,
            "code": code,
        }
        return self.document.model_copy(update=moved)


@dataclass(frozen=True, slots=True)
class Activation:
    """One move of the pointer: who, when, from where, to where, for which share of the traffic, and why."""

    at: datetime
    actor: str
    from_version: Version | None
    to_version: Version
    percentage: float
    reason: str


@dataclass(frozen=True, slots=True)
class Generation:
    """What became of a generation: ``version`` is ``None`` when it failed."""

    id: GenerationId
    version: Version | None


@dataclass(frozen=True, slots=True)
class IdempotencyClaim:
    """A key and the digest of the definition it came with."""

    key: str
    definition_digest: str


@dataclass(frozen=True, slots=True)
class TaskCreation:
    """A new task with all that must become visible with it. ``examples`` is the JSON text of the list."""

    task: Task
    examples: str
    event: Event
    claim: IdempotencyClaim | None


@dataclass(frozen=True, slots=True)
class TaskState:
    """What a change is decided on, read in the transaction that applies the change.

    ``generation`` is what became of the generation that the change names, ``target`` the version that it names.
    """

    task: Task
    generation: Generation | None = None
    target: Artifact | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """What shall be true afterwards. ``version`` is the one that the change is about; ``artifact`` is a new one."""

    task: Task
    version: Version | None = None
    artifact: Artifact | None = None
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
class Backlog:
    """What waits in the outbox; ``oldest`` is ``None`` when nothing does."""

    events: int
    oldest: datetime | None


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


def artifact_status(verdict: ArtifactStatus, *, active: bool, deployed: bool) -> ArtifactStatus:
    """The status of a version out of the verdict on it and the pointer."""
    if active:
        return ArtifactStatus.ACTIVE
    return ArtifactStatus.DEPRECATED if deployed else verdict


def verdict_on(task: Task, command: PublishArtifact) -> ArtifactStatus:
    """``validated`` when the validation reached the task's target and nothing is held against the program."""
    validation = command.validation
    if command.failure_reason is not None or validation is None or validation.accuracy is None:
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
    deployed_at = origin.at if command.activate else None
    artifact = Artifact(document, command.generation_id, deployed_at, active=command.activate)
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
    if command.activate:
        return _point_to(stored, artifact, "system", "published", origin)
    if command.failure_reason is not None:
        return _failed(stored, command.generation_id, command.failure_reason, origin)
    return stored


_COPIED_FIELDS = set(ProgramArtifact.model_fields) & set(PublishArtifact.model_fields) - {"code"}


def activate(state: TaskState, command: ActivateArtifact, origin: Origin) -> Change:
    """The pointer on ``command.version``, provided that it is where the caller believes it to be.

    Raises :class:`TaskArchived`, :class:`ArtifactNotFound` and :class:`VersionConflict`.
    """
    task = _changeable(state.task)
    if state.target is None:
        raise artifact_not_found(task, command.version)
    if task.active_version != command.expected_version:
        raise VersionConflict(
            f"the active version of task '{task.name}' is {task.active_version}, not {command.expected_version}; "
            "read it again and decide again"
        )
    unchanged = Change(task, command.version)
    if task.active_version == command.version:
        return unchanged
    return _point_to(unchanged, state.target, command.actor, command.reason, origin)


def fail(state: TaskState, command: FailTask, origin: Origin) -> Change:
    """The generation ended without a program; nothing when its end is known already. Raises :class:`TaskArchived`."""
    if state.generation is not None:
        return Change(state.task)
    stored = Change(_changeable(state.task), generation=Generation(command.generation_id, None))
    return _failed(stored, command.generation_id, command.reason, origin)


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


def _point_to(change: Change, artifact: Artifact, actor: str, reason: str, origin: Origin) -> Change:
    task, version = change.task, artifact.version
    previous = task.active_version
    moved = ArtifactActivated(
        task_id=task.id,
        task_name=task.name,
        version=version,
        previous_version=previous,
        digest=artifact.document.digest,
    )
    events = [event(subjects.ARTIFACT_ACTIVATED, task.id, moved, origin)]
    if previous is not None and version < previous:
        events.append(event(subjects.ARTIFACT_ROLLED_BACK, task.id, moved, origin))
    return replace(
        change,
        task=replace(task, status=TaskStatus.READY, status_reason=None, active_version=version, updated_at=origin.at),
        activation=Activation(origin.at, actor, previous, version, 100.0, reason),
        events=(*change.events, *events),
    )


def _failed(change: Change, generation_id: GenerationId, reason: str, origin: Origin) -> Change:
    task = change.task
    failed = TaskFailed(task_id=task.id, name=task.name, generation_id=generation_id, reason=reason)
    if task.active_version is None:
        task = replace(task, status=TaskStatus.FAILED, status_reason=reason, updated_at=origin.at)
    return replace(change, task=task, events=(*change.events, event(subjects.TASK_FAILED, task.id, failed, origin)))
