"""The HTTP adapter, and what bounds it, against generators that are bad in every way we know."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from prometheus_client import CollectorRegistry

from loopai_client.local.nats_server import free_port
from loopai_common.contracts.artifacts import SynthesisStrategy
from loopai_common.contracts.base import GenerationId
from loopai_common.errors import GeneratorFailed, GeneratorUnavailable
from loopai_common.identifiers import new_uuid
from loopai_common.runtime import context
from loopai_generator_proxy.adapters.http_generator import HttpGenerator, http_client
from loopai_generator_proxy.domain import GeneratorRole, RetryPolicy
from loopai_generator_proxy.metrics import GenerationMetrics
from loopai_generator_proxy.resilience import CircuitBreaker, ResilientGenerator
from tests.integration.generator_proxy.bad_generator import (
    PROGRAM,
    Answer,
    drip,
    endless,
    hang_up,
    listening,
    program,
    response,
    text,
)
from tests.support.sms import generation_request

DOWN = text("", status=500)
KEY = "key-that-must-not-be-seen"


class Caller:
    """A generator as the service has it, with pauses that are noted instead of waited for, and time that is told."""

    def __init__(self, http: HttpGenerator, registry: CollectorRegistry, policy: RetryPolicy, *times: float) -> None:
        attempt_seconds, total_seconds = times
        observer = GenerationMetrics(registry).calls_to(GeneratorRole.PRIMARY)
        self.now = 0.0
        self.breaker = CircuitBreaker(
            failures=5, open_seconds=30.0, on_change=observer.breaker_changed, clock=lambda: self.now
        )
        self.generator = ResilientGenerator(
            http.attempt,
            self.breaker,
            observer,
            policy=policy,
            attempt_timeout_seconds=attempt_seconds,
            total_timeout_seconds=total_seconds,
            sleep=self._note,
            draw=lambda: 0.5,
        )
        self.http = http
        self.pauses: list[float] = []
        self._registry = registry
        self.generation_id = GenerationId(new_uuid())

    async def generate(self) -> str:
        return (await self.generator.generate(generation_request(), self.generation_id)).code

    async def trip(self) -> None:
        for _ in range(5):
            with pytest.raises(GeneratorUnavailable):
                await self.generate()
        assert self.breaker.problem is not None

    def metric(self, name: str, **labels: str) -> float:
        return self._registry.get_sample_value(name, {"generator": "primary", **labels}) or 0.0

    async def _note(self, seconds: float) -> None:
        self.pauses.append(seconds)


@asynccontextmanager
async def calling(url: str, *, attempt: float = 30.0, total: float = 120.0, retries: int = 3) -> AsyncIterator[Caller]:
    async with http_client(2) as client:
        http = HttpGenerator(client, url, api_key=KEY)
        yield Caller(http, CollectorRegistry(), RetryPolicy(retries=retries), attempt, total)


async def test_request_carries_key_correlation_id_and_idempotency_key() -> None:
    async with listening(program()) as stub, calling(stub.url) as caller:
        with context.bound(context.new_context(correlation_id="c-1")):
            assert await caller.generate() == PROGRAM
    ((headers, body),) = stub.asked
    assert headers["authorization"] == f"Bearer {KEY}"
    assert headers["x-correlation-id"] == "c-1"
    assert headers["idempotency-key"] == str(caller.generation_id)
    assert json.loads(body)["target_runtime"] == "python"


async def test_everything_a_generator_says_is_kept() -> None:
    answer = program(
        synthesis_strategy="hybrid",
        llm_provider="p",
        llm_model="m",
        generation_cost=0.25,
        metadata={"confidence": 0.4, "more": [1]},
        unknown_field=1,
    )
    async with listening(answer) as stub, calling(stub.url) as caller:
        made = await caller.generator.generate(generation_request(), caller.generation_id)
    assert (made.strategy, made.llm_provider, made.llm_model) == (SynthesisStrategy.HYBRID, "p", "m")
    assert (made.cost, made.own_confidence) == (0.25, 0.4)


@pytest.mark.parametrize("confidence", ["high", True, 7, -0.1, None, [1]])
async def test_confidence_that_is_none_counts_as_zero(confidence: object) -> None:
    async with listening(program(metadata={"confidence": confidence})) as stub, calling(stub.url) as caller:
        assert (await caller.generator.generate(generation_request(), caller.generation_id)).own_confidence == 0.0


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (text("<html><body>Welcome</body></html>"), "not JSON"),
        (text(""), "not JSON"),
        (text(b"\xff\xfe"), "not JSON"),
        (text("[" * 100_000), "not JSON"),
        (text("[]"), "breaks the contract"),
        (response(code="x"), "breaks the contract in: success"),
        (response(success=True, code=5), "breaks the contract in: code"),
        (response(success=True), "sends no code"),
        (program(" " * (1024 * 1024 + 1)), "larger than 1048576"),
        (text(" " * 3_000_000), "larger than 2097152"),
        (endless, "larger than 2097152"),
        (text("{}", headers=("Content-Encoding: gzip",)), "compressed"),
        (text("", status=302, headers=("Location: http://127.0.0.1:1/",)), "redirect"),
        (text("", status=400), "HTTP 400"),
        (text("", status=401), "HTTP 401"),
        (text("", status=404), "HTTP 404"),
        (text("", status=413), "HTTP 413"),
        (response(success=False, error_message="cannot do numbers"), "cannot do numbers"),
        (response(success=False), "gave no reason"),
    ],
)
async def test_answer_that_is_no_program_fails_at_once(answer: Answer, reason: str) -> None:
    async with listening(answer) as stub, calling(stub.url) as caller:
        with pytest.raises(GeneratorFailed, match=reason) as failed:
            await caller.generate()
        assert not failed.value.retryable
        assert stub.attempts == 1
    assert KEY not in str(failed.value)


@pytest.mark.parametrize(
    ("bad", "outcome"),
    [
        (text("oops", status=500), "status_5xx"),
        (text("", status=503), "status_5xx"),
        (text("", status=408), "status_4xx"),
        (text("", status=429), "status_4xx"),
        (hang_up, "connection"),
    ],
)
async def test_failure_that_may_pass_is_tried_again(bad: Answer, outcome: str) -> None:
    async with listening(bad, program()) as stub, calling(stub.url) as caller:
        assert await caller.generate() == PROGRAM
        assert stub.attempts == 2
        assert caller.pauses == [0.5]
        assert caller.metric("loopai_generation_attempts_total", outcome=outcome) == 1
        assert caller.metric("loopai_generation_attempts_total", outcome="ok") == 1
        assert caller.metric("loopai_generation_retries_total") == 1


async def test_four_attempts_are_the_most() -> None:
    async with listening(text("", status=500)) as stub, calling(stub.url) as caller:
        with pytest.raises(GeneratorUnavailable, match=r"HTTP 500 \(4 attempts\)"):
            await caller.generate()
        assert stub.attempts == 4
        assert caller.pauses == [0.5, 1.0, 2.0]


async def test_retry_after_is_honoured() -> None:
    async with (
        listening(text("", status=429, headers=("Retry-After: 7",)), program()) as stub,
        calling(stub.url) as caller,
    ):
        assert await caller.generate() == PROGRAM
        assert caller.pauses == [7.0]


async def test_retry_after_beyond_the_deadline_ends_it_at_once() -> None:
    async with (
        listening(text("", status=503, headers=("Retry-After: 3600",))) as stub,
        calling(stub.url) as caller,
    ):
        with pytest.raises(GeneratorUnavailable, match="asks to wait longer"):
            await caller.generate()
        assert (stub.attempts, caller.pauses) == (1, [])


async def test_nobody_there_is_unavailable_after_four_attempts() -> None:
    async with calling(f"http://127.0.0.1:{free_port()}") as caller:
        with pytest.raises(GeneratorUnavailable, match=r"ConnectError.*4 attempts"):
            await caller.generate()
        assert caller.metric("loopai_generation_attempts_total", outcome="connection") == 4


async def test_server_that_drips_bytes_meets_the_deadline_of_the_attempt() -> None:
    async with listening(drip) as stub, calling(stub.url, attempt=0.4, retries=1) as caller:
        started = time.monotonic()
        with pytest.raises(GeneratorUnavailable, match=r"0\.4 seconds \(2 attempts\)"):
            await caller.generate()
        assert stub.attempts == 2
        assert time.monotonic() - started >= 0.8
        assert caller.metric("loopai_generation_attempts_total", outcome="timeout") == 2


async def test_total_deadline_ends_it_in_the_middle_of_an_attempt() -> None:
    async with listening(drip) as stub, calling(stub.url, attempt=60.0, total=0.5) as caller:
        with pytest.raises(GeneratorUnavailable, match=r"0\.5 seconds in total"):
            await caller.generate()
        assert stub.attempts == 1
        assert caller.metric("loopai_generation_attempts_total", outcome="cancelled") == 1


async def test_readiness_says_whether_the_generator_answers() -> None:
    async with listening(program()) as stub, calling(stub.url) as caller:
        assert await caller.http.check() is None
    async with calling(f"http://127.0.0.1:{free_port()}") as caller:
        assert await caller.http.check() == "the generator does not answer (ConnectError)"


async def test_breaker_opens_after_five_failed_calls_and_each_is_told_its_own_cause() -> None:
    async with listening(text("", status=500)) as stub, calling(stub.url, retries=0) as caller:
        for _ in range(5):
            with pytest.raises(GeneratorUnavailable, match="HTTP 500"):
                await caller.generate()
        caller.now = 17.5
        with pytest.raises(GeneratorUnavailable, match="left alone; try again in 13 seconds") as refused:
            await caller.generate()
        assert refused.value.retry_after_seconds == 12.5
        assert stub.attempts == 5
        assert caller.metric("loopai_generator_breaker_state", state="open") == 1
        assert caller.metric("loopai_generator_breaker_state", state="closed") == 0
        assert caller.metric("loopai_generator_breaker_transitions_total", state="open") == 1


async def test_total_deadline_counts_as_a_failed_call() -> None:
    async with listening(drip) as stub, calling(stub.url, attempt=60.0, total=0.1) as caller:
        await caller.trip()
        assert stub.attempts == 5


@pytest.mark.parametrize("bad", [hang_up, text("", status=503), text("", status=429)])
async def test_call_with_all_its_retries_counts_once(bad: Answer) -> None:
    async with listening(bad) as stub, calling(stub.url) as caller:
        await caller.trip()
        assert stub.attempts == 20


@pytest.mark.parametrize(
    "alive",
    [
        response(success=False, error_message="no"),
        text("", status=401),
        text("", status=302, headers=("Location: http://127.0.0.1:1/",)),
        text("<html>"),
    ],
)
async def test_generator_that_answers_is_never_left_alone(alive: Answer) -> None:
    async with listening(alive) as stub, calling(stub.url) as caller:
        for _ in range(12):
            with pytest.raises(GeneratorFailed) as failed:
                await caller.generate()
            assert not failed.value.retryable
        assert stub.attempts == 12
        assert caller.breaker.problem is None


async def test_of_200_callers_at_a_half_open_breaker_one_probes() -> None:
    asked, gate = asyncio.Event(), asyncio.Event()

    async def slowly(writer: asyncio.StreamWriter) -> None:
        asked.set()
        await gate.wait()
        await program()(writer)

    async with (
        listening(*[text("", status=500)] * 5, slowly, program()) as stub,
        calling(stub.url, retries=0) as caller,
    ):
        await caller.trip()
        caller.now = 30.0
        callers = [asyncio.create_task(caller.generate()) for _ in range(200)]
        await asked.wait()
        refused = [task for task in callers if task.done()]
        assert (len(refused), stub.attempts) == (199, 6)
        assert {type(task.exception()) for task in refused} == {GeneratorUnavailable}
        assert caller.metric("loopai_generator_breaker_state", state="half_open") == 1
        gate.set()
        (probe,) = set(callers) - set(refused)
        assert await probe == PROGRAM
        assert stub.attempts == 6
        assert caller.breaker.problem is None
        assert await caller.generate() == PROGRAM


async def test_probe_that_is_cancelled_leaves_its_place_to_the_next() -> None:
    asked = asyncio.Event()

    async def never(writer: asyncio.StreamWriter) -> None:
        asked.set()
        await asyncio.Event().wait()

    async with listening(*[DOWN] * 5, never, program()) as stub, calling(stub.url, retries=0) as caller:
        await caller.trip()
        caller.now = 30.0
        probe = asyncio.create_task(caller.generate())
        await asked.wait()
        probe.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probe
        assert caller.breaker.problem is not None
        assert await caller.generate() == PROGRAM
        assert stub.attempts == 7
        assert caller.breaker.problem is None
