"""Warming at start: the programs that ran most of late are loaded before anybody asks for them.

Executions are counted by their records, which are those that were asynchronous or sampled. A task whose sampling rate
is zero is not seen; its first execution loads its program, as without warming.
"""

from typing import Final

from loopai_artifact_store.ports import ArtifactStorage, CacheObserver, Catalog, ExecutionLog
from loopai_common.errors import ArtifactCorrupt, ArtifactNotFound, StoreUnavailable, TaskNotFound
from loopai_common.runtime.logging import get_logger

MAX_TASKS: Final = 1000
MAX_BYTES: Final = 32 * 1024 * 1024

log = get_logger()


async def warm(catalog: Catalog, storage: ArtifactStorage, executions: ExecutionLog, observer: CacheObserver) -> None:
    """Loads the active programs of ``MAX_TASKS`` tasks, or of as many as fit ``MAX_BYTES``; never fails."""
    loaded = size_bytes = 0
    try:
        for task_id in await executions.popular(MAX_TASKS):
            try:
                task = await catalog.task(task_id)
                if task.active_version is None:
                    continue
                document = (await catalog.artifact(task, task.active_version)).document
                if size_bytes + document.size_bytes > MAX_BYTES:
                    break
                await storage.get(task.id, document.digest)
            except (TaskNotFound, ArtifactNotFound, ArtifactCorrupt):
                continue  # whoever asks for it hears why
            loaded, size_bytes = loaded + 1, size_bytes + document.size_bytes
    except StoreUnavailable as error:
        log.warning("warming_ended", reason=error.message)
    observer.warmed(loaded)
    log.info("warmed", tasks=loaded, size_bytes=size_bytes)
