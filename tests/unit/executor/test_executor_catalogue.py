"""Which program a reference stands for, and for how long the answer of the store counts."""

import asyncio
from uuid import UUID

import pytest

from loopai_common.contracts.artifacts import ResolvedProgram
from loopai_common.contracts.base import ArtifactId, Digest, TaskId, Version
from loopai_common.errors import ArtifactNotFound, LoopaiError, StoreUnavailable, TaskArchived, TaskNotFound
from loopai_executor.catalogue import FRESH_SECONDS, NEGATIVE_SECONDS, REFRESH_SECONDS, STALE_SECONDS, Catalogue

TASK = TaskId(UUID(int=7))


class Store:
    """A program source in memory: one task named ``spam`` with two versions, whose answers wait for a gate."""

    def __init__(self) -> None:
        self.active = 1
        self.resolved = 0
        self.fetched = 0
        self.failure: LoopaiError | None = None
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
            digest=Digest(f"sha256:{number:064}"),
            entry_point="run",
            input_schema=True,
            output_schema=True,
            sampling_rate=self.sampling_rate,
        )

    async def fetch(self, task_id: TaskId, digest: Digest) -> str:
        self.fetched += 1
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
    return Catalogue(store, max_code_bytes=1500, clock=clock)


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
    assert second is not None
    assert second.version == 2
    assert store.resolved == 2


async def test_pointer_older_than_five_seconds_is_never_used(catalogue: Catalogue, store: Store, clock: Clock) -> None:
    await catalogue.resolve("spam", None)
    store.active = 2
    clock.now += FRESH_SECONDS
    assert catalogue.cached("spam", None) is None
    assert (await catalogue.resolve("spam", None)).version == 2


async def test_moved_pointer_is_forgotten_by_id_and_by_name(catalogue: Catalogue, store: Store) -> None:
    for reference in ("spam", str(TASK)):
        assert (await catalogue.resolve(reference, None)).version == 1
    store.active = 2
    catalogue.forget_active(str(TASK), "spam")
    for reference in ("spam", str(TASK)):
        assert (await catalogue.resolve(reference, None)).version == 2


async def test_answer_from_before_the_move_is_not_kept(catalogue: Catalogue, store: Store) -> None:
    store.gate.clear()
    early = asyncio.create_task(catalogue.resolve("spam", None))
    await _settle()
    store.active = 2
    catalogue.forget_active(str(TASK), "spam")
    store.gate.set()
    assert (await early).version == 1
    assert catalogue.cached("spam", None) is None
    assert (await catalogue.resolve("spam", None)).version == 2


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
    assert (await catalogue.resolve("spam", None)).version == 2


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
    assert (await catalogue.resolve("spam", None)).version == 1


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
    assert (await catalogue.resolve("spam", 1)).version == 1


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
    assert program is not None
    assert (program.sampling_rate, store.fetched) == (0.5, 1)


async def test_caller_that_gives_up_does_not_take_the_answer_from_others(catalogue: Catalogue, store: Store) -> None:
    store.gate.clear()
    first, second = (asyncio.create_task(catalogue.resolve("spam", None)) for _ in range(2))
    await _settle()
    first.cancel()
    store.gate.set()
    assert (await second).version == 1


async def test_close_leaves_no_question_open(catalogue: Catalogue, store: Store) -> None:
    store.gate.clear()
    waiting = asyncio.create_task(catalogue.resolve("spam", None))
    await _settle()
    await catalogue.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
