"""The other services, as the use cases of the api see them."""

import asyncio

from loopai_api.events.feed import ACTIVATED, ARCHIVED, FAILED, TaskEvent, TaskEventFeed
from loopai_common.contracts import subjects
from loopai_common.contracts.artifacts import (
    ActivateArtifact,
    ActivationPage,
    ArtifactPage,
    GetArtifact,
    ListActivations,
    ListArtifacts,
    ProgramArtifact,
)
from loopai_common.contracts.base import ExecutionId, Version
from loopai_common.contracts.execution import (
    AcceptExecution,
    ExecutionPage,
    ExecutionRecord,
    GetExecution,
    ListExecutions,
)
from loopai_common.contracts.generation import GenerationStarted, StartGeneration, SubmitProgram
from loopai_common.contracts.health import HealthStatus, Ping, Pong
from loopai_common.contracts.tasks import (
    ArchiveTask,
    CreateTask,
    GetTask,
    ListTasks,
    TaskDefinition,
    TaskPage,
    TaskSpecification,
    TaskStatus,
    TaskSummary,
    UpdateTask,
)
from loopai_common.errors import Internal, LoopaiError
from loopai_common.runtime.rpc import RpcClient

_WAIT_POLL_SECONDS = 1.0
_ENDS_OF_A_GENERATION = frozenset({ACTIVATED, FAILED, ARCHIVED})
_CHECK_SECONDS = 75.0
"""Until a program was checked, which takes a minute at most, and stored."""


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

    async def update_task(self, command: UpdateTask) -> TaskSpecification:
        """Changes a task."""
        return await self._rpc.call(subjects.TASKS_UPDATE, command, TaskSpecification, timeout=self._timeout)

    async def archive_task(self, task: str) -> TaskSummary:
        """Ends the life of a task."""
        command = ArchiveTask(task=task)
        return await self._rpc.call(subjects.TASKS_ARCHIVE, command, TaskSummary, timeout=self._timeout)

    async def start_generation(self, command: StartGeneration) -> GenerationStarted:
        """Has a new version made."""
        return await self._rpc.call(subjects.TASKS_GENERATE, command, GenerationStarted, timeout=self._timeout)

    async def activate(self, command: ActivateArtifact) -> ProgramArtifact:
        """Gives a version its share of the executions."""
        return await self._rpc.call(subjects.ARTIFACTS_ACTIVATE, command, ProgramArtifact, timeout=self._timeout)

    async def list_activations(self, query: ListActivations) -> ActivationPage:
        """A page of the history of a task's pointer."""
        return await self._rpc.call(subjects.ARTIFACTS_ACTIVATIONS, query, ActivationPage, timeout=self._timeout)

    async def list_artifacts(self, query: ListArtifacts) -> ArtifactPage:
        """A page of a task's versions."""
        return await self._rpc.call(subjects.ARTIFACTS_LIST, query, ArtifactPage, timeout=self._timeout)

    async def get_artifact(self, task: str, version: Version | None, *, include_code: bool) -> ProgramArtifact:
        """One version of a task; ``version`` ``None`` is the active one."""
        query = GetArtifact(task=task, version=version, include_code=include_code)
        return await self._rpc.call(subjects.ARTIFACTS_GET, query, ProgramArtifact, timeout=self._timeout)

    async def accept_execution(self, command: AcceptExecution) -> ExecutionRecord:
        """Notes that an execution is to run, provided that its task can run."""
        return await self._rpc.call(subjects.EXECUTIONS_ACCEPT, command, ExecutionRecord, timeout=self._timeout)

    async def get_execution(self, execution_id: ExecutionId) -> ExecutionRecord:
        """One recorded execution."""
        query = GetExecution(execution_id=execution_id)
        return await self._rpc.call(subjects.EXECUTIONS_GET, query, ExecutionRecord, timeout=self._timeout)

    async def list_executions(self, query: ListExecutions) -> ExecutionPage:
        """A page of a task's recorded executions."""
        return await self._rpc.call(subjects.EXECUTIONS_LIST, query, ExecutionPage, timeout=self._timeout)


class ProgramClient:
    """Hands programs in at the generator-proxy, which has them checked."""

    def __init__(self, rpc: RpcClient) -> None:
        self._rpc = rpc

    async def submit(self, command: SubmitProgram) -> ProgramArtifact:
        """The version that the program became; raises ``ProgramRejected`` with what it got wrong."""
        return await self._rpc.call(subjects.PROGRAMS_SUBMIT, command, ProgramArtifact, timeout=_CHECK_SECONDS)


class TaskWatcher:
    """Waits for a task to leave ``generating``: woken by events, with a slow poll as the net."""

    def __init__(self, store: StoreClient, feed: TaskEventFeed) -> None:
        self._store = store
        self._feed = feed

    async def wait(self, task: TaskSpecification, seconds: float) -> TaskSpecification:
        """The task once its generation has ended, or as it is after ``seconds``."""
        woken = asyncio.Event()

        def on_event(event: TaskEvent) -> None:
            if event.kind in _ENDS_OF_A_GENERATION:
                woken.set()

        with self._feed.heard_by(on_event, task.id):
            try:
                async with asyncio.timeout(seconds):
                    while True:
                        task = await self._look(task)
                        if task.status is not TaskStatus.GENERATING:
                            return task
                        await _wait_briefly(woken)
            except TimeoutError:
                return task

    async def _look(self, task: TaskSpecification) -> TaskSpecification:
        try:
            return await self._store.get_task(str(task.id))
        except LoopaiError as error:
            if not error.retryable:
                raise
            return task  # the task is stored; that the store is away for a moment changes nothing


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
