"""Each operation of the store's ports on each backend, one after the other: latency, and CPU of here and the server."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from _pytest.outcomes import Skipped

from benchmarks.bench import Bench, Figure
from benchmarks.processes import cpu_seconds
from loopai_artifact_store.adapters.memory_catalog import MemoryCatalog
from loopai_artifact_store.adapters.memory_executions import MemoryExecutionLog
from loopai_artifact_store.adapters.memory_storage import MemoryStorage
from loopai_artifact_store.domain import digest_of
from loopai_artifact_store.ports import ArtifactStorage, Catalog, ExecutionLog
from loopai_artifact_store.service import ArtifactStore
from loopai_common.contracts.artifacts import MAX_RESOLVED, ActivateArtifact, ResolveProgram, ResolvePrograms
from loopai_common.contracts.base import TaskId, Version
from loopai_common.identifiers import new_id
from tests.contract.artifact_store.builders import (
    creating,
    labeller_on,
    metrics,
    open_executions,
    open_files,
    open_mongodb,
    open_sqlite,
    publishing,
    record,
)
from tests.support.servers import Mongo

NAME = "repositories"

_TIMES = 100
_WARM_UP = 10
_PROGRAM = b"def run(input):\n    return 'ham'\n" * 600
_RECORDS = 64


@dataclass(frozen=True, slots=True)
class _Backend:
    name: str
    catalog: Catalog
    executions: ExecutionLog
    storage: ArtifactStorage
    server: int | None = None


_Opened = Callable[[Path], "AsyncIterator[_Backend]"]


async def _memory(directory: Path) -> AsyncIterator[_Backend]:
    yield _Backend("memory", MemoryCatalog(), MemoryExecutionLog(), MemoryStorage())


async def _files(directory: Path) -> AsyncIterator[_Backend]:
    catalog, executions = open_sqlite(directory), open_executions(directory)
    yield _Backend("SQLite, files", catalog, executions, open_files(directory))
    await executions.close()
    await catalog.close()


async def _mongodb(directory: Path) -> AsyncIterator[_Backend]:
    with Mongo(directory) as server:
        opened = open_mongodb(server.url, "loopai")
        yield _Backend("MongoDB", opened.catalog, opened.executions, opened.storage, server.pid)
        await opened.database.close()


_BACKENDS: dict[str, _Opened] = {"memory": _memory, "files": _files, "mongodb": _mongodb}


def run(bench: Bench) -> Iterator[Figure]:
    """A backend whose server is not here is left out, and said so by having no figures."""
    for name, opened in _BACKENDS.items():
        directory = bench.directory / name
        directory.mkdir()
        try:
            yield from asyncio.run(_measure(opened, directory))
        except Skipped as missing:
            print(f"{NAME}: {name} is left out: {missing}")


async def _measure(opened: _Opened, directory: Path) -> list[Figure]:
    async with AsyncExitStack() as stack:
        backend = await stack.enter_async_context(asynccontextmanager(opened)(directory))
        # As in the service: labels and documents are written beside the operations, and are in their CPU.
        labeller = labeller_on(backend.catalog, backend.storage)
        store = ArtifactStore(backend.catalog, backend.storage, metrics(), labeller.wake)
        labelling = asyncio.create_task(labeller.run())
        stack.callback(labelling.cancel)
        figures: list[Figure] = []
        for name, operation in (await _operations(backend, store)).items():
            figures += await _time(backend, name, operation)
        return figures


async def _operations(backend: _Backend, store: ArtifactStore) -> dict[str, Callable[[], Awaitable[object]]]:
    """What is measured, by name; each call finds what it needs."""
    catalog, storage = backend.catalog, backend.storage
    task = await store.create_task(creating())
    first = await store.publish(publishing(task.id))
    await store.publish(publishing(task.id))
    digest = digest_of(_PROGRAM)
    await storage.put(task.id, digest, _PROGRAM)
    kept = record(task.id)
    await backend.executions.add([kept])
    known = await catalog.task(task.id)
    running = await _running_tasks(store)

    async def publish() -> None:
        await store.publish(publishing(task.id))

    async def activate() -> None:
        active = (await catalog.task(task.id)).active_version
        wanted = Version(1) if active != 1 else Version(2)
        await store.activate(ActivateArtifact(task=str(task.id), version=wanted, expected_version=active))

    async def put() -> None:
        content = _PROGRAM + new_id().encode()
        await storage.put(task.id, digest_of(content), content)

    return {
        "read a task by id": lambda: catalog.task(task.id),
        "read a task by name": lambda: catalog.task(task.name),
        "list 50 tasks": lambda: _tasks(catalog),
        "read a version": lambda: catalog.artifact(known, first.version),
        f"resolve {MAX_RESOLVED} tasks": lambda: store.resolve_many(running),
        "list 50 versions": lambda: catalog.artifacts(task.id, after=Version(0), limit=50),
        "create a task": lambda: store.create_task(creating()),
        "publish a version (bytes included)": publish,
        "move the pointer": activate,
        "read the outbox (64)": lambda: catalog.pending_events(64),
        "count everything (census)": catalog.census,
        f"put a program of {len(_PROGRAM) // 1000} kB": put,
        f"get a program of {len(_PROGRAM) // 1000} kB": lambda: storage.get(task.id, digest),
        f"add {_RECORDS} records": lambda: backend.executions.add([record(task.id) for _ in range(_RECORDS)]),
        "read a record": lambda: backend.executions.get(kept.id),
        "list 50 records": lambda: _records(backend.executions, task.id),
    }


async def _running_tasks(store: ArtifactStore) -> ResolvePrograms:
    tasks = [await store.create_task(creating()) for _ in range(MAX_RESOLVED)]
    for task in tasks:
        await store.publish(publishing(task.id))
    return ResolvePrograms(queries=tuple(ResolveProgram(task=task.name) for task in tasks))


async def _tasks(catalog: Catalog) -> None:
    await catalog.tasks(after=None, limit=50, status=None, name_prefix=None)


async def _records(executions: ExecutionLog, task_id: TaskId) -> None:
    await executions.page(task_id, status=None, since=None, before=None, limit=50)


async def _time(backend: _Backend, name: str, operation: Callable[[], Awaitable[object]]) -> list[Figure]:
    for _ in range(_WARM_UP):
        await operation()
    processes = {"server": [] if backend.server is None else [backend.server]}
    seconds: list[float] = []
    before = cpu_seconds(processes)["server"]  # which takes CPU itself
    here = time.process_time()
    for _ in range(_TIMES):
        started = time.perf_counter()
        await operation()
        seconds.append(time.perf_counter() - started)
    here = time.process_time() - here
    server = cpu_seconds(processes)["server"] - before
    what = f"{backend.name}: {name}"
    note = "this process" if backend.server is None else f"of which {server / _TIMES * 1e6:,.0f} in the server"
    return [
        Figure(NAME, what, statistics.median(seconds) * 1000, "ms", f"p50 of {_TIMES}, one after the other"),
        Figure(NAME, f"{what}, CPU", (here + server) / _TIMES * 1e6, "µs", note),
    ]
