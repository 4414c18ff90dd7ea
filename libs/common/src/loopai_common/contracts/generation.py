"""Generation: the command on the bus, and the HTTP contract of a generator."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, JsonValue

from loopai_common.contracts.artifacts import Language, SynthesisStrategy
from loopai_common.contracts.base import Contract, GenerationId, TaskId, Timestamp, Version
from loopai_common.contracts.tasks import MAX_EXAMPLES, Example, JsonSchema, TaskReference

MAX_RESPONSE_BYTES = 2 * 1024 * 1024

Constraints = Annotated[str, Field(max_length=5000)]
"""What the program shall keep to, in the words of whoever asks for it."""


class GenerateProgram(Contract):
    """Command: make a new version for the task."""

    task_id: TaskId
    generation_id: GenerationId
    constraints: Constraints | None = None
    strategy: SynthesisStrategy = SynthesisStrategy.AUTO


class StartGeneration(Contract):
    """Command: add ``examples`` to the task and have a new version made; the answer says which generation that is.

    ``idempotency_key`` makes a retry safe: the same key with the same command answers with the generation that was
    started.
    """

    task: TaskReference
    constraints: Constraints | None = None
    strategy: SynthesisStrategy = SynthesisStrategy.AUTO
    examples: Annotated[tuple[Example, ...], Field(max_length=MAX_EXAMPLES)] = ()
    idempotency_key: Annotated[str, Field(min_length=1, max_length=255)] | None = None


class GenerationStarted(Contract):
    """The generation is under way and will not be lost."""

    task_id: TaskId
    generation_id: GenerationId


class GetGeneration(Contract):
    """Query: what became of a generation."""

    task_id: TaskId
    generation_id: GenerationId


class GenerationState(Contract):
    """``version`` is what the generation made; ``None`` when it failed or has not ``ended``."""

    ended: bool
    version: Version | None = None


class EntryPoint(StrEnum):
    """The functions that a program may be called by; ``classify`` is given the text alone where the input has one."""

    RUN = "run"
    CLASSIFY = "classify"
    MAIN = "main"


class SubmitProgram(Contract):
    """Command: check this program as a generated one is checked, and store it as the next version of the task.

    Answers with the version. Raises ``program_rejected`` with the failures when it does not load or is below the
    task's target. The same ``idempotency_key`` with the same code answers with the version that exists.
    """

    task: TaskReference
    code: str
    language: Language = Language.PYTHON
    entry_point: EntryPoint = EntryPoint.RUN
    synthesis_strategy: SynthesisStrategy = SynthesisStrategy.AUTO
    activate: bool = True
    idempotency_key: Annotated[str, Field(min_length=1, max_length=255)] | None = None


class TargetRuntime(StrEnum):
    """Where the program will run."""

    PYTHON = "python"


class FailingCase(Contract):
    """An example that the previous program got wrong. ``error`` says why there is no ``actual`` output."""

    input: JsonValue
    expected: JsonValue
    actual: JsonValue = None
    error: str | None = None


class PreviousProgram(Contract):
    """The program of the round before, and what was wrong with it."""

    code: str
    failures: tuple[FailingCase, ...] = ()


class GenerationRequest(Contract):
    """Body of ``POST {base_url}/generate``."""

    task_id: TaskId
    task_name: str
    description: str
    input_schema: JsonSchema
    output_schema: JsonSchema
    examples: tuple[Example, ...] = ()
    constraints: str | None = None
    target_runtime: TargetRuntime = TargetRuntime.PYTHON
    strategy: SynthesisStrategy = SynthesisStrategy.AUTO
    previous: PreviousProgram | None = None


class GeneratedComplexity(Contract):
    """The generator's own word on the program's complexity."""

    lines_of_code: int | None = None
    cyclomatic_complexity: int | None = None
    estimated_tokens: int | None = None


class GenerationResponse(Contract):
    """Answer of a generator. With ``success`` the program is in ``code``; without it ``error_message`` says why."""

    success: bool
    code: str | None = None
    language: Language = Language.PYTHON
    entry_point: str | None = None
    complexity: GeneratedComplexity | None = None
    synthesis_strategy: SynthesisStrategy | None = None
    llm_provider: str | None = None
    llm_model: str | None = None
    generation_cost: Annotated[float, Field(ge=0.0)] | None = None
    error_message: str | None = None
    metadata: dict[str, JsonValue] | None = None
    generated_at: Timestamp | None = None
