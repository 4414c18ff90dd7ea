"""The catalog in memory, for tests: the same behaviour, nothing survives."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from uuid import UUID

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
    Task,
    TaskCopy,
    TaskCreation,
    TaskKey,
    TaskState,
    Undocumented,
    artifact_not_found,
    share_of,
    take_page,
    task_not_found,
)
from loopai_artifact_store.ports import VersionKey
from loopai_common.contracts.artifacts import ArtifactStatus
from loopai_common.contracts.base import Digest, GenerationId, TaskId, Version
from loopai_common.contracts.tasks import TaskStatus
from loopai_common.errors import TaskAlreadyExists


@dataclass(slots=True)
class _Record:
    task: Task
    examples: list[str]
    artifacts: list[Artifact] = field(default_factory=list)
    activations: list[Activation] = field(default_factory=list)
    generations: dict[GenerationId, Generation] = field(default_factory=dict)
    undocumented: dict[tuple[int, Version | None], datetime] = field(default_factory=dict)

    def change(self, versions: Iterable[Version | None]) -> None:
        self.undocumented |= {(self.task.revision, version): datetime.now(UTC) for version in versions}

    def all_artifacts(self) -> list[Artifact]:
        active, rollout = self.task.active_version, self.task.rollout
        return [
            replace(known, active=known.version == active, percentage=share_of(known.version, active, rollout))
            for known in self.artifacts
        ]

    def artifact(self, version: Version) -> Artifact | None:
        return next((known for known in self.all_artifacts() if known.version == version), None)


class MemoryCatalog:
    """A catalog whose transactions are atomic because nothing in them waits."""

    def __init__(self) -> None:
        self._records: dict[TaskId, _Record] = {}
        self._ids: dict[str, TaskId] = {}
        self._claims: dict[str, tuple[IdempotencyClaim, TaskId]] = {}
        self._outbox: dict[str, Event] = {}

    async def create_task(self, creation: TaskCreation) -> TaskId:
        await asyncio.sleep(0)
        claim, task = creation.claim, creation.task
        claimed = None if claim is None else self._claimed(claim)
        if claimed is not None:
            return claimed
        if task.name in self._ids:
            raise TaskAlreadyExists(f"there is a task named '{task.name}' already")
        self._records[task.id] = _Record(task, [creation.examples.text])
        self._records[task.id].change([None])
        self._ids[task.name] = task.id
        if claim is not None:
            self._claims[claim.key] = (claim, task.id)
        self._outbox[creation.event.id] = creation.event
        return task.id

    async def change_task(
        self,
        key: TaskKey,
        decide: Decision,
        *,
        generation_id: GenerationId | None = None,
        version: Version | None = None,
        claim: IdempotencyClaim | None = None,
    ) -> Change:
        await asyncio.sleep(0)
        record = self._record(key)
        generation = None if generation_id is None else record.generations.get(generation_id)
        target = None if version is None else record.artifact(version)
        claimed = claim is not None and self._claimed(claim) is not None
        change = decide(TaskState(record.task, generation, target, claimed))
        if claim is not None:
            self._claims.setdefault(claim.key, (claim, record.task.id))
        changed, record.task = change.task != record.task, change.task
        if changed:
            record.change([change.version])
        if change.artifact is not None:
            record.artifacts.append(change.artifact)
        if change.activation is not None:
            number = len(record.activations) + 1
            record.activations.append(replace(change.activation, number=number))
            if change.activation.moves_pointer:
                index = change.activation.to_version - 1
                record.artifacts[index] = replace(record.artifacts[index], deployed_at=change.activation.at)
        if change.examples is not None:
            record.examples.append(change.examples.text)
        if change.generation is not None:
            record.generations[change.generation.id] = change.generation
        self._outbox.update({event.id: event for event in change.events})
        return change

    async def task(self, key: TaskKey) -> Task:
        return self._record(key).task

    async def find_tasks(self, keys: Sequence[TaskKey]) -> Mapping[TaskKey, Task]:
        found = {key: TaskId(key) if isinstance(key, UUID) else self._ids.get(key) for key in keys}
        return {key: self._records[id_].task for key, id_ in found.items() if id_ is not None and id_ in self._records}

    async def examples(self, task_id: TaskId) -> str:
        lists = (text[1:-1] for text in self._record(task_id).examples)
        return f"[{','.join(filter(None, lists))}]"

    async def copy_of(self, task_id: TaskId) -> TaskCopy:
        record = self._record(task_id)
        return TaskCopy(
            record.task,
            await self.examples(task_id),
            tuple(record.all_artifacts()),
            tuple(replace(activation, number=0) for activation in record.activations),
            tuple(sorted(record.generations.values(), key=lambda generation: generation.id)),
        )

    async def add_copy(self, copy: TaskCopy, events: Sequence[Event]) -> None:
        await asyncio.sleep(0)
        task = copy.task
        if task.id in self._records or task.name in self._ids:
            raise TaskAlreadyExists(f"there is a task {task.id}, or one named '{task.name}', already")
        activations = [replace(activation, number=n) for n, activation in enumerate(copy.activations, start=1)]
        generations = {generation.id: generation for generation in copy.generations}
        record = _Record(task, [copy.examples], list(copy.artifacts), activations, generations)
        record.change([None, *(artifact.version for artifact in copy.artifacts)])
        self._records[task.id] = record
        self._ids[task.name] = task.id
        self._outbox.update({event.id: event for event in events})

    async def tasks(
        self, *, after: TaskId | None, limit: int, status: TaskStatus | None, name_prefix: str | None
    ) -> Page[Task]:
        ordered = (self._records[task_id].task for task_id in sorted(self._records))
        matching = (
            task
            for task in ordered
            if (after is None or task.id > after)
            and (status is None or task.status is status)
            and task.name.startswith(name_prefix or "")
        )
        return take_page(matching, limit, lambda task: task.size_bytes)

    async def artifact(self, task: Task, version: Version) -> Artifact:
        found = self._record(task.id).artifact(version)
        if found is None:
            raise artifact_not_found(task, version)
        return found

    async def find_artifacts(self, wanted: Sequence[tuple[Task, Version]]) -> Mapping[VersionKey, Artifact]:
        found = {(task.id, version): self._record(task.id).artifact(version) for task, version in wanted}
        return {key: artifact for key, artifact in found.items() if artifact is not None}

    async def artifacts(self, task_id: TaskId, *, after: Version, limit: int) -> Page[Artifact]:
        record = self._records.get(task_id)
        found = () if record is None else record.all_artifacts()[after:]
        return take_page(found, limit, lambda artifact: len(artifact.document.model_dump_json()))

    async def activations(self, task_id: TaskId, *, before: int | None, limit: int) -> Page[Activation]:
        record = self._records.get(task_id)
        found = [] if record is None else record.activations[: None if before is None else before - 1]
        return take_page(reversed(found), limit, lambda activation: len(activation.reason))

    async def generation(self, task_id: TaskId, generation_id: GenerationId) -> Generation | None:
        record = self._records.get(task_id)
        return None if record is None else record.generations.get(generation_id)

    async def digests(self, task_id: TaskId) -> frozenset[Digest]:
        record = self._records.get(task_id)
        return frozenset() if record is None else frozenset(a.document.digest for a in record.artifacts)

    async def pending_events(self, limit: int) -> tuple[Event, ...]:
        return tuple(self._outbox.values())[:limit]

    async def remove_events(self, ids: Sequence[str]) -> None:
        for event_id in ids:
            self._outbox.pop(event_id, None)

    async def undocumented(self, *, after: TaskId | None, limit: int) -> Page[Undocumented]:
        behind = [task_id for task_id in sorted(self._records) if self._records[task_id].undocumented]
        waiting = (
            Undocumented(
                task_id,
                max(revision for revision, _ in self._records[task_id].undocumented),
                tuple(sorted({v for _, v in self._records[task_id].undocumented if v is not None})),
            )
            for task_id in behind
            if after is None or task_id > after
        )
        return take_page(waiting, limit, lambda _: 0)

    async def documented(self, task_id: TaskId, revision: int) -> None:
        await asyncio.sleep(0)
        record = self._record(task_id)
        record.undocumented = {key: at for key, at in record.undocumented.items() if key[0] > revision}

    async def forget_claims(self, before: datetime) -> int:
        old = [key for key, (claim, _) in self._claims.items() if claim.at < before]
        for key in old:
            del self._claims[key]
        return len(old)

    async def backlog(self) -> Backlog:
        waiting = list(self._outbox.values())
        changes = [at for record in self._records.values() for at in record.undocumented.values()]
        return Backlog(
            len(waiting), waiting[0].origin.at if waiting else None, len(changes), min(changes, default=None)
        )

    async def census(self) -> Census:
        tasks = dict.fromkeys(TaskStatus, 0)
        artifacts = dict.fromkeys(ArtifactStatus, 0)
        for record in self._records.values():
            tasks[record.task.status] += 1
            for artifact in record.all_artifacts():
                artifacts[artifact.status] += 1
        return Census(tasks, artifacts)

    async def check(self) -> None:
        return None

    def _claimed(self, claim: IdempotencyClaim) -> TaskId | None:
        if claim.key not in self._claims:
            return None
        known, task_id = self._claims[claim.key]
        claim.check(known.digest)
        return task_id

    def _record(self, key: TaskKey) -> _Record:
        task_id = TaskId(key) if isinstance(key, UUID) else self._ids.get(key)
        if task_id is None or task_id not in self._records:
            raise task_not_found(key)
        return self._records[task_id]
