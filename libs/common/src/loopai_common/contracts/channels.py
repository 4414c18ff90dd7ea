"""What goes over the bus: for each subject the contracts of its messages. The published documents are made from it.

A subject that is added to :mod:`loopai_common.contracts.subjects` gets its line here.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgspec

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
from loopai_common.contracts.base import Contract
from loopai_common.contracts.execution import (
    AcceptExecution,
    BatchResult,
    CheckProgram,
    CheckReport,
    ExecuteBatch,
    ExecuteCommand,
    Execution,
    ExecutionPage,
    ExecutionRecord,
    ExecutionResult,
    GetExecution,
    ListExecutions,
)
from loopai_common.contracts.frames import Frame, FramePart
from loopai_common.contracts.generation import (
    GenerateProgram,
    GenerationStarted,
    GenerationState,
    GetGeneration,
    StartGeneration,
    SubmitProgram,
)
from loopai_common.contracts.health import Ping, Pong
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

Message = type[Contract] | type[msgspec.Struct]


class Kind(StrEnum):
    """What a message is to who receives it."""

    REQUEST = "request"
    COMMAND = "command"
    EVENT = "event"


@dataclass(frozen=True, slots=True)
class Channel:
    """A subject. ``address`` may have ``{parameters}``; ``replies`` are what a request is answered with, beside a
    :class:`~loopai_common.contracts.failure.Failure`. More than one message: any of them.
    """

    address: str
    kind: Kind
    service: str
    """Who answers, handles, or tells."""
    messages: tuple[Message, ...]
    replies: tuple[Message, ...] = ()


def _store(subject: str, message: Message, reply: Message) -> Channel:
    return Channel(subject, Kind.REQUEST, "artifact-store", (message,), (reply,))


def _event(subject: str, message: Message) -> Channel:
    return Channel(subject, Kind.EVENT, "artifact-store", (message,))


CHANNELS: Final = (
    _store(subjects.TASKS_CREATE, CreateTask, TaskSpecification),
    _store(subjects.TASKS_GET, GetTask, TaskSpecification),
    _store(subjects.TASKS_LIST, ListTasks, TaskPage),
    _store(subjects.TASKS_FAIL, FailTask, TaskSummary),
    _store(subjects.TASKS_UPDATE, UpdateTask, TaskSpecification),
    _store(subjects.TASKS_ARCHIVE, ArchiveTask, TaskSummary),
    _store(subjects.TASKS_GENERATE, StartGeneration, GenerationStarted),
    _store(subjects.GENERATIONS_GET, GetGeneration, GenerationState),
    _store(subjects.ARTIFACTS_PUBLISH, PublishArtifact, ProgramArtifact),
    _store(subjects.ARTIFACTS_ACTIVATE, ActivateArtifact, ProgramArtifact),
    _store(subjects.ARTIFACTS_LIST, ListArtifacts, ArtifactPage),
    _store(subjects.ARTIFACTS_GET, GetArtifact, ProgramArtifact),
    _store(subjects.ARTIFACTS_ACTIVATIONS, ListActivations, ActivationPage),
    _store(subjects.ARTIFACTS_RESOLVE, ResolveProgram, ResolvedProgram),
    _store(subjects.ARTIFACTS_RESOLVE_MANY, ResolvePrograms, ResolvedPrograms),
    _store(subjects.PROGRAMS_FETCH, FetchProgram, ProgramCode),
    _store(subjects.EXECUTIONS_ACCEPT, AcceptExecution, ExecutionRecord),
    _store(subjects.EXECUTIONS_GET, GetExecution, ExecutionRecord),
    _store(subjects.EXECUTIONS_LIST, ListExecutions, ExecutionPage),
    Channel(subjects.PROGRAMS_SUBMIT, Kind.REQUEST, "generator-proxy", (SubmitProgram,), (ProgramArtifact,)),
    Channel(subjects.PROGRAMS_CHECK, Kind.REQUEST, "executor", (CheckProgram,), (CheckReport,)),
    Channel(
        f"{subjects.EXECUTE}.{{task}}.{{version}}",
        Kind.REQUEST,
        "executor",
        (Execution, ExecuteBatch),
        (ExecutionResult, BatchResult),
    ),
    Channel(subjects.FRAMES, Kind.REQUEST, "executor", (Frame,), (FramePart,)),
    Channel(f"{subjects.PING}.{{service}}", Kind.REQUEST, "every service", (Ping,), (Pong,)),
    Channel(subjects.TASK_CREATE_COMMAND, Kind.COMMAND, "artifact-store", (TaskDefinition,)),
    Channel(subjects.TASK_GENERATE_COMMAND, Kind.COMMAND, "generator-proxy", (GenerateProgram,)),
    Channel(subjects.EXECUTE_COMMAND, Kind.COMMAND, "executor", (ExecuteCommand,)),
    _event(subjects.TASK_CREATED, TaskCreated),
    _event(subjects.TASK_UPDATED, TaskUpdated),
    _event(subjects.TASK_FAILED, TaskFailed),
    _event(subjects.TASK_ARCHIVED, TaskArchived),
    _event(subjects.ARTIFACT_PUBLISHED, ArtifactPublished),
    _event(subjects.ARTIFACT_ACTIVATED, ArtifactActivated),
    _event(subjects.ARTIFACT_ROLLED_BACK, ArtifactActivated),
    Channel(subjects.EXECUTION_COMPLETED, Kind.EVENT, "executor", (ExecutionRecord,)),
)

PARAMETERS: Final = {
    "task": "A task's id, or its name where that has no dots.",
    "version": f"A version's number, or `{subjects.ACTIVE}`.",
    "service": "The name of a service.",
}
"""What the parameters of addresses stand for."""
