"""Messages in, use cases, results out."""

from typing import Annotated, Any

from faststream import Context

from loopai_artifact_store.cached import CachedCatalog
from loopai_artifact_store.executions import ExecutionRecords
from loopai_artifact_store.service import ArtifactStore
from loopai_common import json_text
from loopai_common.contracts import subjects
from loopai_common.contracts.artifacts import (
    ActivateArtifact,
    ActivationPage,
    ArtifactActivated,
    ArtifactPage,
    ArtifactPublished,
    FetchProgram,
    GetArtifact,
    ListActivations,
    ListArtifacts,
    ProgramArtifact,
    ProgramCode,
    PublishArtifact,
    ResolvedProgram,
    ResolvedPrograms,
    ResolveProgram,
    ResolvePrograms,
)
from loopai_common.contracts.execution import (
    AcceptExecution,
    ExecutionPage,
    ExecutionRecord,
    GetExecution,
    ListExecutions,
)
from loopai_common.contracts.generation import GenerationStarted, GenerationState, GetGeneration, StartGeneration
from loopai_common.contracts.tasks import (
    ArchiveTask,
    CreateTask,
    FailTask,
    GetTask,
    ListTasks,
    TaskArchived,
    TaskCreated,
    TaskDefinition,
    TaskFailed,
    TaskPage,
    TaskSpecification,
    TaskSummary,
    TaskUpdated,
    UpdateTask,
)
from loopai_common.runtime.broker import Bus, message_id

CREATE_CONSUMER = "artifact-store-task-create"
RECORDS_CONSUMER = "artifact-store-execution-completed"
_CREATORS = 4
"""Commands taken at a time: each may hold 8 MiB."""
_RECORDERS = 256
"""Records taken at a time, which share a write."""
_RECORD_DELIVERIES = 20
"""A quarter of an hour: a record outlives a full disk that somebody clears."""
_ACCEPTORS = 64


def register(bus: Bus, store: ArtifactStore, records: ExecutionRecords) -> None:
    """Declares every subject that the artifact store answers on."""
    _register_tasks(bus, store)
    _register_artifacts(bus, store)
    _register_executions(bus, records)


def _register_tasks(bus: Bus, store: ArtifactStore) -> None:
    @bus.on(subjects.TASKS_CREATE)
    async def create_task(command: CreateTask) -> TaskSpecification:
        return await store.create_task(command)

    @bus.on(subjects.TASKS_GET)
    async def get_task(query: GetTask) -> TaskSpecification:
        return await store.get_task(query)

    @bus.on(subjects.TASKS_LIST)
    async def list_tasks(query: ListTasks) -> TaskPage:
        return await store.list_tasks(query)

    @bus.on(subjects.TASKS_FAIL)
    async def fail_task(command: FailTask) -> TaskSummary:
        return await store.fail_task(command)

    @bus.on(subjects.TASKS_UPDATE)
    async def update_task(command: UpdateTask) -> TaskSpecification:
        return await store.update_task(command)

    @bus.on(subjects.TASKS_ARCHIVE)
    async def archive_task(command: ArchiveTask) -> TaskSummary:
        return await store.archive_task(command)

    @bus.on(subjects.TASKS_GENERATE)
    async def start_generation(command: StartGeneration) -> GenerationStarted:
        return await store.start_generation(command)

    @bus.on(subjects.GENERATIONS_GET)
    async def get_generation(query: GetGeneration) -> GenerationState:
        return await store.get_generation(query)

    @bus.on_durable(
        subjects.TASK_CREATE_COMMAND,
        stream=subjects.COMMANDS_STREAM,
        name=CREATE_CONSUMER,
        concurrency=_CREATORS,
    )
    async def create_task_by_command(definition: TaskDefinition, message: Annotated[Any, Context()]) -> None:
        json_text.check(message.body)  # as strict as the HTTP side: no NaN, no key twice
        command = CreateTask.model_construct(
            definition=definition, idempotency_key=f"command:{message_id(message.raw_message)}"
        )
        await store.create_task(command)


def _register_artifacts(bus: Bus, store: ArtifactStore) -> None:
    @bus.on(subjects.ARTIFACTS_PUBLISH)
    async def publish_artifact(command: PublishArtifact) -> ProgramArtifact:
        return await store.publish(command)

    @bus.on(subjects.ARTIFACTS_ACTIVATE)
    async def activate_artifact(command: ActivateArtifact) -> ProgramArtifact:
        return await store.activate(command)

    @bus.on(subjects.ARTIFACTS_ACTIVATIONS)
    async def list_activations(query: ListActivations) -> ActivationPage:
        return await store.list_activations(query)

    @bus.on(subjects.ARTIFACTS_LIST)
    async def list_artifacts(query: ListArtifacts) -> ArtifactPage:
        return await store.list_artifacts(query)

    @bus.on(subjects.ARTIFACTS_GET)
    async def get_artifact(query: GetArtifact) -> ProgramArtifact:
        return await store.get_artifact(query)

    @bus.on(subjects.ARTIFACTS_RESOLVE)
    async def resolve_program(query: ResolveProgram) -> ResolvedProgram:
        return await store.resolve(query)

    @bus.on(subjects.ARTIFACTS_RESOLVE_MANY)
    async def resolve_programs(query: ResolvePrograms) -> ResolvedPrograms:
        return await store.resolve_many(query)

    @bus.on(subjects.PROGRAMS_FETCH)
    async def fetch_program(query: FetchProgram) -> ProgramCode:
        return await store.fetch_program(query)


def _register_executions(bus: Bus, records: ExecutionRecords) -> None:
    @bus.on(subjects.EXECUTIONS_ACCEPT, concurrency=_ACCEPTORS)
    async def accept_execution(command: AcceptExecution) -> ExecutionRecord:
        return await records.accept(command)

    @bus.on(subjects.EXECUTIONS_GET)
    async def get_execution(query: GetExecution) -> ExecutionRecord:
        return await records.get(query)

    @bus.on(subjects.EXECUTIONS_LIST)
    async def list_executions(query: ListExecutions) -> ExecutionPage:
        return await records.list(query)

    @bus.on_durable(
        subjects.EXECUTION_COMPLETED,
        stream=subjects.EXECUTIONS_STREAM,
        name=RECORDS_CONSUMER,
        concurrency=_RECORDERS,
        deliveries=_RECORD_DELIVERIES,
    )
    async def keep_record(record: ExecutionRecord) -> None:
        await records.keep(record)


def follow_other_instances(bus: Bus, catalog: CachedCatalog) -> None:
    """Has this instance drop its copies of what another one changed."""

    @bus.on_every_instance(subjects.TASK_CREATED)
    async def task_created(event: TaskCreated) -> None:
        await catalog.hear_of(event.task_id, name=event.name)

    @bus.on_every_instance(subjects.TASK_UPDATED)
    async def task_updated(event: TaskUpdated) -> None:
        await catalog.hear_of(event.task_id)

    @bus.on_every_instance(subjects.TASK_FAILED)
    async def task_failed(event: TaskFailed) -> None:
        await catalog.hear_of(event.task_id)

    @bus.on_every_instance(subjects.TASK_ARCHIVED)
    async def task_archived(event: TaskArchived) -> None:
        await catalog.hear_of(event.task_id)

    @bus.on_every_instance(subjects.ARTIFACT_PUBLISHED)
    async def artifact_published(event: ArtifactPublished) -> None:
        await catalog.hear_of(event.task_id)

    @bus.on_every_instance(subjects.ARTIFACT_ACTIVATED)
    async def artifact_activated(event: ArtifactActivated) -> None:
        await catalog.hear_of(event.task_id)
