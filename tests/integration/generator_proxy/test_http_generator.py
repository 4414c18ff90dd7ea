"""The HTTP adapter against generators that are bad in every way we know."""

import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from loopai_client.local.nats_server import free_port
from loopai_common.contracts.artifacts import SynthesisStrategy
from loopai_common.contracts.base import GenerationId
from loopai_common.errors import GeneratorFailed, GeneratorUnavailable
from loopai_common.identifiers import new_uuid
from loopai_common.runtime import context
from loopai_generator_proxy.adapters.http_generator import HttpGenerator, http_client
from loopai_generator_proxy.domain import RetryPolicy
from loopai_generator_proxy.metrics import GenerationMetrics
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

KEY = "key-that-must-not-be-seen"


class Caller:
    """The adapter, with pauses that are noted instead of waited for."""

    def __init__(self, generator: HttpGenerator, pauses: list[float], registry: CollectorRegistry) -> None:
        self.generator = generator
        self.pauses = pauses
        self._registry = registry
        self.generation_id = GenerationId(new_uuid())

    async def generate(self) -> str:
        return (await self.generator.generate(generation_request(), self.generation_id)).code

    def metric(self, line: str) -> float:
        found = re.search(rf"^{re.escape(line)} (.*)$", generate_latest(self._registry).decode(), re.MULTILINE)
        return float(found.group(1)) if found else 0.0


@asynccontextmanager
async def calling(url: str, *, attempt: float = 30.0, total: float = 120.0, retries: int = 3) -> AsyncIterator[Caller]:
    pauses: list[float] = []

    async def note(seconds: float) -> None:
        pauses.append(seconds)

    registry = CollectorRegistry()
    async with http_client(2) as client:
        generator = HttpGenerator(
            client,
            url,
            GenerationMetrics(registry),
            api_key=KEY,
            policy=RetryPolicy(retries=retries),
            attempt_timeout_seconds=attempt,
            total_timeout_seconds=total,
            sleep=note,
            draw=lambda: 0.5,
        )
        yield Caller(generator, pauses, registry)


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
        assert caller.metric(f'loopai_generation_attempts_total{{outcome="{outcome}"}}') == 1
        assert caller.metric('loopai_generation_attempts_total{outcome="ok"}') == 1
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
        assert caller.metric('loopai_generation_attempts_total{outcome="connection"}') == 4


async def test_server_that_drips_bytes_meets_the_deadline_of_the_attempt() -> None:
    async with listening(drip) as stub, calling(stub.url, attempt=0.4, retries=1) as caller:
        started = time.monotonic()
        with pytest.raises(GeneratorUnavailable, match=r"0\.4 seconds \(2 attempts\)"):
            await caller.generate()
        assert stub.attempts == 2
        assert time.monotonic() - started >= 0.8
        assert caller.metric('loopai_generation_attempts_total{outcome="timeout"}') == 2


async def test_total_deadline_ends_it_in_the_middle_of_an_attempt() -> None:
    async with listening(drip) as stub, calling(stub.url, attempt=60.0, total=0.5) as caller:
        with pytest.raises(GeneratorUnavailable, match=r"0\.5 seconds in total"):
            await caller.generate()
        assert stub.attempts == 1
        assert caller.metric('loopai_generation_attempts_total{outcome="cancelled"}') == 1


async def test_readiness_says_whether_the_generator_answers() -> None:
    async with listening(program()) as stub, calling(stub.url) as caller:
        assert await caller.generator.check() is None
    async with calling(f"http://127.0.0.1:{free_port()}") as caller:
        assert await caller.generator.check() == "the generator does not answer (ConnectError)"
