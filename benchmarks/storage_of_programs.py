"""Time of each operation on the storage of programs: files beside Azure (its emulator, so compare shapes, not values).

Run ``python -m benchmarks.storage_of_programs``; needs ``make servers``.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from loopai_artifact_store.domain import digest_of
from loopai_artifact_store.ports import ArtifactStorage, Labels
from loopai_common.contracts.base import Digest, TaskId, Version
from loopai_common.identifiers import new_uuid
from tests.contract.artifact_store.builders import open_azure, open_files
from tests.support.servers import Azurite

ROUNDS = 100


async def measure(name: str, storage: ArtifactStorage) -> None:
    """Prints the median and the 99th percentile of each operation, in milliseconds."""
    task_id = TaskId(new_uuid())
    contents = [f"def run(input):\n    return {number}\n".encode() for number in range(ROUNDS)]

    async def label(version: Version, digest: Digest) -> None:
        labels = Labels("{}", {version: digest}, {version: "{}"}, version)
        await storage.label(task_id, labels, since=await storage.label_tags(task_id, [version]))

    operations: dict[str, Callable[[int], Awaitable[object]]] = {
        "put": lambda n: storage.put(task_id, digest_of(contents[n]), contents[n]),
        "put again": lambda n: storage.put(task_id, digest_of(contents[n]), contents[n]),
        "get": lambda n: storage.get(task_id, digest_of(contents[n])),
        "label": lambda n: label(Version(n + 1), digest_of(contents[n])),
    }
    for operation, work in operations.items():
        times = []
        for number in range(ROUNDS):
            started = time.perf_counter()
            await work(number)
            times.append((time.perf_counter() - started) * 1000)
        p99 = statistics.quantiles(times, n=100)[98]
        print(f"{name:<6} {operation:<13} p50 {statistics.median(times):8.2f} ms   p99 {p99:8.2f} ms")


async def main() -> None:
    """Measures both."""
    with tempfile.TemporaryDirectory() as directory, Azurite(Path(directory) / "azurite") as azurite:
        await measure("files", open_files(Path(directory)))
        azure = open_azure(azurite.connection_string)
        await measure("azure", azure)
        await azure.close()


if __name__ == "__main__":
    asyncio.run(main())
