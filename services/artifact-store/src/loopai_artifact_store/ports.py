"""What the use cases need from the world. Every adapter of a port passes the same behaviour suite."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

from loopai_artifact_store.domain import (
    Activation,
    Artifact,
    Backlog,
    Census,
    Change,
    Decision,
    Event,
    Generation,
    IdempotencyClaim,
    Page,
    RecordPosition,
    Task,
    TaskCopy,
    TaskCreation,
    TaskKey,
    Undocumented,
)
from loopai_common.contracts.artifacts import SynthesisStrategy
from loopai_common.contracts.base import Digest, ExecutionId, GenerationId, TaskId, Version
from loopai_common.contracts.execution import ExecutionRecord, RecordStatus
from loopai_common.contracts.tasks import TaskStatus
from loopai_common.errors import LoopaiError, StoreUnavailable

VersionKey = tuple[TaskId, Version]

Timer = Callable[[str], AbstractContextManager[None]]
"""Measures one operation of an adapter, named by a word from a closed set."""


class Catalog(Protocol):
    """Tasks, versions, the active pointer and its history, idempotency keys, the outbox, and what is undocumented.

    All concurrency is settled here: what changes together changes in one transaction, and a method that returned has
    stored durably. Whatever changes a task notes with it that the recovery documents are behind. Every method raises
    :class:`~loopai_common.errors.StoreUnavailable` when it cannot.
    """

    async def create_task(self, creation: TaskCreation) -> TaskId:
        """Stores a task, its event and its claim; returns the id of the task that the claim belongs to.

        Raises :class:`~loopai_common.errors.TaskAlreadyExists` for a name that is taken, and
        :class:`~loopai_common.errors.IdempotencyKeyReused` for a key that came with another definition.
        """

    async def change_task(
        self,
        key: TaskKey,
        decide: Decision,
        *,
        generation_id: GenerationId | None = None,
        version: Version | None = None,
        claim: IdempotencyClaim | None = None,
    ) -> Change:
        """Reads the task's state, asks ``decide``, and applies the change, as if nobody else were there.

        The state holds what became of ``generation_id``, and ``version``, and whether there is the ``claim`` already,
        which is stored with the change. Raises :class:`~loopai_common.errors.TaskNotFound`,
        :class:`~loopai_common.errors.IdempotencyKeyReused` for a key that came with something else, and whatever
        ``decide`` raises; then nothing changed.
        """

    async def task(self, key: TaskKey) -> Task:
        """One task; raises :class:`~loopai_common.errors.TaskNotFound`."""

    async def find_tasks(self, keys: Sequence[TaskKey]) -> Mapping[TaskKey, Task]:
        """Those of the tasks that are there, in one question."""

    async def examples(self, task_id: TaskId) -> str:
        """The examples of a task as JSON text; raises :class:`~loopai_common.errors.TaskNotFound`."""

    async def copy_of(self, task_id: TaskId) -> TaskCopy:
        """All of a task at one moment; raises :class:`~loopai_common.errors.TaskNotFound`."""

    async def add_copy(self, copy: TaskCopy, events: Sequence[Event]) -> None:
        """Stores a whole task and the events about it in one transaction; :meth:`copy_of` gives it back.

        Raises :class:`~loopai_common.errors.TaskAlreadyExists` for an id or a name that is taken.
        """

    async def tasks(
        self, *, after: TaskId | None, limit: int, status: TaskStatus | None, name_prefix: str | None
    ) -> Page[Task]:
        """Tasks in the order of their ids, from behind ``after`` on."""

    async def artifact(self, task: Task, version: Version) -> Artifact:
        """One version; raises :class:`~loopai_common.errors.ArtifactNotFound`."""

    async def find_artifacts(self, wanted: Sequence[tuple[Task, Version]]) -> Mapping[VersionKey, Artifact]:
        """Those of the versions that are there, in one question."""

    async def artifacts(self, task_id: TaskId, *, after: Version, limit: int) -> Page[Artifact]:
        """Versions of a task, oldest first, from behind ``after`` on. A page ends early when its programs are large."""

    async def activations(self, task_id: TaskId, *, before: int | None, limit: int) -> Page[Activation]:
        """What was done to the pointer of a task, newest first, from below the number ``before`` on."""

    async def generation(self, task_id: TaskId, generation_id: GenerationId) -> Generation | None:
        """What became of a generation; ``None`` while it has not ended."""

    async def digests(self, task_id: TaskId) -> frozenset[Digest]:
        """The programs that versions of the task refer to; empty for a task that is not there."""

    async def pending_events(self, limit: int) -> tuple[Event, ...]:
        """The first events of the outbox, in the order in which they happened."""

    async def remove_events(self, ids: Sequence[str]) -> None:
        """Takes delivered events out of the outbox; unknown ids are ignored."""

    async def undocumented(self, *, after: TaskId | None, limit: int) -> Page[Undocumented]:
        """Tasks whose recovery documents are behind, in the order of their ids, from behind ``after`` on."""

    async def documented(self, task_id: TaskId, revision: int) -> None:
        """Notes that the recovery documents tell all changes of the task up to ``revision``."""

    async def forget_claims(self, before: datetime) -> int:
        """Frees the idempotency keys that came before ``before``; returns how many those were."""

    async def backlog(self) -> Backlog:
        """How much waits in the outbox and for the recovery documents, and since when."""

    async def census(self) -> Census:
        """Counts of tasks and versions by status."""

    async def check(self) -> None:
        """Returns when the catalog can be written."""


class ExecutionLog(Protocol):
    """Records of executions. Beside the catalog: they are written in bulk, and together with nothing else.

    Every method raises :class:`~loopai_common.errors.StoreUnavailable` when it cannot.
    """

    async def add(self, records: Sequence[ExecutionRecord]) -> None:
        """Stores the records durably, all or none.

        Of several with one id the first that is not ``accepted`` stays; an ``accepted`` one gives way to it.
        """

    async def get(self, execution_id: ExecutionId) -> ExecutionRecord:
        """One record; raises :class:`~loopai_common.errors.ExecutionNotFound`."""

    async def page(
        self,
        task_id: TaskId,
        *,
        status: RecordStatus | None,
        since: datetime | None,
        before: RecordPosition | None,
        limit: int,
    ) -> Page[ExecutionRecord]:
        """Records of a task, newest first, from behind ``before`` on. A page ends early when its records are large."""

    async def popular(self, limit: int) -> tuple[TaskId, ...]:
        """The tasks of the newest records (20,000 at most), the one with most of them first."""

    async def remove_before(self, moment: datetime) -> int:
        """Removes records that are older, maybe not all at once; returns how many, 0 when none are left."""

    async def check(self) -> None:
        """Returns when the log can be written."""


@dataclass(frozen=True, slots=True)
class StoredProgram:
    """Bytes that are stored, referred to or not; ``touched_at`` is when they were last put."""

    task_id: TaskId
    digest: Digest
    touched_at: datetime


@dataclass(frozen=True, slots=True)
class Labels:
    """What is kept beside the programs of a task; ``None``, or no entry, for what is not there.

    A version has a digest and a document, or neither, unless somebody removed one. ``task`` and ``documents`` are texts
    that the storage does not look into.
    """

    task: str | None = None
    digests: Mapping[Version, Digest] = field(default_factory=dict)
    documents: Mapping[Version, str] = field(default_factory=dict)
    active: Version | None = None


LabelTags = Mapping[str, object]
"""What stood under the names of labels at a moment; for the storage that gave it, and nobody else."""


class LabelsMoved(StoreUnavailable):
    """Somebody else labelled the same since; what it wrote stays."""


class ArtifactStorage(Protocol):
    """The bytes of programs, by their digest. Never decides anything.

    Every method raises :class:`~loopai_common.errors.StoreUnavailable` when it cannot; then nothing half done stays.
    """

    async def put(self, task_id: TaskId, digest: Digest, content: bytes) -> None:
        """Stores the bytes durably; a second call with the same digest changes nothing but the time."""

    async def get(self, task_id: TaskId, digest: Digest) -> bytes:
        """The bytes, which match ``digest``.

        Raises :class:`~loopai_common.errors.ArtifactNotFound`, and :class:`~loopai_common.errors.ArtifactCorrupt`
        naming the artifact when they do not match.
        """

    async def delete(self, program: StoredProgram) -> None:
        """Removes the bytes, unless they were put again since ``touched_at``; nothing when they are not there."""

    async def label_tags(self, task_id: TaskId, versions: Sequence[Version] = ()) -> LabelTags:
        """What stands now where :meth:`label` writes the task, the active version, and these versions."""

    async def label(self, task_id: TaskId, labels: Labels, *, since: LabelTags) -> None:
        """Names versions and the active one (which has a label) for people, and keeps documents for recovery.

        What ``labels`` does not have stays. Raises :class:`LabelsMoved` when somebody else wrote there after ``since``
        was taken: who reads the catalog in between never puts something older over something newer.
        """

    async def labels(self, task_id: TaskId) -> Labels:
        """All that :meth:`label` kept; nothing for an unknown task."""

    def labelled(self) -> AsyncIterator[TaskId]:
        """Every task that something is kept of, in no order."""

    def stored(self) -> AsyncIterator[StoredProgram]:
        """Everything that is stored, in no order."""

    async def check(self) -> None:
        """Returns when bytes can be written, read back and removed."""


class CacheKind(StrEnum):
    """What a cache holds, and the word for it in its keys."""

    ARTIFACT = "artifact"
    """The bytes of a program, by their digest."""
    NAME = "name"
    """The id of the task with this name."""
    TASK = "task"
    """A task without its examples, by its id."""
    ACTIVE = "active"
    """The versions that have a share of a task's executions, by the id of the task."""

    @property
    def moves(self) -> bool:
        """Whether what is kept can become wrong; the rest never changes."""
        return self in (CacheKind.TASK, CacheKind.ACTIVE)


class CacheKey(NamedTuple):
    """Under what something is kept."""

    kind: CacheKind
    id: str


@dataclass(frozen=True, slots=True)
class Absent:
    """What the store said of something that is not there."""

    kind: type[LoopaiError]
    message: str


Cached = bytes | TaskId | Task | tuple[Artifact, ...] | Absent
"""A value of a cache; its type follows from the kind of its key, or it is :class:`Absent`."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A cached value, the revision of the task that it is of (0 for what never changes), and how long it lives on."""

    value: Cached
    revision: int
    seconds_left: float


class CacheUnavailable(StoreUnavailable):
    """The cache does not answer; what is asked for is in the store."""


class Cache(Protocol):
    """Copies of what the store holds. May forget anything at any time, but never takes an older copy for a newer one.

    Every method raises :class:`CacheUnavailable` when it cannot.
    """

    async def get(self, key: CacheKey) -> Entry | None:
        """What is kept; ``None`` when nothing is."""

    async def set(self, key: CacheKey, value: Cached, *, revision: int, ttl_seconds: float) -> bool:
        """Keeps the value; ``False`` when a newer one is known, or was removed a moment ago: then nothing changed."""

    async def remove(self, key: CacheKey) -> None:
        """Forgets one value."""

    async def remove_task(self, task_id: TaskId, *, revision: int = 0) -> None:
        """Forgets what can change of the task, and takes nothing older than ``revision`` for the next seconds."""

    async def remove_moving(self) -> None:
        """Forgets all that can change."""

    async def check(self) -> None:
        """Returns when the cache answers."""


class ReadOutcome(StrEnum):
    """Where the answer to a read came from."""

    NEAR = "near"
    FAR = "far"
    STORE = "store"
    JOINED = "joined"
    """From the load that another read had begun."""
    FAILED = "failed"


class CacheObserver(Protocol):
    """Is told what the cache does, to count it."""

    def read(self, kind: CacheKind, outcome: ReadOutcome, seconds: float) -> None:
        """A read ended, after ``seconds``."""

    def refreshed(self, kind: CacheKind) -> None:
        """A value that was asked for shortly before its end was loaded anew."""

    def evicted(self, reason: str, count: int) -> None:
        """The memory level gave up entries, because of ``size``, or as ``expired`` or ``removed``."""

    def warmed(self, tasks: int) -> None:
        """The programs of so many tasks were loaded at start."""


class EventPublisher(Protocol):
    """Where events go."""

    async def publish(self, event: Event) -> None:
        """Returns when the event is stored for its consumers; a second call with the same event has no effect.

        Raises :class:`~loopai_common.errors.BusUnavailable`.
        """


class Observer(Protocol):
    """Is told what happened, to count it."""

    def published(self, strategy: SynthesisStrategy) -> None:
        """A version was stored."""

    def activated(self, activation: Activation) -> None:
        """A version was given a share of the executions."""


@dataclass(frozen=True, slots=True)
class Store:
    """The three ports that the data of a store is behind."""

    catalog: Catalog
    executions: ExecutionLog
    storage: ArtifactStorage


_TASKS_AT_ONCE: Final = 200


async def all_tasks(catalog: Catalog) -> AsyncIterator[Task]:
    """Every task, in the order of their ids."""
    after: TaskId | None = None
    while True:
        page = await catalog.tasks(after=after, limit=_TASKS_AT_ONCE, status=None, name_prefix=None)
        for task in page.items:
            yield task
        if not page.more:
            return
        after = page.items[-1].id
