"""Which program a reference stands for, and for how long the answer of the store counts."""

import asyncio
from uuid import UUID

import pytest

from loopai_common.contracts.artifacts import ResolvedProgram, ResolvedRollout
from loopai_common.contracts.base import ArtifactId, Digest, TaskId, Version
from loopai_common.errors import ArtifactNotFound, LoopaiError, StoreUnavailable, TaskArchived, TaskNotFound
from loopai_executor.catalogue import FRESH_SECONDS, NEGATIVE_SECONDS, REFRESH_SECONDS, STALE_SECONDS, Catalogue
from loopai_executor.domain import Counts, Program, Split

TASK = TaskId(UUID(int=7))


class Store:
    """A program source in memory: one task named ``spam`` with two versions, whose answers wait for a gate."""

    def __init__(self) -> None:
        self.active = 1
        self.resolved = 0
        self.fetched = 0
        self.failure: LoopaiError | None = None
        self.rollout: ResolvedRollout | None = None
        self.missing: set[Digest] = set()
        self.silent: set[Digest] = set()
        self.sampling_rate = 0.0
        self.gate = asyncio.Event()
        self.gate.set()

    async def resolve(self, task: str, version: int | None) -> ResolvedProgram:
        self.resolved += 1
        number = version or self.active
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        if task not in ("spam", str(TASK)):
            raise TaskNotFound("there is no such task")
        if number > 2:
            raise ArtifactNotFound("the task has no such version")
        return ResolvedProgram(
            task_id=TASK,
            task_name="spam",
            artifact_id=ArtifactId(UUID(int=number)),
            version=Version(number),
            digest=_digest(number),
            entry_point="run",
            input_schema=True,
            output_schema=True,
            sampling_rate=self.sampling_rate,
            rollout=self.rollout,
        )

    async def fetch(self, task_id: TaskId, digest: Digest) -> str:
        self.fetched += 1
        if digest in self.missing:
            raise StoreUnavailable("away")
        if digest in self.silent:
            await asyncio.Event().wait()
        return "x" * 1000


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def catalogue(store: Store, clock: Clock) -> Catalogue:
    return Catalogue(store, Counts(), max_code_bytes=1500, gather_seconds=0, clock=clock)


async def version_of(catalogue: Catalogue, task: str, version: int | None) -> int:
    program = await catalogue.resolve(task, version)
    assert isinstance(program, Program)
    return program.version


def _to_version_2(percentage: float) -> ResolvedRollout:
    return ResolvedRollout(
        artifact_id=ArtifactId(UUID(int=2)),
        version=Version(2),
        digest=_digest(2),
        entry_point="run",
        percentage=percentage,
    )


def _digest(number: int) -> Digest:
    return Digest(f"sha256:{number:064}")


async def _settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_many_callers_ask_the_store_once(catalogue: Catalogue, store: Store) -> None:
    programs = await asyncio.gather(*(catalogue.resolve("spam", None) for _ in range(100)))
    assert len(set(programs)) == 1
    assert (store.resolved, store.fetched) == (1, 1)


async def test_fresh_pointer_is_not_asked_for_again(catalogue: Catalogue, store: Store, clock: Clock) -> None:
    first = await catalogue.resolve("spam", None)
    clock.now += REFRESH_SECONDS - 0.1
    assert catalogue.cached("spam", None) is first
    await _settle()
    assert store.resolved == 1


async def test_ageing_pointer_is_refreshed_behind_the_request(catalogue: Catalogue, store: Store, clock: Clock) -> None:
    first = await catalogue.resolve("spam", None)
    store.active = 2
    clock.now += REFRESH_SECONDS
    assert catalogue.cached("spam", None) is first
    await _settle()
    second = catalogue.cached("spam", None)
    assert isinstance(second, Program)
    assert second.version == 2
    assert store.resolved == 2


async def test_pointer_older_than_five_seconds_is_never_used(catalogue: Catalogue, store: Store, clock: Clock) -> None:
    await catalogue.resolve("spam", None)
    store.active = 2
    clock.now += FRESH_SECONDS
    assert catalogue.cached("spam", None) is None
    assert await version_of(catalogue, "spam", None) == 2


async def test_moved_pointer_is_forgotten_by_id_and_by_name(catalogue: Catalogue, store: Store) -> None:
    for reference in ("spam", str(TASK)):
        assert await version_of(catalogue, reference, None) == 1
    store.active = 2
    catalogue.forget_active(str(TASK), "spam")
    for reference in ("spam", str(TASK)):
        assert await version_of(catalogue, reference, None) == 2


async def test_answer_from_before_the_move_is_not_kept(catalogue: Catalogue, store: Store) -> None:
    store.gate.clear()
    early = asyncio.create_task(catalogue.resolve("spam", None))
    await _settle()
    store.active = 2
    catalogue.forget_active(str(TASK), "spam")
    store.gate.set()
    program = await early
    assert isinstance(program, Program)
    assert program.version == 1
    assert catalogue.cached("spam", None) is None
    assert await version_of(catalogue, "spam", None) == 2


async def test_last_known_version_runs_on_while_the_store_is_away_for_a_bounded_time(
    catalogue: Catalogue, store: Store, clock: Clock
) -> None:
    first = await catalogue.resolve("spam", None)
    store.failure = StoreUnavailable("away")
    clock.now += FRESH_SECONDS
    assert await catalogue.resolve("spam", None) is first
    asked = store.resolved
    assert catalogue.cached("spam", None) is first, "the next second does not wait for the store"
    clock.now += STALE_SECONDS - 0.1
    assert await catalogue.resolve("spam", None) is first
    assert store.resolved > asked
    clock.now += 2
    with pytest.raises(StoreUnavailable):
        await catalogue.resolve("spam", None)


async def test_store_that_comes_back_is_believed_again(catalogue: Catalogue, store: Store, clock: Clock) -> None:
    await catalogue.resolve("spam", None)
    store.failure = StoreUnavailable("away")
    clock.now += FRESH_SECONDS
    await catalogue.resolve("spam", None)
    store.failure, store.active = None, 2
    clock.now += 1.0
    assert await version_of(catalogue, "spam", None) == 2


async def test_refusal_is_remembered_for_a_second_and_no_longer(
    catalogue: Catalogue, store: Store, clock: Clock
) -> None:
    for _ in range(3):
        with pytest.raises(TaskNotFound):
            await catalogue.resolve("other", None)
    assert store.resolved == 1
    clock.now += NEGATIVE_SECONDS
    with pytest.raises(TaskNotFound):
        await catalogue.resolve("other", None)
    assert store.resolved == 2


async def test_unavailable_store_is_asked_again_at_once(catalogue: Catalogue, store: Store) -> None:
    store.failure = StoreUnavailable("away")
    with pytest.raises(StoreUnavailable):
        await catalogue.resolve("spam", None)
    store.failure = None
    assert await version_of(catalogue, "spam", None) == 1


async def test_fixed_version_is_kept_for_good_and_code_is_bounded(
    catalogue: Catalogue, store: Store, clock: Clock
) -> None:
    await catalogue.resolve("spam", 1)
    store.failure = StoreUnavailable("away")
    clock.now += 1e6
    assert catalogue.cached("spam", 1) is not None
    await _settle()
    assert catalogue.cached("spam", 1) is not None
    store.failure = None
    await catalogue.resolve("spam", 2)
    assert catalogue.cached("spam", 1) is None, "two programs of 1000 bytes do not fit in 1500"
    assert await version_of(catalogue, "spam", 1) == 1


@pytest.mark.parametrize("version", [None, 1])
async def test_archived_task_is_refused_within_the_refresh_without_an_event(
    catalogue: Catalogue, store: Store, clock: Clock, version: int | None
) -> None:
    await catalogue.resolve("spam", version)
    store.failure = TaskArchived("the task is archived")
    clock.now += REFRESH_SECONDS
    assert catalogue.cached("spam", version) is not None
    await _settle()
    with pytest.raises(TaskArchived):
        await catalogue.resolve("spam", version)


async def test_ended_task_is_forgotten_by_every_name_and_version(catalogue: Catalogue, store: Store) -> None:
    for reference, version in (("spam", None), ("spam", 1), (str(TASK), None)):
        await catalogue.resolve(reference, version)
    catalogue.forget_task(str(TASK), "spam")
    store.failure = TaskArchived("the task is archived")
    for reference, version in (("spam", None), ("spam", 1), (str(TASK), None)):
        assert catalogue.cached(reference, version) is None
        with pytest.raises(TaskArchived):
            await catalogue.resolve(reference, version)


async def test_changed_sampling_rate_is_learned_without_fetching_again(
    catalogue: Catalogue, store: Store, clock: Clock
) -> None:
    await catalogue.resolve("spam", None)
    store.sampling_rate = 0.5
    clock.now += REFRESH_SECONDS
    catalogue.cached("spam", None)
    await _settle()
    program = catalogue.cached("spam", None)
    assert isinstance(program, Program)
    assert (program.sampling_rate, store.fetched) == (0.5, 1)


async def test_caller_that_gives_up_does_not_take_the_answer_from_others(catalogue: Catalogue, store: Store) -> None:
    store.gate.clear()
    first, second = (asyncio.create_task(catalogue.resolve("spam", None)) for _ in range(2))
    await _settle()
    first.cancel()
    store.gate.set()
    program = await second
    assert isinstance(program, Program)
    assert program.version == 1


async def test_close_leaves_no_question_open(catalogue: Catalogue, store: Store) -> None:
    store.gate.clear()
    waiting = asyncio.create_task(catalogue.resolve("spam", None))
    await _settle()
    await catalogue.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting


@pytest.fixture
def rolling(store: Store, clock: Clock) -> Catalogue:
    """A catalogue with room for both programs of the rollout that the store tells of."""
    store.rollout = _to_version_2(30.0)
    return Catalogue(store, Counts(), max_code_bytes=10_000, gather_seconds=0, clock=clock)


async def test_active_version_with_a_rollout_stands_for_two_programs(rolling: Catalogue, store: Store) -> None:
    split, *others = await asyncio.gather(*(rolling.resolve("spam", None) for _ in range(50)))
    assert isinstance(split, Split)
    assert (split.active.version, split.candidate.version, split.percentage) == (1, 2, 30.0)
    assert all(other is split for other in others)
    assert (store.resolved, store.fetched) == (1, 2)
    cached = rolling.cached("spam", None)
    assert isinstance(cached, Split)
    assert (cached.active, cached.candidate) == (split.active, split.candidate)


async def test_explicit_version_is_never_split(rolling: Catalogue) -> None:
    for version in (1, 2):
        assert await version_of(rolling, "spam", version) == version


async def test_end_of_a_rollout_shows_when_the_pointer_is_refreshed(
    rolling: Catalogue, store: Store, clock: Clock
) -> None:
    assert isinstance(await rolling.resolve("spam", None), Split)
    store.rollout = None
    clock.now += FRESH_SECONDS
    assert await version_of(rolling, "spam", None) == 1


async def test_rollout_goes_on_while_the_store_is_away(rolling: Catalogue, store: Store, clock: Clock) -> None:
    assert isinstance(await rolling.resolve("spam", None), Split)
    store.failure = StoreUnavailable("away")
    clock.now += FRESH_SECONDS
    assert isinstance(await rolling.resolve("spam", None), Split)


async def test_candidate_without_code_leaves_the_active_version_and_is_asked_for_again(
    store: Store, clock: Clock
) -> None:
    counts = Counts()
    catalogue = Catalogue(store, counts, max_code_bytes=10_000, gather_seconds=0, clock=clock)
    store.rollout, store.missing = _to_version_2(100.0), {_digest(2)}
    assert await version_of(catalogue, "spam", None) == 1
    assert counts.candidates_missed == 1
    store.missing = set()
    clock.now += REFRESH_SECONDS
    assert await version_of(catalogue, "spam", None) == 1
    await _settle()
    assert isinstance(catalogue.cached("spam", None), Split)


async def test_candidate_whose_code_does_not_come_is_not_waited_for_long(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loopai_executor.catalogue._CANDIDATE_SECONDS", 0.01)
    counts = Counts()
    catalogue = Catalogue(store, counts, max_code_bytes=10_000, gather_seconds=0, clock=clock)
    store.rollout, store.silent = _to_version_2(100.0), {_digest(2)}
    async with asyncio.timeout(30):
        assert await version_of(catalogue, "spam", None) == 1
    assert counts.candidates_missed == 1


async def test_rollout_works_where_only_one_program_is_kept(store: Store, clock: Clock) -> None:
    catalogue = Catalogue(store, Counts(), max_code_bytes=1500, gather_seconds=0, clock=clock)
    store.rollout = _to_version_2(30.0)
    for _ in range(3):
        assert isinstance(await catalogue.resolve("spam", None), Split)


async def test_program_asked_for_by_two_names_at_once_is_one_program(store: Store, clock: Clock) -> None:
    catalogue = Catalogue(store, Counts(), max_code_bytes=2500, gather_seconds=0, clock=clock)
    by_name, by_id = await asyncio.gather(catalogue.resolve("spam", None), catalogue.resolve(str(TASK), None))
    assert by_name is by_id
    await catalogue.resolve("spam", 2)
    assert catalogue.cached("spam", None) is by_name, "its code is counted once, so that both versions fit"
