"""The rules of a generation: what is held back, which round is best, what is tried again, and what is published."""

import ast
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import uuid5

from mccabe import PathGraphingAstVisitor
from pydantic import JsonValue

from loopai_common.contracts.artifacts import (
    MAX_REPORTED_FAILURES,
    ArtifactStatus,
    ComplexityMetrics,
    ExampleFailure,
    Fallback,
    ProgramArtifact,
    PublishArtifact,
    Score,
    SynthesisStrategy,
    ValidationReport,
)
from loopai_common.contracts.base import Digest, GenerationId, Version
from loopai_common.contracts.execution import CheckExample, CheckProgram, CheckReport
from loopai_common.contracts.generation import (
    FailingCase,
    GenerateProgram,
    GenerationRequest,
    PreviousProgram,
    SubmitProgram,
)
from loopai_common.contracts.subjects import MAX_PAYLOAD_BYTES
from loopai_common.contracts.tasks import Example, TaskSpecification
from loopai_common.errors import ProgramRejected, Violation
from loopai_common.identifiers import new_uuid

SPLIT_FROM = 10
"""With fewer examples all are shown, and the confidence is the generator's own word."""

_HELD_BACK_EVERY = 5
_MAX_CHECK_BYTES = MAX_PAYLOAD_BYTES - 256 * 1024
"""Room for the headers and the fields around the examples."""

_MAX_REASON = 2000
_SPECIFIED_BY = {
    "description",
    "input_schema",
    "output_schema",
    "accuracy_target",
    "comparison",
    "comparison_threshold",
}
_PASSED = {ArtifactStatus.VALIDATED, ArtifactStatus.ACTIVE, ArtifactStatus.DEPRECATED}
_MAX_SHOWN = 200
"""Characters of an output that an error message shows."""


class Outcome(StrEnum):
    """How a generation ended."""

    ACTIVATED = "activated"
    DRAFT = "draft"
    KEPT = "kept"
    FAILED = "failed"
    SKIPPED = "skipped"
    INTERRUPTED = "interrupted"


class StandIn(StrEnum):
    """What stands in for a generator that is unavailable."""

    EARLIER_VERSION = "earlier_version"
    LEARNER = "learner"


class BreakerState(StrEnum):
    """Whether calls to a generator are let through: all, none, or the one that finds out."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class GeneratorRole(StrEnum):
    """Which generator is asked: the one of the settings, or the one that stands in while that one is away."""

    PRIMARY = "primary"
    FALLBACK = "fallback"


@dataclass(frozen=True, slots=True)
class Program:
    """What a generator wrote. ``own_confidence`` (0–1) is its own word; ``cost`` is in USD."""

    code: str
    entry_point: str = "run"
    strategy: SynthesisStrategy = SynthesisStrategy.AUTO
    llm_provider: str | None = None
    llm_model: str | None = None
    cost: float = 0.0
    own_confidence: float = 0.0


@dataclass(frozen=True, slots=True)
class Round:
    """A program and what its check found."""

    program: Program
    report: CheckReport

    @property
    def total(self) -> int:
        """How many examples it was run on."""
        return self.report.shown.total + self.report.held_back.total

    @property
    def passed(self) -> int:
        """How many of them were right."""
        return self.report.shown.passed + self.report.held_back.passed

    @property
    def accuracy(self) -> float | None:
        """Over all examples; ``None`` when there were none."""
        return self.passed / self.total if self.total else None

    def is_worse_than(self, other: "Round") -> bool:
        """Whether it is right on fewer of the same examples."""
        mine, theirs = (self.report.loaded, self.accuracy or 0.0), (other.report.loaded, other.accuracy or 0.0)
        return mine < theirs

    def reaches(self, target: float) -> bool:
        """Whether the program may run: it loads, and is right often enough where that can be told."""
        return self.report.loaded and (self.accuracy is None or self.accuracy >= target)

    @property
    def rank(self) -> tuple[bool, float, float]:
        """Higher is better: one that loads, then the accuracy, then the accuracy on what was held back."""
        return self.report.loaded, self.accuracy or 0.0, self.report.held_back.accuracy or 0.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential back-off with full jitter: the n-th pause is drawn from 0 to ``base_seconds * 2 ** n``."""

    retries: int = 3
    base_seconds: float = 1.0

    def pause(self, failures: int, retry_after: float | None, draw: Callable[[], float]) -> float | None:
        """Seconds to wait after so many failures (from 1 on), or ``None`` to give up. ``draw`` gives 0 ≤ x < 1."""
        if failures > self.retries:
            return None
        return max(draw() * self.base_seconds * 2.0 ** (failures - 1), retry_after or 0.0)


def held_back(examples: Sequence[Example]) -> list[bool]:
    """Which examples the generator is not shown: a fifth of ten or more, none of fewer.

    Stratified by output, so that every label is on both sides where it can be; equal inputs stay on one side. Chosen by
    a hash of the input, so that the same examples in any order are always split the same way.
    """
    if len(examples) < SPLIT_FROM:
        return [False] * len(examples)
    outputs: dict[str, str] = {}
    for example in sorted(examples, key=lambda example: _text(example.output)):
        outputs.setdefault(_text(example.input), _text(example.output))
    sizes = Counter(outputs.values())
    # Outputs that occur once are one stratum: held back one by one, a rare label would never be shown.
    order = sorted(outputs, key=lambda text: (outputs[text] if sizes[outputs[text]] > 1 else "", _hash(text)))
    hidden = set(order[_HELD_BACK_EVERY - 1 :: _HELD_BACK_EVERY])
    return [_text(example.input) in hidden for example in examples]


def request_for(
    task: TaskSpecification, command: GenerateProgram, shown: Sequence[Example], last: Round | None
) -> GenerationRequest:
    """What the generator is asked; with the program of the round before, or else the active one, and the shown
    examples it got wrong.
    """
    constraints = command.constraints
    if last is not None and not last.report.loaded:
        problem = f"The previous program did not load: {last.report.problem}"
        constraints = f"{constraints}\n{problem}" if constraints else problem
    return GenerationRequest(
        task_id=task.id,
        task_name=task.name,
        description=task.description,
        input_schema=task.input_schema,
        output_schema=task.output_schema,
        examples=tuple(shown),
        constraints=constraints,
        strategy=command.strategy,
        previous=_previous(last, shown) if last is not None else None,
    )


def check_for(task: TaskSpecification, program: Program, hidden: Sequence[bool]) -> CheckProgram:
    """The check of a program: all examples, the shown ones first, or as many as one message carries."""
    examples = [
        CheckExample(input=example.input, output=example.output, held_back=own)
        for example, own in zip(task.examples, hidden, strict=True)
    ]
    examples.sort(key=lambda example: example.held_back)
    check = CheckProgram(
        code=program.code,
        entry_point=program.entry_point,
        input_schema=task.input_schema,
        output_schema=task.output_schema,
        comparison=task.comparison,
        comparison_threshold=task.comparison_threshold,
    )
    room = _MAX_CHECK_BYTES - len(check.model_dump_json())
    return check.model_copy(update={"examples": tuple(sample(examples, room))})


def sample(examples: Sequence[CheckExample], max_bytes: int) -> list[CheckExample]:
    """All examples where their JSON fits into ``max_bytes``, else those first in the order of their hashes that do."""
    sizes = [len(example.model_dump_json().encode()) + 1 for example in examples]
    if sum(sizes) <= max_bytes:
        return list(examples)
    chosen = set()
    for position in sorted(range(len(examples)), key=lambda position: _hash(_text(examples[position].input))):
        max_bytes -= sizes[position]
        if max_bytes < 0:
            break
        chosen.add(position)
    return [example for position, example in enumerate(examples) if position in chosen]


def specification_digest(task: TaskSpecification) -> Digest:
    """The same for tasks that ask for the same program. The name does not matter, nor the order of the examples, nor
    how the program will be run.
    """
    examples = sorted(_pair(example) for example in task.examples)
    return digest_of(json.dumps([task.model_dump(mode="json", include=_SPECIFIED_BY), examples], sort_keys=True))


def earlier_version(task: TaskSpecification, versions: Sequence[ProgramArtifact]) -> Version | None:
    """The version that stands in for one that cannot be made now; ``None`` when none was made for the specification as
    it is.

    It is the active one, from which nothing is taken away; where none is active, the newest that passed its check.
    ``versions`` are those of the task, oldest first.
    """
    digest = specification_digest(task)
    for artifact in reversed(versions):
        fits = artifact.specification_digest == digest and artifact.status in _PASSED
        if fits and task.active_version in (None, artifact.version):
            return artifact.version
    return None


def publication(
    task: TaskSpecification,
    command: GenerateProgram,
    best: Round,
    cost: float,
    seconds: float,
    incumbent: Round | None = None,
    fallback: Fallback | None = None,
) -> PublishArtifact:
    """The best round as a version: active when it reaches the target and is not worse than the active one (the
    ``incumbent``), else with the reason why it is not.

    ``cost`` (USD) and ``seconds`` are those of all rounds. Should the pointer move meanwhile, it stays where it is.
    """
    objection = None
    if not best.reaches(task.accuracy_target):
        objection = shortfall(best, task.accuracy_target, len(task.examples))
    elif incumbent is not None and best.is_worse_than(incumbent):
        objection = as_reason(
            f"the best program is right on {_share(best.passed, best.total)} of the examples and the active version "
            f"{task.active_version} on {_share(incumbent.passed, incumbent.total)}, so that one stays active; "
            "give more examples, or activate this version by hand"
        )
    return _version(task, command.generation_id, best).model_copy(
        update={
            "llm_provider": best.program.llm_provider,
            "llm_model": best.program.llm_model,
            "generation_cost": cost,
            "generation_time_sec": seconds,
            "activate": objection is None,
            "only_over_parent": True,
            "failure_reason": objection,
            "fallback": fallback,
        }
    )


def submission(task: TaskSpecification, command: SubmitProgram, checked: Round) -> PublishArtifact:
    """A program that somebody wrote and that passed its check, as a version."""
    key = command.idempotency_key
    generation_id = GenerationId(new_uuid() if key is None else uuid5(task.id, key))
    return _version(task, generation_id, checked).model_copy(update={"activate": command.activate})


def rejection(task: TaskSpecification, checked: Round) -> ProgramRejected | None:
    """Why the program may not become a version: it does not load, or what it got wrong; ``None`` when it may."""
    if not checked.report.loaded:
        problem = checked.report.problem or "it does not load"
        detail = Violation("code", problem, "load_failed")
        return ProgramRejected(f"the program cannot be used: {problem}", details=[detail])
    if checked.reaches(task.accuracy_target):
        return None
    positions = {_pair(example): index for index, example in reversed(list(enumerate(task.examples)))}
    details = [
        Violation(f"examples/{positions.get(_pair(failure), '')}", *_wrong(failure))
        for failure in checked.report.failures
    ]
    result = _result(checked, task.accuracy_target)
    return ProgramRejected(f"the program is {result}; correct it, or lower accuracy_target", details=details)


def _wrong(failure: ExampleFailure) -> tuple[str, str]:
    """What an example shall give and what it gave, and the name of the rule."""
    expected = f"must give {_cut(_text(failure.expected))}"
    if failure.error is not None:
        return f"{expected}, failed with {_cut(failure.error)}", "no_output"
    return f"{expected}, gave {_cut(_text(failure.actual))}", "wrong_output"


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def _version(task: TaskSpecification, generation_id: GenerationId, best: Round) -> PublishArtifact:
    program = best.program
    return PublishArtifact(
        task_id=task.id,
        generation_id=generation_id,
        code=program.code,
        entry_point=program.entry_point,
        synthesis_strategy=program.strategy,
        confidence_score=confidence(best),
        complexity_metrics=complexity(program.code, best.report.latency_p50_ms),
        validation=validation(best),
        parent_version=task.active_version,
        specification_digest=specification_digest(task),
    )


def confidence(best: Round) -> float:
    """The accuracy on what was held back; the generator's own word when nothing was."""
    measured = best.report.held_back.accuracy
    return best.program.own_confidence if measured is None else measured


def validation(best: Round) -> ValidationReport | None:
    """The report that is stored with the version; ``None`` when there was no example to run."""
    if best.total == 0:
        return None
    return ValidationReport(
        passed=best.passed,
        total=best.total,
        accuracy=best.accuracy,
        latency_p50_ms=best.report.latency_p50_ms,
        latency_p99_ms=best.report.latency_p99_ms,
        failures=best.report.failures[:MAX_REPORTED_FAILURES],
        shown=best.report.shown,
        held_back=best.report.held_back,
    )


def shortfall(best: Round, target: float, examples: int) -> str:
    """What a generated program lacks, and what to do."""
    sampled = f" (a sample of {best.total} of {examples} examples was checked)" if best.total < examples else ""
    return as_reason(
        f"the best program is {_result(best, target)}{sampled}; "
        "give more or cleaner examples, lower accuracy_target, or activate this version by hand"
    )


def as_reason(text: str) -> str:
    """``text`` cut to what a task's reason may hold, and never empty."""
    return (text.strip() or "no reason was given")[:_MAX_REASON]


def complexity(code: str, latency_ms: float | None) -> ComplexityMetrics:
    """Lines that are not blank, and McCabe's complexity over all functions (``None`` when the code does not parse)."""
    lines = sum(1 for line in code.splitlines() if line.strip())
    return ComplexityMetrics(
        cyclomatic_complexity=_cyclomatic(code), lines_of_code=lines, estimated_latency_ms=latency_ms
    )


def _cyclomatic(code: str) -> int | None:
    try:
        tree = ast.parse(code)
        visitor = PathGraphingAstVisitor()
        for function in _functions(tree):
            visitor.preorder(function, visitor)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return sum(int(graph.complexity()) for graph in visitor.graphs.values())


def _functions(tree: ast.Module) -> Iterator[ast.stmt]:
    """The module's own functions and classes: tables of constants need no walk."""
    for statement in tree.body:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield statement


def _previous(last: Round, shown: Sequence[Example]) -> PreviousProgram:
    known = {(_text(example.input), _text(example.output)) for example in shown}
    return PreviousProgram(
        code=last.program.code,
        failures=tuple(
            FailingCase(input=failure.input, expected=failure.expected, actual=failure.actual, error=failure.error)
            for failure in last.report.failures
            if (_text(failure.input), _text(failure.expected)) in known
        ),
    )


def _result(checked: Round, target: float) -> str:
    parts = f"{_part('shown', checked.report.shown)}, {_part('held back', checked.report.held_back)}"
    return f"right on {_share(checked.passed, checked.total)} of the examples and the target is {target:.1%}: {parts}"


def _part(name: str, score: Score) -> str:
    return f"{name} {_share(score.passed, score.total)}" if score.total else f"{name} none"


def _share(passed: int, total: int) -> str:
    return f"{passed}/{total} ({passed / total:.1%})" if total else "0/0"


def _pair(case: Example | ExampleFailure) -> tuple[str, str]:
    return _text(case.input), _text(case.output if isinstance(case, Example) else case.expected)


def _text(value: JsonValue) -> str:
    return json.dumps(value, sort_keys=True)


def digest_of(code: str) -> Digest:
    """The digest under which the code is stored."""
    return Digest(f"sha256:{hashlib.sha256(code.encode()).hexdigest()}")


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
