"""A generation from its command to its version, with the ports in memory."""

from collections.abc import Callable

import pytest

from loopai_common.contracts.artifacts import Score
from loopai_common.contracts.execution import CheckProgram, CheckReport
from loopai_common.contracts.tasks import TaskSpecification
from loopai_common.errors import (
    GeneratorFailed,
    GeneratorUnavailable,
    LoopaiError,
    NoExecutor,
    StoreUnavailable,
    TaskArchived,
    TaskNotFound,
)
from loopai_generator_proxy.domain import Outcome, Program
from loopai_generator_proxy.service import Generations
from tests.unit.generator_proxy.memory import (
    CountingObserver,
    MemoryStore,
    ScriptedChecker,
    ScriptedGenerator,
    command,
    task,
)


def right_on(shares: dict[str, float]) -> Callable[[CheckProgram], CheckReport]:
    """Reports that a program is right on this share of the shown and of the held back examples."""

    def judge(check: CheckProgram) -> CheckReport:
        parts = []
        for side in (False, True):
            total = sum(example.held_back is side for example in check.examples)
            passed = round(total * shares[check.code])
            parts.append(Score(passed=passed, total=total, accuracy=passed / total if total else None))
        return CheckReport(loaded=True, shown=parts[0], held_back=parts[1])

    return judge


class Bench:
    """A service and everything around it."""

    def __init__(
        self,
        held: TaskSpecification | None,
        *script: Program | LoopaiError,
        judge: Callable[[CheckProgram], CheckReport | LoopaiError] | None = None,
        store_failures: list[LoopaiError] | None = None,
    ) -> None:
        self.store = MemoryStore(held, store_failures)
        self.generator = ScriptedGenerator(*script)
        self.checker = ScriptedChecker(judge or right_on({"good": 1.0, "poor": 0.5, "worse": 0.2}))
        self.observer = CountingObserver()
        self.generations = Generations(
            self.store, self.generator, self.checker, self.observer, rounds=3, concurrency=2, patience_seconds=0.0
        )


GOOD, POOR, WORSE = Program("good"), Program("poor", cost=0.5), Program("worse", cost=0.25)


async def test_good_program_is_published_and_activated() -> None:
    given = task(50)
    bench = Bench(given, GOOD)
    await bench.generations.make_first(command(given))
    (published,) = bench.store.published
    assert (published.code, published.activate, published.confidence_score) == ("good", True, 1.0)
    assert bench.observer.outcomes == [Outcome.ACTIVATED]
    assert (bench.observer.rounds, bench.observer.accuracies, bench.observer.in_flight) == ([1], [1.0], 0)


async def test_generator_never_sees_what_is_held_back() -> None:
    given = task(50)
    bench = Bench(given, POOR, WORSE, GOOD)
    await bench.generations.make(command(given))
    hidden = [str(example.input) for example in bench.checker.asked[0].examples if example.held_back]
    shown = {str(example.input) for request in bench.generator.asked for example in request.examples}
    assert len(hidden) == 10
    assert len(shown) == 40
    assert not shown & set(hidden)


async def test_program_below_the_target_is_asked_for_again_with_what_it_got_wrong() -> None:
    given = task(50)
    bench = Bench(given, POOR, GOOD)
    await bench.generations.make(command(given))
    assert [request.previous.code if request.previous else None for request in bench.generator.asked] == [None, "poor"]
    assert [published.code for published in bench.store.published] == ["good"]
    assert bench.store.published[0].generation_cost == 0.5


async def test_best_round_is_kept_as_a_draft_with_the_reason() -> None:
    given = task(50)
    bench = Bench(given, WORSE, POOR, Program("worse"))
    await bench.generations.make(command(given))
    (published,) = bench.store.published
    assert (published.code, published.activate, published.generation_cost) == ("poor", False, 0.75)
    assert published.failure_reason is not None
    assert len(bench.generator.asked) == 3
    assert bench.observer.outcomes == [Outcome.DRAFT]


async def test_generator_that_repeats_itself_is_not_asked_a_third_time() -> None:
    given = task(50)
    bench = Bench(given, POOR)
    await bench.generations.make(command(given))
    assert (len(bench.generator.asked), len(bench.checker.asked), len(bench.store.published)) == (2, 1, 1)


async def test_generator_that_fails_in_a_later_round_leaves_the_best_so_far() -> None:
    given = task(50)
    bench = Bench(given, POOR, GeneratorUnavailable("gone"))
    await bench.generations.make(command(given))
    assert [published.code for published in bench.store.published] == ["poor"]


@pytest.mark.parametrize("error", [GeneratorFailed("cannot do that"), GeneratorUnavailable("not there (4 attempts)")])
async def test_task_fails_with_the_generators_reason(error: LoopaiError) -> None:
    given = task(5)
    bench = Bench(given, error)
    await bench.generations.make(command(given))
    assert [failure.reason for failure in bench.store.failed] == [error.message]
    assert bench.observer.outcomes == [Outcome.FAILED]


async def test_task_fails_when_no_round_gives_a_program_that_loads() -> None:
    given = task(0)
    bench = Bench(given, POOR, WORSE, GOOD, judge=lambda _: CheckReport(loaded=False, problem="no function named run"))
    await bench.generations.make(command(given))
    assert bench.store.published == []
    assert "no function named run" in bench.store.failed[0].reason
    assert len(bench.generator.asked) == 3


async def test_task_fails_when_no_executor_comes() -> None:
    given = task(0)
    bench = Bench(given, GOOD, judge=lambda _: NoExecutor("no executor is running"))
    await bench.generations.make(command(given))
    assert "could not be checked: no executor is running" in bench.store.failed[0].reason


async def test_program_without_examples_is_activated_with_the_generators_own_confidence() -> None:
    given = task(0)
    bench = Bench(given, Program("good", own_confidence=0.05))
    await bench.generations.make(command(given))
    (published,) = bench.store.published
    assert (published.activate, published.confidence_score, published.validation) == (True, 0.05, None)
    assert bench.observer.accuracies == []


async def test_store_that_is_away_is_an_error_that_comes_again() -> None:
    given = task(0)
    bench = Bench(given, GOOD, store_failures=[StoreUnavailable("away")])
    with pytest.raises(StoreUnavailable):
        await bench.generations.make(command(given))
    assert bench.observer.outcomes == [Outcome.INTERRUPTED]
    assert bench.observer.in_flight == 0


@pytest.mark.parametrize("status", ["ready", "failed", "archived"])
async def test_event_of_a_task_past_its_first_generation_does_nothing(status: str) -> None:
    given = task(0, status=status)
    bench = Bench(given, GOOD)
    await bench.generations.make_first(command(given))
    assert (bench.generator.asked, bench.store.published) == ([], [])
    assert bench.observer.outcomes == [Outcome.SKIPPED]


async def test_command_for_a_ready_task_makes_a_new_version() -> None:
    given = task(0, status="ready", active_version=1, total_versions=1)
    bench = Bench(given, GOOD)
    bench.store.active = POOR.code
    await bench.generations.make(command(given))
    assert bench.store.published[0].parent_version == 1


@pytest.mark.parametrize("missing", [TaskNotFound("no such task"), TaskArchived("archived")])
async def test_task_that_is_gone_is_left_alone(missing: LoopaiError) -> None:
    bench = Bench(None, GOOD)
    bench.store.missing = missing
    await bench.generations.make(command(task(0)))
    assert bench.store.failed == []
    assert bench.observer.outcomes == [Outcome.SKIPPED]


READY = {"status": "ready", "active_version": 1, "total_versions": 1}


async def test_an_improvement_is_asked_for_with_the_active_program_and_what_it_got_wrong() -> None:
    given = task(50, **READY)
    bench = Bench(given, GOOD)
    bench.store.active = "poor"
    await bench.generations.make(command(given))
    (published,) = bench.store.published
    assert [request.previous.code if request.previous else None for request in bench.generator.asked] == ["poor"]
    assert [check.code for check in bench.checker.asked] == ["poor", "good"]
    assert (published.activate, published.parent_version, published.only_over_parent) == (True, 1, True)


@pytest.mark.parametrize(("active", "activated"), [("worse", True), ("poor", True), ("good", False)])
async def test_an_improvement_is_activated_unless_it_is_worse_on_the_same_examples(
    active: str, activated: bool
) -> None:
    given = task(50, accuracy_target=0.2, **READY)
    bench = Bench(
        given, Program("poor again"), judge=right_on({"poor again": 0.5, "good": 1.0, "poor": 0.5, "worse": 0.2})
    )
    bench.store.active = active
    await bench.generations.make(command(given))
    (published,) = bench.store.published
    assert published.activate is activated
    if not activated:
        assert published.failure_reason is not None
        assert "25/50 (50.0%)" in published.failure_reason
        assert "active version 1 on 50/50 (100.0%)" in published.failure_reason


async def test_a_generator_that_writes_the_active_program_again_makes_no_version() -> None:
    given = task(50, **READY)
    bench = Bench(given, POOR)
    bench.store.active = POOR.code
    await bench.generations.make(command(given))
    assert bench.store.published == []
    assert bench.store.failed[0].reason.startswith("the generator wrote the active version 1 again")


async def test_an_active_version_that_cannot_be_read_is_replaced() -> None:
    given = task(50, **READY)
    bench = Bench(given, GOOD)
    await bench.generations.make(command(given))
    assert bench.generator.asked[0].previous is None
    assert bench.store.published[0].activate


async def test_a_redelivered_command_whose_version_exists_does_nothing() -> None:
    given = task(5)
    bench = Bench(given, GOOD)
    order = command(given)
    await bench.generations.make(order)
    await bench.generations.make(order)
    assert (len(bench.generator.asked), len(bench.store.published)) == (1, 1)
    assert bench.observer.outcomes == [Outcome.ACTIVATED, Outcome.SKIPPED]


async def test_a_generation_that_cannot_be_carried_out_is_ended_with_the_cause() -> None:
    given = task(5)
    bench = Bench(given, GOOD)
    await bench.generations.abandon(command(given), "the log has the cause")
    assert bench.store.failed[0].reason == (
        "the generation could not be carried out: the log has the cause; ask for a new version of the task"
    )
