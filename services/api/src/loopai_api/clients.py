"""The other services, as the use cases of the api see them."""

import asyncio
from collections import defaultdict

from loopai_common.contracts import subjects
from loopai_common.contracts.artifacts import (
    ArtifactActivated,
    ArtifactPage,
    GetArtifact,
    ListArtifacts,
    ProgramArtifact,
)
from loopai_common.contracts.base import TaskId, Version
from loopai_common.contracts.health import HealthStatus, Ping, Pong
from loopai_common.contracts.tasks import (
    CreateTask,
    GetTask,
    ListTasks,
    TaskDefinition,
    TaskFailed,
    TaskPage,
    TaskSpecification,
    TaskStatus,
)
from loopai_common.errors import Internal, LoopaiError
from loopai_common.runtime.broker import Bus
from loopai_common.runtime.rpc import RpcClient

_WAIT_POLL_SECONDS = 1.0


class StoreClient:
    """Questions and commands to the artifact store. Every method raises the store's typed errors."""

    def __init__(self, rpc: RpcClient, timeout_seconds: float) -> None:
        self._rpc = rpc
        self._timeout = timeout_seconds

    async def create_task(self, definition: TaskDefinition, idempotency_key: str | None) -> TaskSpecification:
        """Stores a task; its generation begins by itself."""
        command = CreateTask(definition=definition, idempotency_key=idempotency_key)
        return await self._rpc.call(subjects.TASKS_CREATE, command, TaskSpecification, timeout=self._timeout)

    async def get_task(self, task: str, *, include_examples: bool = True) -> TaskSpecification:
        """One task by id or name."""
        query = GetTask(task=task, include_examples=include_examples)
        return await self._rpc.call(subjects.TASKS_GET, query, TaskSpecification, timeout=self._timeout)

    async def task_names(self, task: str) -> tuple[str, str]:
        """The id and the name of a task, given by either."""
        found = await self.get_task(task, include_examples=False)
        return str(found.id), found.name

    async def list_tasks(self, query: ListTasks) -> TaskPage:
        """A page of tasks."""
        return await self._rpc.call(subjects.TASKS_LIST, query, TaskPage, timeout=self._timeout)

    async def list_artifacts(self, query: ListArtifacts) -> ArtifactPage:
        """A page of a task's versions."""
        return await self._rpc.call(subjects.ARTIFACTS_LIST, query, ArtifactPage, timeout=self._timeout)

    async def get_artifact(self, task: str, version: Version | None, *, include_code: bool) -> ProgramArtifact:
        """One version of a task; ``version`` ``None`` is the active one."""
        query = GetArtifact(task=task, version=version, include_code=include_code)
        return await self._rpc.call(subjects.ARTIFACTS_GET, query, ProgramArtifact, timeout=self._timeout)


class TaskWatcher:
    """Waits for a task to leave ``generating``: woken by events, with a slow poll as the net."""

    def __init__(self, store: StoreClient) -> None:
        self._store = store
        self._waiting: dict[TaskId, set[asyncio.Event]] = defaultdict(set)

    def register(self, bus: Bus) -> None:
        """Listens for the events that end a generation."""

        async def on_activated(event: ArtifactActivated) -> None:
            self._wake(event.task_id)

        async def on_failed(event: TaskFailed) -> None:
            self._wake(event.task_id)

        bus.on_every_instance(subjects.ARTIFACT_ACTIVATED)(on_activated)
        bus.on_every_instance(subjects.TASK_FAILED)(on_failed)

    async def wait(self, task: TaskSpecification, seconds: float) -> TaskSpecification:
        """The task once its generation has ended, or as it is after ``seconds``."""
        woken = asyncio.Event()
        self._waiting[task.id].add(woken)
        try:
            async with asyncio.timeout(seconds):
                while True:
                    task = await self._look(task)
                    if task.status is not TaskStatus.GENERATING:
                        return task
                    await _wait_briefly(woken)
        except TimeoutError:
            return task
        finally:
            self._waiting[task.id].discard(woken)
            if not self._waiting[task.id]:
                del self._waiting[task.id]

    async def _look(self, task: TaskSpecification) -> TaskSpecification:
        try:
            return await self._store.get_task(str(task.id))
        except LoopaiError as error:
            if not error.retryable:
                raise
            return task  # the task is stored; that the store is away for a moment changes nothing

    def _wake(self, task_id: TaskId) -> None:
        for event in self._waiting.get(task_id, ()):
            event.set()


async def _wait_briefly(event: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(_WAIT_POLL_SECONDS):
            await event.wait()
    except TimeoutError:
        return
    event.clear()


async def ping(rpc: RpcClient, service: str) -> str | None:
    """Asks an instance of ``service`` how it is: ``None`` when healthy, else what it lacks; raises when unwell."""
    pong = await rpc.call(subjects.ping(service), Ping(), Pong, timeout=1.5)
    if pong.status is HealthStatus.UNHEALTHY:
        raise Internal(pong.detail or f"{service} is unhealthy")
    return pong.detail
