"""What is asked, what is checked, and what is published."""

import pytest

from loopai_common.contracts.artifacts import ExampleFailure, Score
from loopai_common.contracts.execution import CheckExample, CheckReport
from loopai_common.contracts.tasks import Comparison, Example
from loopai_generator_proxy import domain
from loopai_generator_proxy.domain import Program, Round
from tests.unit.generator_proxy.memory import command, task

CODE = "def run(input):\n    return 'ham'\n"


def score(passed: int, total: int) -> Score:
    return Score(passed=passed, total=total, accuracy=passed / total if total else None)


def played(shown: Score, held_back: Score, *, loaded: bool = True, own_confidence: float = 0.0) -> Round:
    report = CheckReport(loaded=loaded, shown=shown, held_back=held_back, latency_p50_ms=0.05, latency_p99_ms=0.1)
    return Round(Program(CODE, own_confidence=own_confidence), report)


def test_the_check_compares_as_the_task_says() -> None:
    given = task(1, comparison="fuzzy", comparison_threshold=0.7)
    check = domain.check_for(given, Program(CODE), [False])
    assert (check.comparison, check.comparison_threshold) == (Comparison.FUZZY, 0.7)


@pytest.mark.parametrize(
    ("shown", "hidden", "target", "reached"),
    [
        (score(80, 80), score(20, 20), 1.0, True),
        (score(80, 80), score(10, 20), 0.9, True),
        (score(80, 80), score(9, 20), 0.9, False),
        (score(0, 0), score(0, 0), 1.0, True),
        (score(0, 5), score(0, 0), 0.0, True),
    ],
)
def test_target_is_judged_over_all_examples(shown: Score, hidden: Score, target: float, reached: bool) -> None:
    assert played(shown, hidden).reaches(target) is reached


def test_program_that_does_not_load_reaches_nothing() -> None:
    assert not played(score(0, 0), score(0, 0), loaded=False).reaches(0.0)


def test_rank_prefers_loading_then_accuracy_then_what_was_held_back() -> None:
    ranked = [
        played(score(0, 0), score(0, 0), loaded=False),
        played(score(40, 80), score(10, 20)),
        played(score(72, 80), score(8, 20)),
        played(score(64, 80), score(16, 20)),
    ]
    assert sorted(ranked, key=lambda each: each.rank) == ranked


def test_version_at_the_target_is_activated_with_the_held_back_accuracy_as_confidence() -> None:
    given = task(100)
    publication = domain.publication(given, command(given), played(score(79, 80), score(18, 20)), 0.02, 1.5)
    assert publication.activate
    assert publication.failure_reason is None
    assert publication.confidence_score == 0.9
    assert (publication.generation_cost, publication.generation_time_sec) == (0.02, 1.5)
    assert publication.complexity_metrics.estimated_latency_ms == 0.05
    assert publication.validation is not None
    assert (publication.validation.passed, publication.validation.total) == (97, 100)
    assert publication.validation.held_back == score(18, 20)


def test_version_below_the_target_is_a_draft_that_says_what_it_lacks() -> None:
    given = task(100)
    publication = domain.publication(given, command(given), played(score(60, 80), score(10, 20)), 0.0, 1.0)
    assert not publication.activate
    assert publication.failure_reason is not None
    for part in ("70/100 (70.0%)", "90.0%", "shown 60/80", "held back 10/20", "lower accuracy_target"):
        assert part in publication.failure_reason


def test_confidence_is_the_generators_word_when_nothing_was_held_back() -> None:
    assert domain.confidence(played(score(5, 5), score(0, 0), own_confidence=0.3)) == 0.3


def test_version_without_examples_has_no_report() -> None:
    given = task(0)
    publication = domain.publication(given, command(given), played(score(0, 0), score(0, 0)), 0.0, 1.0)
    assert publication.activate
    assert publication.validation is None
    assert publication.confidence_score == 0.0


def test_a_new_version_improves_on_the_active_one() -> None:
    given = task(0, status="ready", active_version=3, total_versions=4)
    publication = domain.publication(given, command(given), played(score(0, 0), score(0, 0)), 0.0, 1.0)
    assert publication.parent_version == 3


def test_later_round_is_told_the_shown_failures_only() -> None:
    given = task(20)
    shown, hidden = given.examples[0], given.examples[1]
    report = CheckReport(
        loaded=True,
        failures=tuple(ExampleFailure(input=e.input, expected=e.output, error="raised") for e in (shown, hidden)),
    )
    request = domain.request_for(given, command(given), [shown], Round(Program(CODE), report))
    assert request.previous is not None
    assert request.previous.code == CODE
    assert [(failure.input, failure.error) for failure in request.previous.failures] == [(shown.input, "raised")]
    assert request.examples == (shown,)


def test_later_round_is_told_why_the_program_did_not_load() -> None:
    given = task(0)
    last = Round(Program("def"), CheckReport(loaded=False, problem="invalid syntax"))
    request = domain.request_for(given, command(given, constraints="be short"), [], last)
    assert request.constraints is not None
    assert request.constraints.startswith("be short\n")
    assert "invalid syntax" in request.constraints


def test_check_holds_all_examples_the_shown_ones_first() -> None:
    given = task(50)
    hidden = domain.held_back(given.examples)
    check = domain.check_for(given, Program(CODE), hidden)
    assert [example.held_back for example in check.examples] == [False] * 40 + [True] * 10


def test_check_of_more_than_a_message_carries_is_a_stable_sample() -> None:
    given = task(0, examples=tuple(Example(input={"text": f"{n} " * 4000}, output="ham") for n in range(600)))
    check = domain.check_for(given, Program(CODE), domain.held_back(given.examples))
    assert 0 < len(check.examples) < 600
    assert 7_000_000 < len(check.model_dump_json()) < 8 * 1024 * 1024
    assert check == domain.check_for(given, Program(CODE), domain.held_back(given.examples))


def test_sample_of_what_fits_is_everything_in_its_order() -> None:
    known = [CheckExample(input=n, output=n) for n in range(5)]
    assert domain.sample(known, 10_000) == known


@pytest.mark.parametrize(
    ("code", "cyclomatic", "lines"),
    [
        ("def run(input):\n    return 1\n", 1, 2),
        ("def run(input):\n\n    if input:\n        return 1\n    return 2\n", 2, 4),
        ("def a(x):\n    return x\n\ndef run(input):\n    for i in input:\n        a(i)\n", 3, 5),
        ("class A:\n    def b(self):\n        return 1\n", 1, 3),
        ("def run(:\n", None, 1),
        ("x = " + "(" * 5000, None, 1),
        ("\x00", None, 1),
    ],
)
def test_complexity_is_mccabes_over_all_functions(code: str, cyclomatic: int | None, lines: int) -> None:
    metrics = domain.complexity(code, None)
    assert (metrics.cyclomatic_complexity, metrics.lines_of_code) == (cyclomatic, lines)


def test_reason_is_never_empty_nor_too_long() -> None:
    assert domain.as_reason("  ") == "no reason was given"
    assert len(domain.as_reason("x" * 5000)) == 2000
