"""Programs in memory, for tests: the same behaviour, nothing survives."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

from loopai_artifact_store.domain import checked_digest, digest_of
from loopai_artifact_store.ports import Labels, LabelsMoved, LabelTags, StoredProgram
from loopai_common.contracts.base import Digest, TaskId, Version
from loopai_common.errors import ArtifactCorrupt, ArtifactNotFound


class MemoryStorage:
    """Programs in dictionaries; :attr:`contents` and :attr:`kept` are open to tests."""

    def __init__(self) -> None:
        self.contents: dict[tuple[TaskId, Digest], bytes] = {}
        self.kept: dict[TaskId, Labels] = {}
        self._touched: dict[tuple[TaskId, Digest], datetime] = {}
        self._times_labelled: Counter[TaskId] = Counter()

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

    async def label_tags(self, task_id: TaskId, versions: Sequence[Version] = ()) -> LabelTags:
        return {"task": self._times_labelled[task_id]}

    async def label(self, task_id: TaskId, labels: Labels, *, since: LabelTags) -> None:
        for digest in labels.digests.values():
            checked_digest(digest)
        if since != await self.label_tags(task_id):
            raise LabelsMoved("the task was labelled by another one; try again")
        self._times_labelled[task_id] += 1
        kept = await self.labels(task_id)
        self.kept[task_id] = Labels(
            kept.task if labels.task is None else labels.task,
            {**kept.digests, **labels.digests},
            {**kept.documents, **labels.documents},
            kept.active if labels.active is None else labels.active,
        )

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
