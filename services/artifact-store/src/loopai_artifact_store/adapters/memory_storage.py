"""Programs in memory, for tests: the same behaviour, nothing survives."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime

from loopai_artifact_store.domain import checked_digest, digest_of
from loopai_artifact_store.ports import Labels, StoredProgram
from loopai_common.contracts.base import Digest, TaskId, Version
from loopai_common.errors import ArtifactCorrupt, ArtifactNotFound


class MemoryStorage:
    """Programs in dictionaries; :attr:`contents` and :attr:`kept` are open to tests."""

    def __init__(self) -> None:
        self.contents: dict[tuple[TaskId, Digest], bytes] = {}
        self.kept: dict[TaskId, Labels] = {}
        self._touched: dict[tuple[TaskId, Digest], datetime] = {}

    async def put(self, task_id: TaskId, digest: Digest, content: bytes) -> None:
        key = (task_id, checked_digest(digest))
        self.contents[key] = content
        self._touched[key] = datetime.now(UTC)

    async def get(self, task_id: TaskId, digest: Digest) -> bytes:
        content = self.contents.get((task_id, checked_digest(digest)))
        if content is None:
            raise ArtifactNotFound(f"program {digest} of task {task_id} is not stored")
        if digest_of(content) != digest:
            raise ArtifactCorrupt(f"the stored bytes of program {digest} of task {task_id} do not match the digest")
        return content

    async def delete(self, program: StoredProgram) -> None:
        key = (program.task_id, checked_digest(program.digest))
        if key in self.contents and self._touched[key] <= program.touched_at:
            del self.contents[key]

    async def label(self, task_id: TaskId, version: Version, digest: Digest, document: str) -> None:
        kept = await self.labels(task_id)
        digests, documents = {version: checked_digest(digest)}, {version: document}
        self.kept[task_id] = replace(
            kept, digests={**kept.digests, **digests}, documents={**kept.documents, **documents}
        )

    async def label_active(self, task_id: TaskId, version: Version) -> None:
        self.kept[task_id] = replace(await self.labels(task_id), active=version)

    async def label_task(self, task_id: TaskId, document: str) -> None:
        self.kept[task_id] = replace(await self.labels(task_id), task=document)

    async def labels(self, task_id: TaskId) -> Labels:
        return self.kept.get(task_id, Labels())

    async def labelled(self) -> AsyncIterator[TaskId]:
        for task_id in list(self.kept):
            yield task_id

    async def stored(self) -> AsyncIterator[StoredProgram]:
        for task_id, digest in list(self.contents):
            yield StoredProgram(task_id, digest, self._touched[task_id, digest])

    async def check(self) -> None:
        return None
