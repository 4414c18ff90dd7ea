"""A process that publishes, and then labels what it published, to be killed, starved and multiplied by the tests.

``python -m tests.integration.artifact_store.publisher PLACE TASK_ID COUNT`` prints ``ready`` and waits for a line on
its input before it opens the store; then it prints each version once it is acknowledged, or ``refused <code>`` and exit
code 1 for a typed error. The place is a directory or the address of a MongoDB.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

from loopai_artifact_store.labelling import Labeller
from loopai_artifact_store.service import ArtifactStore
from loopai_common.contracts.base import TaskId
from loopai_common.errors import LoopaiError
from loopai_common.identifiers import new_id
from tests.contract.artifact_store.builders import (
    labeller_on,
    open_files,
    open_mongodb,
    open_sqlite,
    publishing,
    store_on,
)


@asynccontextmanager
async def store_in(place: str) -> AsyncIterator[tuple[ArtifactStore, Labeller]]:
    if place.startswith("mongodb:"):
        opened = open_mongodb(place, "loopai")
        yield store_on(opened.catalog, opened.storage), labeller_on(opened.catalog, opened.storage)
        await opened.database.close()
    else:
        catalog = open_sqlite(Path(place))
        storage = open_files(Path(place))
        yield store_on(catalog, storage), labeller_on(catalog, storage)
        await catalog.close()


async def publish(place: str, task_id: TaskId, count: int) -> None:
    # One thread for files: a fault is injected at the n-th call of a thread.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    print("ready", flush=True)
    sys.stdin.readline()
    async with store_in(place) as (store, labeller):
        for _ in range(count):
            artifact = await store.publish(publishing(task_id, code=f"def run(input):\n    return '{new_id()}'\n"))
            print(artifact.version, flush=True)
        await labeller.catch_up()


if __name__ == "__main__":
    try:
        asyncio.run(publish(sys.argv[1], TaskId(UUID(sys.argv[2])), int(sys.argv[3])))
    except LoopaiError as error:
        print("refused", error.code, flush=True)
        sys.exit(1)
