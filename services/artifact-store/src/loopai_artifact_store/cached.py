"""The catalog and the programs behind the cache: the same ports, the same answers, fewer questions to the backends.

Only what executions need is cached: tasks without their examples, the versions that have a share of the executions,
and programs. Everything else goes to the backend each time.
"""

from collections.abc import Sequence
from functools import partial
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
)
from loopai_artifact_store.ports import ArtifactStorage, Cached, CacheKey, CacheKind, Catalog, StoredProgram
from loopai_artifact_store.reads import CachedReads
from loopai_common.contracts.base import Digest, GenerationId, TaskId, Version
from loopai_common.errors import TaskNotFound


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
        if isinstance(key, UUID):
            return await self._task(key)
        name = CacheKey(CacheKind.NAME, key)
        task_id: TaskId = await self._reads.read(name, partial(self._load_id, key))
        try:
            return await self._task(task_id)
        except TaskNotFound:  # the catalog is another one than a while ago: it was restored, or made anew
            await self._reads.forget(name)
            return await self._catalog.task(key)

    async def artifact(self, task: Task, version: Version) -> Artifact:
        if version in _running_versions(task):
            running: tuple[Artifact, ...] = await self._reads.read(
                CacheKey(CacheKind.ACTIVE, str(task.id)), partial(self._load_running, task), at_least=task.revision
            )
            for artifact in running:
                if artifact.version == version:
                    return artifact
        return await self._catalog.artifact(task, version)

    async def hear_of(self, task_id: TaskId, *, name: str | None = None) -> None:
        """Drops what is known of a task that another instance changed; with ``name``, that there was none so named."""
        await self._reads.hear_of(task_id)
        if name is not None:
            await self._reads.forget(CacheKey(CacheKind.NAME, name))

    async def _task(self, task_id: TaskId) -> Task:
        task: Task = await self._reads.read(CacheKey(CacheKind.TASK, str(task_id)), partial(self._load_task, task_id))
        return task

    async def _load_id(self, name: str) -> tuple[Cached, int]:
        return (await self._catalog.task(name)).id, 0

    async def _load_task(self, task_id: TaskId) -> tuple[Cached, int]:
        task = await self._catalog.task(task_id)
        return task, task.revision

    async def _load_running(self, task: Task) -> tuple[Cached, int]:
        # Read after the task, so they are as it says or newer.
        running = [await self._catalog.artifact(task, version) for version in _running_versions(task)]
        return tuple(running), task.revision


class CachedStorage:
    """The programs of ``storage``; bytes are known by their digest alone, whatever task they were put for."""

    def __init__(self, storage: ArtifactStorage, reads: CachedReads) -> None:
        self._storage = storage
        self._reads = reads
        self.label = storage.label
        self.label_active = storage.label_active
        self.label_task = storage.label_task
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


def _running_versions(task: Task) -> tuple[Version, ...]:
    """Those that have a share of the executions."""
    rollout = None if task.rollout is None else task.rollout.version
    return tuple(version for version in (task.active_version, rollout) if version is not None)
