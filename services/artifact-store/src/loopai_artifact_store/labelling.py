"""Labels and recovery documents beside the programs follow the catalog, after the requests that changed it."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

from loopai_artifact_store.documents import encode_copy, encode_version
from loopai_artifact_store.domain import Task, TaskCopy, Undocumented
from loopai_artifact_store.following import Follower
from loopai_artifact_store.ports import ArtifactStorage, Catalog, Labels, LabelsMoved, Store, all_tasks
from loopai_common.contracts.base import TaskId, Version

_TASKS_AT_ONCE: Final = 16
_VERSIONS_AT_ONCE: Final = 16
_ATTEMPTS: Final = 8
_PAUSE_SECONDS: Final = 0.01
_GATHERING_SECONDS: Final = 0.2
"""Changes that come one after another share their documents, and the disk is left to those who make them."""


class Labeller(Follower):
    """Writes what the catalog noted as undocumented, and takes it off that list afterwards.

    So a crash at any step repeats work and loses none. Several may share catalog and storage. ``catalog`` is one that
    is never behind, not a cached one.
    """

    def __init__(self, catalog: Catalog, storage: ArtifactStorage, *, poll_seconds: float) -> None:
        super().__init__(waiting="labels_waiting", poll_seconds=poll_seconds, gathering_seconds=_GATHERING_SECONDS)
        self._catalog = catalog
        self._storage = storage

    async def catch_up(self) -> None:
        """Looks once at each task that is behind; raises what the first of those raised that could not be written."""
        after: TaskId | None = None
        failures: list[BaseException] = []
        more = True
        while more:
            page = await self._catalog.undocumented(after=after, limit=_TASKS_AT_ONCE)
            work = (label(self._catalog, self._storage, behind) for behind in page.items)
            failures += [done for done in await asyncio.gather(*work, return_exceptions=True) if done is not None]
            more, after = page.more, page.items[-1].task_id if page.items else None
        if failures:
            raise failures[0]


async def label(catalog: Catalog, storage: ArtifactStorage, behind: Undocumented) -> None:
    """Labels these versions, the active one and the task as the catalog has them, and notes there that it is done.

    Raises :class:`~loopai_common.errors.StoreUnavailable`, also when others label the task all the time.
    """
    task = await catalog.task(behind.task_id)
    for first in range(0, len(behind.versions), _VERSIONS_AT_ONCE):
        versions = behind.versions[first : first + _VERSIONS_AT_ONCE]
        await _again_when_moved(partial(_label_versions, catalog, storage, task, versions))
    await _again_when_moved(partial(_label_task, catalog, storage, behind.task_id))
    await catalog.documented(behind.task_id, behind.revision)


async def label_all(store: Store) -> int:
    """Labels everything again, the store of an older release too; returns of how many tasks that was.

    Raises :class:`~loopai_common.errors.StoreUnavailable`.
    """
    count = 0
    async for task in all_tasks(store.catalog):
        await label(store.catalog, store.storage, everything_of(task))
        count += 1
    return count


def everything_of(task: Task) -> Undocumented:
    """The task and all its versions, as if none of it had ever been written."""
    versions = tuple(Version(number) for number in range(1, task.total_versions + 1))
    return Undocumented(task.id, task.revision, versions)


async def _again_when_moved(step: Callable[[], Awaitable[None]]) -> None:
    """Reads and writes labels; again, after a pause that differs from that of others, while they write in between."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return await step()
        except LabelsMoved:
            if attempt == _ATTEMPTS:
                raise
            await asyncio.sleep(_PAUSE_SECONDS * 2**attempt * random.random())  # noqa: S311  # no secret


async def _label_versions(catalog: Catalog, storage: ArtifactStorage, task: Task, versions: Sequence[Version]) -> None:
    tags = await storage.label_tags(task.id, versions)
    # After the tags: so what is written is never older than what it is written over.
    found = await catalog.find_artifacts([(task, version) for version in versions])
    labels = Labels(
        digests={artifact.version: artifact.document.digest for artifact in found.values()},
        documents={artifact.version: encode_version(artifact) for artifact in found.values()},
    )
    await storage.label(task.id, labels, since=tags)


async def _label_task(catalog: Catalog, storage: ArtifactStorage, task_id: TaskId) -> None:
    tags = await storage.label_tags(task_id)
    before, task = None, await catalog.task(task_id)
    while task != before:  # so that the examples are those that it counts
        examples = await catalog.examples(task_id)
        before, task = task, await catalog.task(task_id)
    document = await asyncio.to_thread(encode_copy, TaskCopy(task, examples))
    await storage.label(task_id, Labels(document, active=task.active_version), since=tags)
