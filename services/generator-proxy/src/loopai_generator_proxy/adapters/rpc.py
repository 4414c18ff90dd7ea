"""The artifact store and the executors, over the bus."""

from loopai_common.contracts import subjects
from loopai_common.contracts.artifacts import ArtifactPage, GetArtifact, ListArtifacts, ProgramArtifact, PublishArtifact
from loopai_common.contracts.base import TaskId, Version
from loopai_common.contracts.execution import CheckProgram, CheckReport
from loopai_common.contracts.generation import GenerateProgram, GenerationState, GetGeneration
from loopai_common.contracts.tasks import FailTask, GetTask, TaskSpecification, TaskSummary
from loopai_common.runtime.rpc import RpcClient

_STORE_SECONDS = 15.0
_MAX_PAGE = 200


class RpcArtifactStore:
    """The store, wherever it runs."""

    def __init__(self, client: RpcClient) -> None:
        self._client = client

    async def task(self, task: str) -> TaskSpecification:
        """The task with its examples."""
        query = GetTask(task=task)
        return await self._client.call(subjects.TASKS_GET, query, TaskSpecification, timeout=_STORE_SECONDS)

    async def artifact(self, task_id: TaskId, version: Version) -> ProgramArtifact:
        """A version with its code."""
        query = GetArtifact(task=str(task_id), version=version, include_code=True)
        return await self._client.call(subjects.ARTIFACTS_GET, query, ProgramArtifact, timeout=_STORE_SECONDS)

    async def versions(self, task_id: TaskId) -> list[ProgramArtifact]:
        """Every version, page by page."""
        found: list[ProgramArtifact] = []
        cursor: str | None = None
        while True:
            query = ListArtifacts(task=str(task_id), limit=_MAX_PAGE, cursor=cursor)
            page = await self._client.call(subjects.ARTIFACTS_LIST, query, ArtifactPage, timeout=_STORE_SECONDS)
            found += page.items
            cursor = page.next_cursor
            if cursor is None:
                return found

    async def version_made(self, command: GenerateProgram) -> Version | None:
        """The version that came of the command already."""
        query = GetGeneration(task_id=command.task_id, generation_id=command.generation_id)
        state = await self._client.call(subjects.GENERATIONS_GET, query, GenerationState, timeout=_STORE_SECONDS)
        return state.version

    async def publish(self, command: PublishArtifact) -> ProgramArtifact:
        """Stores the program as the next version."""
        return await self._client.call(subjects.ARTIFACTS_PUBLISH, command, ProgramArtifact, timeout=_STORE_SECONDS)

    async def fail(self, command: FailTask) -> None:
        """Ends the generation without a program."""
        await self._client.call(subjects.TASKS_FAIL, command, TaskSummary, timeout=_STORE_SECONDS)


class RpcProgramChecker:
    """Whichever executor takes the check; it is given ``timeout_seconds``."""

    def __init__(self, client: RpcClient, *, timeout_seconds: float) -> None:
        self._client = client
        self._timeout_seconds = timeout_seconds

    async def check(self, program: CheckProgram) -> CheckReport:
        """Runs the program on its examples in the sandbox."""
        return await self._client.call(subjects.PROGRAMS_CHECK, program, CheckReport, timeout=self._timeout_seconds)
