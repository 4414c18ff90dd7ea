"""A process that publishes, to be killed, starved and multiplied by the tests.

``python -m tests.integration.artifact_store.publisher DIRECTORY TASK_ID COUNT`` waits for a line on its input, then
prints each version once it is acknowledged, or ``refused <code>`` and exit code 1 for a typed error.
"""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

from loopai_common.contracts.base import TaskId
from loopai_common.errors import LoopaiError
from loopai_common.identifiers import new_id
from tests.contract.artifact_store.builders import open_files, open_sqlite, publishing, store_on


async def publish(directory: Path, task_id: TaskId, count: int) -> None:
    # One thread for files: a fault is injected at the n-th call of a thread.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    catalog = open_sqlite(directory)
    store = store_on(catalog, open_files(directory))
    sys.stdin.readline()
    for _ in range(count):
        artifact = await store.publish(publishing(task_id, code=f"def run(input):\n    return '{new_id()}'\n"))
        print(artifact.version, flush=True)
    await catalog.close()


if __name__ == "__main__":
    try:
        asyncio.run(publish(Path(sys.argv[1]), TaskId(UUID(sys.argv[2])), int(sys.argv[3])))
    except LoopaiError as error:
        print("refused", error.code, flush=True)
        sys.exit(1)
