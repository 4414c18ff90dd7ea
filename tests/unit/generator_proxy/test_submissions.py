"""A program that is handed in, from its check to its version, with the ports in memory."""

import pytest

from loopai_common.contracts.artifacts import MAX_CODE_BYTES, ExampleFailure, Score
from loopai_common.contracts.execution import CheckProgram, CheckReport
from loopai_common.contracts.generation import EntryPoint, SubmitProgram
from loopai_common.contracts.tasks import TaskSpecification
from loopai_common.errors import (
    IdempotencyKeyReused,
    LoopaiError,
    NoExecutor,
    PayloadTooLarge,
    ProgramRejected,
    TaskArchived,
    Violation,
)
from loopai_generator_proxy.service import Submissions
from tests.unit.generator_proxy.memory import MemoryStore, ScriptedChecker, task

CODE = "def run(input):\n    return 'ham'\n"


def score(passed: int, total: int) -> Score:
    return Score(passed=passed, total=total, accuracy=passed / total if total else None)


def perfect(check: CheckProgram) -> CheckReport:
    hidden = sum(example.held_back for example in check.examples)
    shown = len(check.examples) - hidden
    return CheckReport(loaded=True, shown=score(shown, shown), held_back=score(hidden, hidden), latency_p50_ms=0.1)


class Bench:
    """A service and everything around it."""

    def __init__(self, held: TaskSpecification, report: CheckReport | LoopaiError | None = None) -> None:
        self.store = MemoryStore(held)
        self.checker = ScriptedChecker(perfect if report is None else lambda _: report)
        self.submissions = Submissions(self.store, self.checker)


def handing_in(code: str = CODE, **changes: object) -> SubmitProgram:
    return SubmitProgram.model_validate({"task": "spam-detection", "code": code, **changes})


async def test_a_program_that_passes_is_published_with_its_report_and_metrics() -> None:
    given = task(20, status="ready", active_version=2, total_versions=2)
    bench = Bench(given)
    artifact = await bench.submissions.submit(handing_in(entry_point="classify", synthesis_strategy="rule"))
    (published,) = bench.store.published
    assert (artifact.version, published.code, published.activate, published.parent_version) == (1, CODE, True, 2)
    assert (published.entry_point, published.synthesis_strategy.value) == (EntryPoint.CLASSIFY, "rule")
    assert published.validation is not None
    assert (published.validation.total, published.validation.held_back.total) == (20, 4)
    assert published.confidence_score == 1.0
    assert published.complexity_metrics.cyclomatic_complexity == 1
    assert published.failure_reason is None


async def test_it_is_only_stored_when_it_shall_not_be_activated() -> None:
    bench = Bench(task(5))
    await bench.submissions.submit(handing_in(activate=False))
    assert not bench.store.published[0].activate


async def test_a_program_that_does_not_load_is_rejected_with_the_reason() -> None:
    bench = Bench(task(5), CheckReport(loaded=False, problem="SyntaxError: invalid syntax (line 3)"))
    with pytest.raises(ProgramRejected) as rejected:
        await bench.submissions.submit(handing_in())
    assert rejected.value.message == "the program cannot be used: SyntaxError: invalid syntax (line 3)"
    assert rejected.value.details == (Violation("code", "SyntaxError: invalid syntax (line 3)", "load_failed"),)
    assert bench.store.published == []


async def test_a_program_below_the_target_is_rejected_with_what_it_got_wrong() -> None:
    given = task(5)
    wrong = (
        ExampleFailure(input=given.examples[0].input, expected="spam", actual="ham"),
        ExampleFailure(input=given.examples[3].input, expected="ham", error="program_raised: KeyError: 'x'"),
        ExampleFailure(input=given.examples[4].input, expected="ham", actual="x" * 500),
    )
    bench = Bench(given, CheckReport(loaded=True, shown=score(2, 5), failures=wrong))
    with pytest.raises(ProgramRejected) as rejected:
        await bench.submissions.submit(handing_in())
    assert "right on 2/5 (40.0%) of the examples and the target is 90.0%" in rejected.value.message
    first, second, third = rejected.value.details
    assert first == Violation("examples/0", 'must give "spam", gave "ham"', "wrong_output")
    assert second == Violation(
        "examples/3", "must give \"ham\", failed with program_raised: KeyError: 'x'", "no_output"
    )
    assert len(third.message) < 250
    assert bench.store.published == []


async def test_code_over_the_limit_is_refused_unchecked() -> None:
    bench = Bench(task(5))
    with pytest.raises(PayloadTooLarge):
        await bench.submissions.submit(handing_in("é" * (MAX_CODE_BYTES // 2) + "x"))
    assert bench.checker.asked == []


async def test_an_archived_task_takes_no_program() -> None:
    bench = Bench(task(5, status="archived"))
    with pytest.raises(TaskArchived):
        await bench.submissions.submit(handing_in())
    assert bench.checker.asked == []


async def test_without_an_executor_nothing_is_published() -> None:
    bench = Bench(task(5), NoExecutor("no executor is running"))
    with pytest.raises(NoExecutor):
        await bench.submissions.submit(handing_in())
    assert bench.store.published == []


async def test_the_same_key_with_the_same_program_is_one_version() -> None:
    bench = Bench(task(5))
    first = await bench.submissions.submit(handing_in(idempotency_key="k1"))
    again = await bench.submissions.submit(handing_in(idempotency_key="k1"))
    assert (first.version, again.version, len(bench.store.published)) == (1, 1, 1)
    with pytest.raises(IdempotencyKeyReused):
        await bench.submissions.submit(handing_in("def run(input): ...", idempotency_key="k1"))
    assert (await bench.submissions.submit(handing_in())).version == 2
