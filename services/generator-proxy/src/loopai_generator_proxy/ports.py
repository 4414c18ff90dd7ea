"""What the use cases need from outside."""

from typing import Protocol

from loopai_common.contracts.artifacts import ProgramArtifact, PublishArtifact
from loopai_common.contracts.base import GenerationId, TaskId, Version
from loopai_common.contracts.execution import CheckProgram, CheckReport
from loopai_common.contracts.generation import GenerateProgram, GenerationRequest
from loopai_common.contracts.tasks import FailTask, TaskSpecification
from loopai_generator_proxy.domain import BreakerState, Outcome, Program, StandIn


class Generator(Protocol):
    """Writes programs."""

    async def generate(self, request: GenerationRequest, generation_id: GenerationId) -> Program:
        """A program for the request.

        Raises :class:`~loopai_common.errors.GeneratorFailed` with a sentence for the author of the task, and its
        subclass ``GeneratorUnavailable`` when the generator was not there, however often it was tried.
        """
        ...


class ArtifactStore(Protocol):
    """Keeps tasks and programs. Every method raises a retryable error when the store does not answer."""

    async def task(self, task: str) -> TaskSpecification:
        """The task with this id or name, and its examples; raises :class:`~loopai_common.errors.TaskNotFound`."""
        ...

    async def artifact(self, task_id: TaskId, version: Version) -> ProgramArtifact:
        """A version with its code.

        Raises :class:`~loopai_common.errors.ArtifactNotFound` and :class:`~loopai_common.errors.ArtifactCorrupt`.
        """
        ...

    async def versions(self, task_id: TaskId) -> list[ProgramArtifact]:
        """The versions of a task without their code, oldest first."""
        ...

    async def version_made(self, command: GenerateProgram) -> Version | None:
        """The version that came of the command already, ``None`` when none did."""
        ...

    async def publish(self, command: PublishArtifact) -> ProgramArtifact:
        """Stores the program; the version that exists when the generation was published before."""
        ...

    async def fail(self, command: FailTask) -> None:
        """Ends the generation without a program."""
        ...


class ProgramChecker(Protocol):
    """Runs programs on examples in the sandbox."""

    async def check(self, program: CheckProgram) -> CheckReport:
        """Raises a retryable error when no executor answers."""
        ...


class Observer(Protocol):
    """Is told what happens, to count it."""

    def started(self) -> None:
        """A generation began."""

    def fell_back(self, stand_in: StandIn) -> None:
        """The generator is unavailable, and this is what there is instead."""

    def finished(self, outcome: Outcome, seconds: float) -> None:
        """A generation ended; called once for each that began."""

    def checked(self, rounds: int) -> None:
        """A program was found after so many rounds."""

    def published(self, accuracy: float) -> None:
        """A program with this accuracy on its examples was stored."""


class CallObserver(Protocol):
    """Is told how calls to one generator go, to count them."""

    def attempted(self, outcome: str, seconds: float) -> None:
        """An attempt ended."""

    def retried(self) -> None:
        """An attempt repeats one that failed."""

    def breaker_changed(self, state: BreakerState) -> None:
        """The circuit breaker went into ``state``."""
