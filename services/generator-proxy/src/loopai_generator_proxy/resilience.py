"""What keeps a bad generator from doing harm. In this order, from the outside:

total deadline → circuit breaker → retry → deadline of the attempt → the attempt itself, which is the adapter's.

The deadline counts from before the breaker, and is kept within it: a call that runs out of time is one that failed, not
one that was cancelled.
"""

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import aiobreaker
from aiobreaker.state import CircuitBreakerError, CircuitBreakerState

from loopai_common.contracts.base import GenerationId
from loopai_common.contracts.generation import GenerationRequest
from loopai_common.errors import GeneratorFailed, GeneratorUnavailable
from loopai_common.runtime.logging import get_logger
from loopai_generator_proxy.domain import BreakerState, Program, RetryPolicy
from loopai_generator_proxy.ports import CallObserver

T = TypeVar("T")

log = get_logger()


class AttemptFailed(GeneratorFailed):
    """An attempt that gave no program. ``kind`` is its outcome in the metrics; one that is ``passing`` is tried again,
    after ``retry_after_seconds`` at the earliest.
    """

    def __init__(
        self, kind: str, message: str, *, passing: bool = False, retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.passing = passing
        self.retry_after_seconds = retry_after_seconds


Attempt = Callable[[GenerationRequest, GenerationId], Awaitable[Program]]
"""Asks a generator once; raises :class:`AttemptFailed`. Keeps no time: its caller does."""


class CircuitBreaker:
    """Leaves a generator alone that was unavailable for ``failures`` calls in a row.

    After ``open_seconds`` one call, the probe, is let through: it closes the breaker, or opens it again. What says that
    the generator is alive (any error but :class:`GeneratorUnavailable`) is no failure of it. ``clock`` is monotonic, in
    seconds.

    aiobreaker counts and judges; this is the gate before it. Each opening begins a new round with an aiobreaker of its
    own, so that a call which is late tells only a round that is over. aiobreaker alone lets every caller through when
    half open, and keeps naive wall-clock time, of which nothing is used here.
    """

    def __init__(
        self,
        *,
        failures: int,
        open_seconds: float,
        on_change: Callable[[BreakerState], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._failures = failures
        self._open_seconds = open_seconds
        self._on_change = on_change
        self._clock = clock
        self._round = self._new_round()
        self._opened_at: float | None = None
        self._probing = False

    async def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """What ``work`` gives or raises; raises :class:`GeneratorUnavailable` at once while the breaker is open."""
        current = self._admit()
        hidden: BaseException | None = None
        try:
            result: T = await current.call_async(work)
            return result
        except CircuitBreakerError as error:
            hidden = error.__cause__  # raised in place of what the call that trips it met
        finally:
            self._settle(current)
        assert hidden is not None, "the gate lets nobody call an aiobreaker that is open"
        raise hidden

    @property
    def problem(self) -> str | None:
        """``None`` while it is closed, else a sentence that says how long the generator is left alone."""
        if self._opened_at is None:
            return None
        left = self._seconds_left(self._opened_at)
        if left > 0:
            return f"the circuit breaker is open, the generator is left alone for {math.ceil(left)} more seconds"
        return "the circuit breaker is half open, one call decides whether the generator is back"

    def _admit(self) -> aiobreaker.CircuitBreaker:
        if self._opened_at is None:
            return self._round
        left = self._seconds_left(self._opened_at)
        if left > 0 or self._probing:
            wait = left if left > 0 else self._open_seconds
            raise GeneratorUnavailable(
                f"the generator was unavailable too often in a row and is left alone; try again in {math.ceil(wait)} "
                "seconds",
                retry_after_seconds=wait,
            )
        self._probing = True
        self._changed(BreakerState.HALF_OPEN)
        return self._round

    def _settle(self, current: aiobreaker.CircuitBreaker) -> None:
        """Does what the aiobreaker of the present round says; half open, it has heard of no end of the probe."""
        if current is not self._round:
            return
        self._probing = False
        if current.current_state is CircuitBreakerState.OPEN:
            self._opened_at = self._clock()
            self._round = self._new_round()
            self._round.half_open()
            self._changed(BreakerState.OPEN)
        elif current.current_state is CircuitBreakerState.CLOSED and self._opened_at is not None:
            self._opened_at = None
            self._changed(BreakerState.CLOSED)

    def _new_round(self) -> aiobreaker.CircuitBreaker:
        return aiobreaker.CircuitBreaker(fail_max=self._failures, exclude=[_is_alive])

    def _seconds_left(self, opened_at: float) -> float:
        return opened_at + self._open_seconds - self._clock()

    def _changed(self, state: BreakerState) -> None:
        log.warning("circuit_breaker_changed", state=state.value, open_seconds=self._open_seconds)
        self._on_change(state)


class ResilientGenerator:
    """A generator that is asked by ``attempt``, with everything that bounds how long and how often.

    ``sleep`` and ``draw`` (0 ≤ x < 1) are what the pauses between attempts are made with.
    """

    def __init__(
        self,
        attempt: Attempt,
        breaker: CircuitBreaker,
        observer: CallObserver,
        *,
        policy: RetryPolicy,
        attempt_timeout_seconds: float,
        total_timeout_seconds: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._ask = attempt
        self._breaker = breaker
        self._observer = observer
        self._policy = policy
        self._attempt_timeout_seconds = attempt_timeout_seconds
        self._total_timeout_seconds = total_timeout_seconds
        self._sleep = sleep
        self._draw = draw

    async def generate(self, request: GenerationRequest, generation_id: GenerationId) -> Program:
        """A program; raises :class:`GeneratorFailed`, or :class:`GeneratorUnavailable` when every attempt failed, time
        ran out, or the breaker is open.
        """
        until = asyncio.get_running_loop().time() + self._total_timeout_seconds
        return await self._breaker.call(lambda: self._until(until, request, generation_id))

    async def _until(self, until: float, request: GenerationRequest, generation_id: GenerationId) -> Program:
        try:
            async with asyncio.timeout_at(until):
                return await self._with_retries(until, request, generation_id)
        except TimeoutError as error:
            raise GeneratorUnavailable(
                f"the generator gave no program within {self._total_timeout_seconds:g} seconds in total"
            ) from error

    async def _with_retries(self, until: float, request: GenerationRequest, generation_id: GenerationId) -> Program:
        failures = 0
        while True:
            try:
                return await self._attempt(request, generation_id)
            except AttemptFailed as failure:
                failures += 1
                pause = self._pause(failure, failures, until)
            await self._sleep(pause)
            self._observer.retried()

    def _pause(self, failure: AttemptFailed, failures: int, until: float) -> float:
        """Seconds until the next attempt; raises what the call ends with when there is none."""
        pause = None
        if failure.passing:
            pause = self._policy.pause(failures, failure.retry_after_seconds, self._draw)
        log.warning(
            "generator_attempt_failed", kind=failure.kind, reason=failure.message, attempt=failures, pause=pause
        )
        if not failure.passing:
            raise GeneratorFailed(failure.message) from failure
        if pause is None:
            raise GeneratorUnavailable(f"{failure.message} ({failures} attempts)") from failure
        if asyncio.get_running_loop().time() + pause >= until:
            raise GeneratorUnavailable(
                f"{failure.message}, and asks to wait longer than a generation may take"
            ) from failure
        return pause

    async def _attempt(self, request: GenerationRequest, generation_id: GenerationId) -> Program:
        started = time.perf_counter()
        outcome = "cancelled"
        try:
            async with asyncio.timeout(self._attempt_timeout_seconds):
                program = await self._ask(request, generation_id)
            outcome = "ok"
            return program
        except TimeoutError as error:
            outcome = "timeout"
            message = f"the generator did not answer within {self._attempt_timeout_seconds:g} seconds"
            raise AttemptFailed(outcome, message, passing=True) from error
        except AttemptFailed as failure:
            outcome = failure.kind
            raise
        finally:
            self._observer.attempted(outcome, time.perf_counter() - started)


def _is_alive(error: Exception) -> bool:
    return not isinstance(error, GeneratorUnavailable)
