"""The generator-proxy's ports in memory, and valid tasks."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from loopai_common.contracts.artifacts import ArtifactStatus, ProgramArtifact, PublishArtifact
from loopai_common.contracts.base import ArtifactId, GenerationId, TaskId, Version
from loopai_common.contracts.execution import CheckProgram, CheckReport
from loopai_common.contracts.generation import GenerateProgram, GenerationRequest
from loopai_common.contracts.tasks import Example, FailTask, TaskSpecification
from loopai_common.errors import ArtifactCorrupt, LoopaiError
from loopai_common.identifiers import new_uuid
from loopai_generator_proxy.domain import Outcome, Program, StandIn, digest_of
from tests.support.builders import LABEL_SCHEMA, TEXT_SCHEMA


def examples(count: int) -> tuple[Example, ...]:
    """Different texts, every fifth of them spam."""
    return tuple(Example(input={"text": f"message {n}"}, output="spam" if n % 5 == 0 else "ham") for n in range(count))


def task(count: int = 0, **changes: Any) -> TaskSpecification:
    """A task that waits for its first program, with so many examples."""
    now = datetime.now(UTC)
    fields: dict[str, Any] = {
        "id": new_uuid(),
        "name": "spam-detection",
        "description": "Decide whether a text message is spam or ham.",
        "input_schema": TEXT_SCHEMA,
        "output_schema": LABEL_SCHEMA,
        "total_examples": count,
        "examples": examples(count),
        "accuracy_target": 0.9,
        "latency_target_ms": 10,
        "sampling_rate": 0.1,
        "status": "generating",
        "active_version": None,
        "total_versions": 0,
        "created_at": now,
        "updated_at": now,
    }
    return TaskSpecification.model_validate({**fields, **changes})


def command(of: TaskSpecification, **changes: Any) -> GenerateProgram:
    """The command to make a version for the task."""
    return GenerateProgram.model_validate({"task_id": of.id, "generation_id": new_uuid(), **changes})


def artifact(of: PublishArtifact, version: int) -> ProgramArtifact:
    """What the store answers to a publish."""
    return ProgramArtifact.model_validate(
        {
            **of.model_dump(),
            "id": ArtifactId(new_uuid()),
            "version": version,
            "digest": digest_of(of.code),
            "size_bytes": len(of.code.encode()),
            "status": ArtifactStatus.ACTIVE if of.activate else ArtifactStatus.DRAFT,
            "deployment_percentage": 100.0 if of.activate else 0.0,
            "created_at": datetime.now(UTC),
            "deployed_at": None,
        }
    )


class MemoryStore:
    """Holds one task, and what was published or failed. ``failures`` are raised first, one a call.

    ``active`` is the code of the active version; without any it is corrupt.
    """

    def __init__(self, held: TaskSpecification | None, failures: list[LoopaiError] | None = None) -> None:
        self._held = held
        self._failures = failures or []
        self.published: list[PublishArtifact] = []
        self.failed: list[FailTask] = []
        self.missing: LoopaiError | None = None
        self.active: str | None = None
        self.versions_made: list[ProgramArtifact] = []

    async def artifact(self, task_id: TaskId, version: Version) -> ProgramArtifact:
        if self.active is None:
            raise ArtifactCorrupt("the bytes do not match")
        stored = PublishArtifact(task_id=task_id, generation_id=GenerationId(new_uuid()), code=self.active)
        return artifact(stored, version)

    async def versions(self, task_id: TaskId) -> list[ProgramArtifact]:
        return self.versions_made

    async def version_made(self, command: GenerateProgram) -> Version | None:
        made = [
            number for number, known in enumerate(self.published, 1) if known.generation_id == command.generation_id
        ]
        return Version(made[0]) if made else None

    async def task(self, task: str) -> TaskSpecification:
        self._raise_next()
        if self._held is None:
            assert self.missing is not None
            raise self.missing
        return self._held

    async def publish(self, command: PublishArtifact) -> ProgramArtifact:
        self._raise_next()
        for number, known in enumerate(self.published, 1):
            if known.generation_id == command.generation_id:
                return artifact(known, number)
        self.published.append(command)
        return artifact(command, len(self.published))

    async def fail(self, command: FailTask) -> None:
        self._raise_next()
        self.failed.append(command)

    def _raise_next(self) -> None:
        if self._failures:
            raise self._failures.pop(0)


class ScriptedGenerator:
    """Gives its programs one after the other; an error in the script is raised."""

    def __init__(self, *script: Program | LoopaiError) -> None:
        self._script = list(script)
        self.asked: list[GenerationRequest] = []

    async def generate(self, request: GenerationRequest, generation_id: GenerationId) -> Program:
        self.asked.append(request)
        answer = self._script[min(len(self.asked), len(self._script)) - 1]
        if isinstance(answer, LoopaiError):
            raise answer
        return answer


class ScriptedChecker:
    """Reports what ``judge`` says of a check; an error is raised."""

    def __init__(self, judge: Callable[[CheckProgram], CheckReport | LoopaiError]) -> None:
        self._judge = judge
        self.asked: list[CheckProgram] = []

    async def check(self, program: CheckProgram) -> CheckReport:
        self.asked.append(program)
        report = self._judge(program)
        if isinstance(report, LoopaiError):
            raise report
        return report


class CountingObserver:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.outcomes: list[Outcome] = []
        self.rounds: list[int] = []
        self.accuracies: list[float] = []
        self.stand_ins: list[StandIn] = []

    def started(self) -> None:
        self.in_flight += 1

    def fell_back(self, stand_in: StandIn) -> None:
        self.stand_ins.append(stand_in)

    def finished(self, outcome: Outcome, seconds: float) -> None:
        self.in_flight -= 1
        self.outcomes.append(outcome)

    def checked(self, rounds: int) -> None:
        self.rounds.append(rounds)

    def published(self, accuracy: float) -> None:
        self.accuracies.append(accuracy)
