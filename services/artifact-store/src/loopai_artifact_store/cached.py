"""The catalog and the programs behind the cache: the same ports, the same answers, fewer questions to the backends.

Only what executions need is cached: tasks without their examples, the versions that have a share of the executions,
and programs. Everything else goes to the backend each time.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Generic, TypeVar
from uuid import UUID

from loopai_artifact_store.domain import (
    Artifact,
    Change,
    Decision,
    Event,
    IdempotencyClaim,
    Task,
    TaskCopy,
    TaskCreation,
    TaskKey,
    artifact_not_found,
    task_not_found,
)
from loopai_artifact_store.ports import (
    ArtifactStorage,
    Cached,
    CacheKey,
    CacheKind,
    Catalog,
    StoredProgram,
    VersionKey,
)
from loopai_artifact_store.reads import CachedReads
from loopai_common.contracts.base import Digest, GenerationId, TaskId, Version
from loopai_common.errors import ArtifactNotFound, TaskNotFound

Q = TypeVar("Q")
K = TypeVar("K")
V = TypeVar("V")

_LoadTask = Callable[[TaskKey], Awaitable[Task]]
_LoadArtifact = Callable[[Task, Version], Awaitable[Artifact]]


class CachedCatalog:
    """A catalog whose answers are those of ``catalog``: at once after a write through this one, and after one through
    another instance when its event has come, or after five seconds.
    """

    def __init__(self, catalog: Catalog, reads: CachedReads) -> None:
        self._catalog = catalog
        self._reads = reads
        self.examples = catalog.examples
        self.copy_of = catalog.copy_of
        self.tasks = catalog.tasks
        self.artifacts = catalog.artifacts
        self.activations = catalog.activations
        self.generation = catalog.generation
        self.digests = catalog.digests
        self.pending_events = catalog.pending_events
        self.remove_events = catalog.remove_events
        self.undocumented = catalog.undocumented
        self.documented = catalog.documented
        self.forget_claims = catalog.forget_claims
        self.backlog = catalog.backlog
        self.census = catalog.census
        self.check = catalog.check

    async def create_task(self, creation: TaskCreation) -> TaskId:
        task_id = await self._catalog.create_task(creation)
        await self._reads.forget(CacheKey(CacheKind.NAME, creation.task.name))
        return task_id

    async def change_task(
        self,
        key: TaskKey,
        decide: Decision,
        *,
        generation_id: GenerationId | None = None,
        version: Version | None = None,
        claim: IdempotencyClaim | None = None,
    ) -> Change:
        change = await self._catalog.change_task(key, decide, generation_id=generation_id, version=version, claim=claim)
        await self._reads.forget_task(change.task.id, revision=change.task.revision)
        return change

    async def add_copy(self, copy: TaskCopy, events: Sequence[Event]) -> None:
        await self._catalog.add_copy(copy, events)
        await self._reads.forget(CacheKey(CacheKind.NAME, copy.task.name))
        await self._reads.forget_task(copy.task.id, revision=copy.task.revision)

    async def task(self, key: TaskKey) -> Task:
        return await self._task(key, self._catalog.task)

    async def find_tasks(self, keys: Sequence[TaskKey]) -> Mapping[TaskKey, Task]:
        batch = _Batch(self._catalog.find_tasks, lambda key: key)

        async def load(key: TaskKey) -> Task:
            found = await batch.get(key)
            if found is None:
                raise task_not_found(key)
            return found

        async def find(key: TaskKey) -> Task | None:
            try:
                return await self._task(key, load)
            except TaskNotFound:
                return None

        wanted = list(dict.fromkeys(keys))
        found = await asyncio.gather(*map(find, wanted))
        return {key: task for key, task in zip(wanted, found, strict=True) if task is not None}

    async def artifact(self, task: Task, version: Version) -> Artifact:
        return await self._artifact(task, version, self._catalog.artifact)

    async def find_artifacts(self, wanted: Sequence[tuple[Task, Version]]) -> Mapping[VersionKey, Artifact]:
        batch = _Batch(self._catalog.find_artifacts, lambda one: (one[0].id, one[1]))

        async def load(task: Task, version: Version) -> Artifact:
            found = await batch.get((task, version))
            if found is None:
                raise artifact_not_found(task, version)
            return found

        async def find(task: Task, version: Version) -> Artifact | None:
            try:
                return await self._artifact(task, version, load)
            except ArtifactNotFound:
                return None

        distinct = {(task.id, version): task for task, version in wanted}
        found = await asyncio.gather(*(find(task, version) for (_, version), task in distinct.items()))
        return {key: artifact for key, artifact in zip(distinct, found, strict=True) if artifact is not None}

    async def hear_of(self, task_id: TaskId, *, name: str | None = None) -> None:
        """Drops what is known of a task that another instance changed; with ``name``, that there was none so named."""
        await self._reads.hear_of(task_id)
        if name is not None:
            await self._reads.forget(CacheKey(CacheKind.NAME, name))

    async def _task(self, key: TaskKey, load: _LoadTask) -> Task:
        if isinstance(key, UUID):
            return await self._task_by_id(TaskId(key), load)
        name = CacheKey(CacheKind.NAME, key)
        task_id: TaskId = await self._reads.read(name, partial(_load_id, key, load))
        try:
            return await self._task_by_id(task_id, load)
        except TaskNotFound:  # the catalog is another one than a while ago: it was restored, or made anew
            await self._reads.forget(name)
            return await load(key)

    async def _task_by_id(self, task_id: TaskId, load: _LoadTask) -> Task:
        task: Task = await self._reads.read(CacheKey(CacheKind.TASK, str(task_id)), partial(_load_task, task_id, load))
        return task

    async def _artifact(self, task: Task, version: Version, load: _LoadArtifact) -> Artifact:
        if version in _running_versions(task):
            running: tuple[Artifact, ...] = await self._reads.read(
                CacheKey(CacheKind.ACTIVE, str(task.id)), partial(_load_running, task, load), at_least=task.revision
            )
            for artifact in running:
                if artifact.version == version:
                    return artifact
        return await load(task, version)


class CachedStorage:
    """The programs of ``storage``; bytes are known by their digest alone, whatever task they were put for."""

    def __init__(self, storage: ArtifactStorage, reads: CachedReads) -> None:
        self._storage = storage
        self._reads = reads
        self.label_tags = storage.label_tags
        self.label = storage.label
        self.labels = storage.labels
        self.labelled = storage.labelled
        self.stored = storage.stored
        self.check = storage.check

    async def put(self, task_id: TaskId, digest: Digest, content: bytes) -> None:
        await self._storage.put(task_id, digest, content)
        await self._reads.forget(CacheKey(CacheKind.ARTIFACT, digest))

    async def get(self, task_id: TaskId, digest: Digest) -> bytes:
        content: bytes = await self._reads.read(
            CacheKey(CacheKind.ARTIFACT, digest), partial(self._load, task_id, digest)
        )
        return content

    async def delete(self, program: StoredProgram) -> None:
        await self._storage.delete(program)
        await self._reads.forget(CacheKey(CacheKind.ARTIFACT, program.digest))

    async def _load(self, task_id: TaskId, digest: Digest) -> tuple[Cached, int]:
        return await self._storage.get(task_id, digest), 0


class _Batch(Generic[Q, K, V]):
    """Questions that are asked in the same turn of the event loop go to the catalog as one."""

    def __init__(self, find: Callable[[Sequence[Q]], Awaitable[Mapping[K, V]]], key: Callable[[Q], K]) -> None:
        self._find = find
        self._key = key
        self._questions: list[Q] = []
        self._asking: asyncio.Task[Mapping[K, V]] | None = None

    async def get(self, question: Q) -> V | None:
        """The answer; ``None`` when there is none. Raises what the catalog raises."""
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
        self._questions.append(question)
        # One of those who wait may be cancelled; the others are answered.
        return (await asyncio.shield(self._asking)).get(self._key(question))

    async def _ask(self) -> Mapping[K, V]:
        await asyncio.sleep(0)
        questions, self._questions, self._asking = self._questions, [], None
        return await self._find(questions)


async def _load_id(name: str, load: _LoadTask) -> tuple[Cached, int]:
    return (await load(name)).id, 0


async def _load_task(task_id: TaskId, load: _LoadTask) -> tuple[Cached, int]:
    task = await load(task_id)
    return task, task.revision


async def _load_running(task: Task, load: _LoadArtifact) -> tuple[Cached, int]:
    # Read after the task, so they are as it says or newer.
    running = await asyncio.gather(*(load(task, version) for version in _running_versions(task)))
    return tuple(running), task.revision


def _running_versions(task: Task) -> tuple[Version, ...]:
    """Those that have a share of the executions."""
    rollout = None if task.rollout is None else task.rollout.version
    return tuple(version for version in (task.active_version, rollout) if version is not None)
