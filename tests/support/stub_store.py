"""An artifact store for tests of the executor: a real service on the real bus, holding what the test puts there."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID

from pydantic import JsonValue

from loopai_common.contracts import subjects
from loopai_common.contracts.artifacts import (
    ArtifactActivated,
    FetchProgram,
    ProgramCode,
    ResolvedProgram,
    ResolvedPrograms,
    ResolvedRollout,
    ResolveProgram,
    ResolvePrograms,
)
from loopai_common.contracts.base import ArtifactId, Digest, TaskId, Version
from loopai_common.contracts.failure import Failure
from loopai_common.contracts.tasks import Isolation
from loopai_common.errors import ArtifactNotFound, LoopaiError, StoreUnavailable, TaskNotFound, TaskNotReady
from loopai_common.identifiers import new_uuid
from loopai_common.runtime.errors import failure_of
from tests.support.bus import new_bus, running


@dataclass
class StubTask:
    """A task with its versions; ``active`` is a pointer, ``rollout`` a version and its percentage beside it."""

    name: str
    id: TaskId = field(default_factory=lambda: TaskId(new_uuid()))
    codes: list[str] = field(default_factory=list)
    active: int | None = None
    entry_point: str = "run"
    input_schema: dict[str, JsonValue] | bool = True
    output_schema: dict[str, JsonValue] | bool = True
    isolation: Isolation = Isolation.CALL
    rollout: tuple[int, float] | None = None
    sampling_rate: float = 0.0


class StubStore:
    """What it was asked is counted in ``resolved`` and ``fetched``; ``lost`` is code that it cannot read any more."""

    def __init__(self) -> None:
        self.tasks: dict[str, StubTask] = {}
        self.resolved = 0
        self.fetched = 0
        self.corrupt = False
        self.together = 0
        self.terse = False
        self.lost: set[str] = set()

    def add(self, name: str, *codes: str, active: int | None = 1, **changes: object) -> StubTask:
        """Stores a task with these versions."""
        task = StubTask(name, codes=list(codes), active=active, **changes)  # type: ignore[arg-type]  # a test's own fields
        self.tasks[name] = self.tasks[str(task.id)] = task
        return task

    async def resolve(self, query: ResolveProgram) -> ResolvedProgram:
        """As the artifact store does."""
        self.resolved += 1
        task = self.tasks.get(query.task)
        if task is None:
            raise TaskNotFound("there is no such task")
        version = query.version or task.active
        if version is None:
            raise TaskNotReady("the task has no active version yet")
        if version > len(task.codes):
            raise ArtifactNotFound("the task has no such version")
        return ResolvedProgram(
            task_id=task.id,
            task_name=task.name,
            artifact_id=ArtifactId(UUID(int=version)),
            version=Version(version),
            digest=_digest(task.codes[version - 1]),
            entry_point=task.entry_point,
            input_schema=task.input_schema,
            output_schema=task.output_schema,
            sampling_rate=task.sampling_rate,
            isolation=task.isolation,
            rollout=None if query.version or task.rollout is None else _rollout(task, *task.rollout),
        )

    async def resolve_many(self, query: ResolvePrograms) -> ResolvedPrograms:
        """As the artifact store does; with ``terse`` set, only the first outcome fits its message."""
        self.together += 1
        outcomes: list[ResolvedProgram | Failure] = []
        for one in query.queries[: 1 if self.terse else None]:
            try:
                outcomes.append(await self.resolve(one))
            except LoopaiError as error:
                outcomes.append(failure_of(error))
        return ResolvedPrograms(outcomes=tuple(outcomes))

    async def fetch(self, query: FetchProgram) -> ProgramCode:
        """As the artifact store does; with ``corrupt`` set, other bytes than were asked for."""
        self.fetched += 1
        task = self.tasks[str(query.task_id)]
        code = next(code for code in task.codes if _digest(code) == query.digest)
        if code in self.lost:
            raise StoreUnavailable("the storage does not answer")
        return ProgramCode(digest=query.digest, code=code + "#" * self.corrupt)

    @asynccontextmanager
    async def serving(self, nats_url: str, *, of_an_older_release: bool = False) -> AsyncIterator[None]:
        """Answers on the bus."""
        bus = new_bus("artifact-store", nats_url)
        bus.on(subjects.ARTIFACTS_RESOLVE)(self.resolve)
        if not of_an_older_release:
            bus.on(subjects.ARTIFACTS_RESOLVE_MANY)(self.resolve_many)
        bus.on(subjects.PROGRAMS_FETCH)(self.fetch)
        async with running(bus):
            yield


def activated(task: StubTask, previous: int | None) -> ArtifactActivated:
    """The event that the pointer of ``task`` moved."""
    assert task.active is not None
    return ArtifactActivated(
        task_id=task.id,
        task_name=task.name,
        version=Version(task.active),
        previous_version=None if previous is None else Version(previous),
        digest=_digest(task.codes[task.active - 1]),
    )


def _rollout(task: StubTask, version: int, percentage: float) -> ResolvedRollout:
    return ResolvedRollout(
        artifact_id=ArtifactId(UUID(int=version)),
        version=Version(version),
        digest=_digest(task.codes[version - 1]),
        entry_point=task.entry_point,
        percentage=percentage,
    )


def _digest(code: str) -> Digest:
    return Digest(f"sha256:{hashlib.sha256(code.encode()).hexdigest()}")
