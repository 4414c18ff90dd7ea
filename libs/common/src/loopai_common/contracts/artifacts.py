"""Artifacts: the immutable, numbered programs of a task, and the pointer to the one that is active."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, JsonValue, Strict

from loopai_common.contracts.base import (
    ArtifactId,
    Contract,
    Digest,
    DigestText,
    GenerationId,
    TaskId,
    Timestamp,
    Version,
    VersionNumber,
)
from loopai_common.contracts.failure import Failure
from loopai_common.contracts.tasks import Isolation, JsonSchema, TaskReference

MAX_CODE_BYTES = 1024 * 1024
MAX_REPORTED_FAILURES = 20
MAX_RESOLVED = 32

Percentage = Annotated[float, Strict(), Field(ge=0.0, le=100.0, allow_inf_nan=False)]
"""A share of the executions that name no version."""


class ArtifactStatus(StrEnum):
    """Where a version is in its life."""

    DRAFT = "draft"
    VALIDATED = "validated"
    ACTIVE = "active"
    DEPRECATED = "deprecated"
    FAILED = "failed"


class SynthesisStrategy(StrEnum):
    """How a program was, or shall be, made."""

    RULE = "rule"
    ML = "ml"
    HYBRID = "hybrid"
    DSL = "dsl"
    AUTO = "auto"


class Language(StrEnum):
    """The languages that programs are written in."""

    PYTHON = "python"


class Fallback(StrEnum):
    """What made a program while the generator was unavailable: the learner that is built in."""

    LEARNER = "learner"


class ComplexityMetrics(Contract):
    """How complicated the program is. ``cyclomatic_complexity`` is McCabe's, summed over the program's functions."""

    cyclomatic_complexity: int | None = None
    lines_of_code: int | None = None
    estimated_latency_ms: float | None = None


class ExampleFailure(Contract):
    """An example that the program got wrong. ``error`` is set when it gave no output at all.

    ``similarity`` (0–1) is how near ``actual`` came, where the task's ``comparison`` is not ``exact``.
    """

    input: JsonValue
    expected: JsonValue
    actual: JsonValue = None
    error: str | None = None
    similarity: float | None = None


class Score(Contract):
    """How many examples of a part were right; ``accuracy`` is ``None`` for an empty part."""

    passed: int = 0
    total: int = 0
    accuracy: float | None = None


class ValidationReport(Contract):
    """How the program did on the task's examples. ``shown`` were given to the generator, ``held_back`` were not."""

    passed: int
    total: int
    accuracy: float | None
    latency_p50_ms: float | None
    latency_p99_ms: float | None
    failures: Annotated[tuple[ExampleFailure, ...], Field(max_length=MAX_REPORTED_FAILURES)] = ()
    shown: Score = Score()
    held_back: Score = Score()


class ProgramArtifact(Contract):
    """One stored version of a program. ``code`` is ``None`` where it was not asked for."""

    id: ArtifactId
    task_id: TaskId
    version: Version
    language: Language
    entry_point: str
    code: str | None = None
    digest: Digest
    size_bytes: int
    synthesis_strategy: SynthesisStrategy
    confidence_score: float
    complexity_metrics: ComplexityMetrics
    llm_provider: str | None
    llm_model: str | None
    generation_cost: float
    generation_time_sec: float
    validation: ValidationReport | None
    status: ArtifactStatus
    deployment_percentage: float
    created_at: Timestamp
    deployed_at: Timestamp | None
    parent_version: Version | None
    specification_digest: Digest | None = None
    """The same for versions that were made for the same description, schemas, examples, comparison and target."""
    fallback: Fallback | None = None
    """What stood in for the generator, if anything."""


class PublishArtifact(Contract):
    """Command: store this program as the next version of the task, and make it the active one when ``activate`` is set.

    Idempotent by ``generation_id``: a second publish of the same generation answers with the version that exists.
    """

    task_id: TaskId
    generation_id: GenerationId
    code: str
    language: Language = Language.PYTHON
    entry_point: str = "run"
    synthesis_strategy: SynthesisStrategy = SynthesisStrategy.AUTO
    confidence_score: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    complexity_metrics: ComplexityMetrics = ComplexityMetrics()
    llm_provider: str | None = None
    llm_model: str | None = None
    generation_cost: Annotated[float, Field(ge=0.0)] = 0.0
    generation_time_sec: Annotated[float, Field(ge=0.0)] = 0.0
    validation: ValidationReport | None = None
    parent_version: VersionNumber | None = None
    activate: bool = True
    only_over_parent: bool = False
    """With ``activate``: only while ``parent_version`` is still the active one (``None``: none is)."""
    failure_reason: Annotated[str, Field(max_length=2000)] | None = None
    """With ``activate=False``: why it is not, which is also why a task without an active version ends ``failed``."""
    specification_digest: DigestText | None = None
    fallback: Fallback | None = None


class ActivateArtifact(Contract):
    """Command: move the pointer to ``version``, provided that it still points to ``expected_version``.

    ``expected_version=None`` means that no version is active yet. Raises ``version_conflict`` when the pointer moved;
    with ``unconditional`` it may be anywhere, and ``expected_version`` is not looked at. With a ``percentage`` below
    100 the pointer stays, and ``version`` gets that share of the executions (0: none, its rollout ends).
    """

    task: TaskReference
    version: VersionNumber
    expected_version: VersionNumber | None
    unconditional: bool = False
    percentage: Percentage = 100.0
    reason: Annotated[str, Field(max_length=2000)] = ""
    actor: Annotated[str, Field(max_length=200)] = "system"


class ListActivations(Contract):
    """Query: what was done to the pointer of a task, newest first, from before ``cursor`` on."""

    task: TaskReference
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: str | None = None


class Activation(Contract):
    """``to_version`` was given ``percentage`` of the executions: 100 moved the pointer from ``from_version`` to it."""

    at: Timestamp
    actor: str
    from_version: Version | None
    to_version: Version
    percentage: float
    reason: str


class ActivationPage(Contract):
    """A page of activations; ``next_cursor`` is ``None`` on the last one."""

    items: tuple[Activation, ...]
    next_cursor: str | None = None


class ListArtifacts(Contract):
    """Query: the versions of a task, oldest first, from after ``cursor`` on."""

    task: TaskReference
    include_code: bool = False
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: str | None = None


class ArtifactPage(Contract):
    """A page of versions; ``next_cursor`` is ``None`` on the last one."""

    items: tuple[ProgramArtifact, ...]
    next_cursor: str | None = None


class GetArtifact(Contract):
    """Query: one version of a task; ``version=None`` is the active one."""

    task: TaskReference
    version: VersionNumber | None = None
    include_code: bool = False


class ResolveProgram(Contract):
    """Query: what an executor must know to run ``version`` (``None``: the active one) of a task."""

    task: TaskReference
    version: VersionNumber | None = None


class ResolvedRollout(Contract):
    """The program that runs instead of the active one for ``percentage`` (0–100) of the executions."""

    artifact_id: ArtifactId
    version: Version
    digest: Digest
    entry_point: str
    percentage: float


class ResolvedProgram(Contract):
    """A program by its digest, with the schemas that its inputs and outputs satisfy.

    ``rollout`` is set only where no version was asked for.
    """

    task_id: TaskId
    task_name: str
    artifact_id: ArtifactId
    version: Version
    digest: Digest
    entry_point: str
    input_schema: JsonSchema
    output_schema: JsonSchema
    sampling_rate: float
    isolation: Isolation = Isolation.CALL
    rollout: ResolvedRollout | None = None


class ResolvePrograms(Contract):
    """Query: several :class:`ResolveProgram` in one message."""

    queries: Annotated[tuple[ResolveProgram, ...], Field(min_length=1, max_length=MAX_RESOLVED)]


class ResolvedPrograms(Contract):
    """For each query, in order, the program or why there is none; only as many as fit one message."""

    outcomes: tuple[ResolvedProgram | Failure, ...]


class FetchProgram(Contract):
    """Query: the code with this digest, as it was stored for the task."""

    task_id: TaskId
    digest: DigestText


class ProgramCode(Contract):
    """The source of a program."""

    digest: Digest
    code: str


class ArtifactPublished(Contract):
    """Event: a version was stored."""

    task_id: TaskId
    task_name: str
    version: Version
    digest: Digest
    status: ArtifactStatus
    generation_id: GenerationId


class ArtifactActivated(Contract):
    """Event: ``version`` was given ``percentage`` of a task's executions; with 100 the pointer is on it."""

    task_id: TaskId
    task_name: str
    version: Version
    previous_version: Version | None
    digest: Digest
    percentage: float = 100.0
