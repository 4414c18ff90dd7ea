"""When the circuit breaker lets calls through, on a clock of the test's own."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from loopai_common.errors import GeneratorFailed, GeneratorUnavailable
from loopai_generator_proxy.domain import BreakerState
from loopai_generator_proxy.resilience import CircuitBreaker


class Bench:
    """A breaker that opens after three failures for ten seconds, and what it went through."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.states: list[BreakerState] = []
        self.breaker = CircuitBreaker(
            failures=3, open_seconds=10.0, on_change=self.states.append, clock=lambda: self.now
        )

    async def ends(self, error: Exception | None = None) -> bool:
        """Whether a call that ends like this is let through."""
        entered = False

        async def work() -> None:
            nonlocal entered
            entered = True
            if error is not None:
                raise error

        with suppress(GeneratorFailed):
            await self.breaker.call(work)
        return entered

    async def trip(self) -> None:
        for _ in range(3):
            assert await self.ends(GONE)

    def start(self, gate: "asyncio.Future[str]") -> "asyncio.Task[str]":
        """A call that ends as the gate does."""

        async def work() -> str:
            return await gate

        return asyncio.create_task(self.breaker.call(work))


GONE = GeneratorUnavailable("not there")
NO = GeneratorFailed("cannot do that")
Ending = Callable[["asyncio.Future[str]"], None]


async def test_opens_after_so_many_failures_in_a_row() -> None:
    bench = Bench()
    for ending in (GONE, GONE, None, GONE, GONE, NO, GONE, GONE):
        assert await bench.ends(ending)
    assert bench.states == []
    assert await bench.ends(GONE)
    assert bench.states == [BreakerState.OPEN]
    assert not await bench.ends()


async def test_the_call_that_trips_it_raises_its_own_error_with_its_cause() -> None:
    bench, cause = Bench(), OSError("no route")
    assert await bench.ends(GONE)
    assert await bench.ends(GONE)

    async def work() -> None:
        raise GeneratorUnavailable("the third") from cause

    with pytest.raises(GeneratorUnavailable, match="the third") as raised:
        await bench.breaker.call(work)
    assert raised.value.__cause__ is cause
    assert bench.states == [BreakerState.OPEN]


async def test_refusal_says_when_to_come_again() -> None:
    bench = Bench()
    await bench.trip()
    bench.now += 7.5
    with pytest.raises(GeneratorUnavailable) as refused:
        await bench.breaker.call(lambda: asyncio.sleep(0))
    assert refused.value.retry_after_seconds == 2.5
    assert bench.breaker.problem == "the circuit breaker is open, the generator is left alone for 3 more seconds"


@pytest.mark.parametrize("ending", [None, NO])
async def test_probe_that_finds_the_generator_alive_closes_it(ending: Exception | None) -> None:
    bench = Bench()
    await bench.trip()
    bench.now += 10.0
    assert await bench.ends(ending)
    assert bench.states == [BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.CLOSED]
    assert bench.breaker.problem is None
    assert await bench.ends(GONE)
    assert await bench.ends(GONE)
    assert await bench.ends()


async def test_probe_that_fails_opens_it_for_another_while() -> None:
    bench = Bench()
    await bench.trip()
    bench.now += 10.0
    assert await bench.ends(GONE)
    bench.now += 9.9
    assert not await bench.ends()
    bench.now += 0.1
    assert await bench.ends()
    assert bench.states[-1] is BreakerState.CLOSED


async def test_one_probe_at_a_time_and_a_cancelled_one_frees_the_place() -> None:
    bench, gate = Bench(), asyncio.get_running_loop().create_future()
    await bench.trip()
    bench.now += 10.0
    probe = bench.start(gate)
    await asyncio.sleep(0)
    assert not await bench.ends()
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    assert bench.states == [BreakerState.OPEN, BreakerState.HALF_OPEN]
    assert await bench.ends()
    assert bench.states[-1] is BreakerState.CLOSED


@pytest.mark.parametrize(
    "late", [lambda gate: gate.set_result("late"), lambda gate: gate.set_exception(GONE), lambda gate: gate.cancel()]
)
@pytest.mark.parametrize("probing", [False, True])
async def test_call_of_an_older_round_changes_nothing(late: Ending, probing: bool) -> None:
    bench, old, probe = Bench(), asyncio.get_running_loop().create_future(), asyncio.get_running_loop().create_future()
    straggler = bench.start(old)
    await asyncio.sleep(0)
    await bench.trip()
    bench.now += 9.0
    running: list[Awaitable[str]] = []
    if probing:
        bench.now += 1.0
        running = [bench.start(probe)]
        await asyncio.sleep(0)
    before = list(bench.states)
    late(old)
    await asyncio.gather(straggler, return_exceptions=True)
    assert bench.states == before
    assert not await bench.ends(), "still closed to all, or to all but the probe"
    probe.set_result("found")
    assert await asyncio.gather(*running) == ["found"] * len(running)
    bench.now += 1.0
    assert await bench.ends(), "the late call has put nothing off"
