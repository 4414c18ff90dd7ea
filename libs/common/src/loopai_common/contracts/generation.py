"""Generation: the command on the bus, and the HTTP contract of a generator."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, JsonValue

from loopai_common.contracts.artifacts import Language, SynthesisStrategy
from loopai_common.contracts.base import Contract, GenerationId, TaskId, Timestamp
from loopai_common.contracts.tasks import Example, JsonSchema

MAX_RESPONSE_BYTES = 2 * 1024 * 1024


class GenerateProgram(Contract):
    """Command: make a new version for the task."""

    task_id: TaskId
    generation_id: GenerationId
    constraints: Annotated[str, Field(max_length=5000)] | None = None
    strategy: SynthesisStrategy = SynthesisStrategy.AUTO


class TargetRuntime(StrEnum):
    """Where the program will run."""

    PYTHON = "python"


class FailingCase(Contract):
    """An example that the previous program got wrong."""

    input: JsonValue
    expected: JsonValue
    actual: JsonValue = None


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
