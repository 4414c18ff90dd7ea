"""What stands in for a generator that is unavailable, with the ports in memory."""

from typing import Any

import pytest

from loopai_common.contracts.artifacts import ArtifactStatus, Fallback, ProgramArtifact, PublishArtifact
from loopai_common.contracts.base import Digest, GenerationId
from loopai_common.contracts.tasks import Comparison, TaskSpecification
from loopai_common.errors import GeneratorFailed, GeneratorUnavailable, LoopaiError
from loopai_common.identifiers import new_uuid
from loopai_generator_proxy.domain import Outcome, Program, StandIn, earlier_version, specification_digest
from loopai_generator_proxy.service import Generations
from tests.unit.generator_proxy.memory import (
    CountingObserver,
    MemoryStore,
    ScriptedChecker,
    ScriptedGenerator,
    artifact,
    command,
    examples,
    task,
)
from tests.unit.generator_proxy.test_rounds import right_on

AWAY = GeneratorUnavailable("not there (4 attempts)")
OTHER = Digest(f"sha256:{0:064}")


def version(
    of: TaskSpecification, number: int, status: ArtifactStatus, digest: Digest | None = None
) -> ProgramArtifact:
    made = PublishArtifact(task_id=of.id, generation_id=GenerationId(new_uuid()), code="x")
    changes = {"status": status, "specification_digest": digest or specification_digest(of)}
    return artifact(made, number).model_copy(update=changes)


class Bench:
    """The service with a generator that is away, and maybe a learner."""

    def __init__(
        self,
        held: TaskSpecification,
        *versions: ProgramArtifact,
        error: GeneratorFailed = AWAY,
        learner: Program | LoopaiError | None = None,
    ) -> None:
        self.store = MemoryStore(held)
        self.store.versions_made = list(versions)
        self.store.active = "active"
        self.learner = None if learner is None else ScriptedGenerator(learner)
        self.observer = CountingObserver()
        self.generations = Generations(
            self.store,
            ScriptedGenerator(error),
            ScriptedChecker(right_on({"active": 0.6, "learned": 1.0, "poor": 0.5})),
            self.observer,
            fallback=self.learner,
            rounds=3,
            concurrency=2,
            patience_seconds=0.0,
        )


def ready(count: int = 50, **changes: Any) -> TaskSpecification:
    return task(count, **{"status": "ready", "active_version": 2, "total_versions": 2, **changes})


async def test_active_version_of_the_same_specification_stands_in_and_nothing_is_published() -> None:
    given = ready()
    bench = Bench(given, version(given, 2, ArtifactStatus.ACTIVE), learner=Program("learned"))
    await bench.generations.make(command(given))
    (failure,) = bench.store.failed
    assert failure.fallback_version == 2
    assert failure.reason == "version 2, made for the same specification, stands in: not there (4 attempts)"
    assert (bench.store.published, bench.observer.outcomes) == ([], [Outcome.KEPT])
    assert bench.observer.stand_ins == [StandIn.EARLIER_VERSION]
    assert bench.learner is not None
    assert bench.learner.asked == []


async def test_learner_stands_in_for_a_new_task_and_its_version_says_so() -> None:
    given = task(50)
    bench = Bench(given, learner=Program("learned"))
    await bench.generations.make_first(command(given))
    (published,) = bench.store.published
    assert (published.code, published.activate, published.fallback) == ("learned", True, Fallback.LEARNER)
    assert published.specification_digest == specification_digest(given)
    assert (bench.observer.outcomes, bench.observer.stand_ins) == ([Outcome.ACTIVATED], [StandIn.LEARNER])


async def test_learner_stands_in_when_the_specification_has_changed_since() -> None:
    given = ready()
    bench = Bench(given, version(given, 2, ArtifactStatus.ACTIVE, OTHER), learner=Program("learned"))
    await bench.generations.make(command(given))
    assert [made.fallback for made in bench.store.published] == [Fallback.LEARNER]


async def test_learner_takes_over_only_when_it_is_not_worse() -> None:
    given = ready(accuracy_target=0.4)
    bench = Bench(given, version(given, 2, ArtifactStatus.ACTIVE, OTHER), learner=Program("poor"))
    await bench.generations.make(command(given))
    (published,) = bench.store.published
    assert (published.activate, published.fallback) == (False, Fallback.LEARNER)


async def test_with_neither_the_generation_fails_with_the_cause() -> None:
    given = task(50)
    bench = Bench(given)
    await bench.generations.make_first(command(given))
    (failure,) = bench.store.failed
    assert (failure.reason, failure.fallback_version) == (AWAY.message, None)
    assert bench.observer.outcomes == [Outcome.FAILED]


async def test_learner_that_fails_too_is_named_in_the_reason() -> None:
    given = task(50)
    bench = Bench(given, learner=GeneratorFailed("only labels"))
    await bench.generations.make_first(command(given))
    (failure,) = bench.store.failed
    assert failure.reason == "not there (4 attempts); the learner in its place: only labels"
    assert bench.observer.stand_ins == []


async def test_generator_that_declines_is_believed() -> None:
    given, declined = ready(), GeneratorFailed("cannot do that")
    bench = Bench(given, version(given, 2, ArtifactStatus.ACTIVE), error=declined, learner=Program("learned"))
    await bench.generations.make(command(given))
    (failure,) = bench.store.failed
    assert (failure.reason, failure.fallback_version) == ("cannot do that", None)
    assert (bench.store.published, bench.observer.stand_ins) == ([], [])


@pytest.mark.parametrize(
    ("active", "statuses", "stands_in"),
    [
        (2, {1: ArtifactStatus.DEPRECATED, 2: ArtifactStatus.ACTIVE}, 2),
        (1, {1: ArtifactStatus.ACTIVE, 2: ArtifactStatus.DEPRECATED}, 1),
        (None, {1: ArtifactStatus.VALIDATED, 2: ArtifactStatus.VALIDATED}, 2),
        (None, {1: ArtifactStatus.VALIDATED, 2: ArtifactStatus.DRAFT}, 1),
        (None, {1: ArtifactStatus.FAILED, 2: ArtifactStatus.DRAFT}, None),
        (None, {}, None),
    ],
)
def test_active_version_stands_in_or_the_newest_that_passed_where_none_is(
    active: int | None, statuses: dict[int, ArtifactStatus], stands_in: int | None
) -> None:
    given = task(3, active_version=active)
    assert earlier_version(given, [version(given, *pair) for pair in statuses.items()]) == stands_in


def test_nothing_is_taken_from_an_active_version_of_another_specification() -> None:
    given = task(3, active_version=2)
    known = [version(given, 1, ArtifactStatus.DEPRECATED), version(given, 2, ArtifactStatus.ACTIVE, OTHER)]
    assert earlier_version(given, known) is None


def test_versions_from_before_there_were_digests_do_not_stand_in() -> None:
    given = task(3, active_version=1)
    old = version(given, 1, ArtifactStatus.ACTIVE).model_copy(update={"specification_digest": None})
    assert earlier_version(given, [old]) is None


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"name": "another", "id": new_uuid(), "sampling_rate": 0.7, "latency_target_ms": 5, "revision": 9}, True),
        ({"examples": tuple(reversed(examples(3)))}, True),
        ({"examples": examples(4)}, False),
        ({"description": "another"}, False),
        ({"input_schema": True}, False),
        ({"output_schema": True}, False),
        ({"accuracy_target": 0.8}, False),
        ({"comparison": Comparison.FUZZY}, False),
        ({"comparison_threshold": 0.5}, False),
    ],
)
def test_digest_of_the_specification_is_about_what_the_program_shall_do(changes: dict[str, Any], same: bool) -> None:
    given = task(3)
    assert (specification_digest(given) == specification_digest(given.model_copy(update=changes))) is same
