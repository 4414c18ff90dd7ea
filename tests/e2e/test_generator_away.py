"""A product whose generator is away: how often it is asked over all layers, and what stands in for it."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.integration.generator_proxy.bad_generator import BadGenerator, listening, text
from tests.support.bus import jetstream_of
from tests.support.product import V1, Product, eventually
from tests.support.stack import LocalStack

ATTEMPTS = 4
CALLS_TO_TRIP = 5
EXAMPLES = [
    {"input": {"text": f"claim your prize {n}" if n % 2 else f"see you at {n}"}, "output": "spam" if n % 2 else "ham"}
    for n in range(8)
]


@pytest.fixture
async def generator() -> AsyncIterator[BadGenerator]:
    """One that answers every request with 500."""
    async with listening(text("", status=500)) as bad:
        yield bad


@pytest.fixture
async def product(generator: BadGenerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Product]:
    """The whole stack with that generator as an outside one, which is left alone for longer than the test takes."""
    monkeypatch.setenv("LOOPAI_GENERATOR_PROXY_BREAKER_OPEN_SECONDS", "3600")
    stack = LocalStack(tmp_path / "stack", generator_url=generator.url)
    await asyncio.to_thread(stack.start)
    try:
        async with Product.connect(stack) as connected:
            yield connected
    finally:
        await asyncio.to_thread(stack.stop)


async def test_four_attempts_a_generation_then_none_and_something_stands_in(
    product: Product, generator: BadGenerator
) -> None:
    first = await product.create(examples=EXAMPLES)
    assert generator.attempts == ATTEMPTS
    made = (await product.http.get(f"{V1}/tasks/{first['id']}/artifacts/1")).json()
    assert (first["status"], made["status"], made["fallback"]) == ("ready", "active", "learner")
    assert await product.output(first["id"], {"text": "claim your prize now"}) == "spam"

    heard: list[dict[str, Any]] = []

    async def on_failed(message: Any) -> None:
        heard.append(json.loads(message.data))

    await product.nats.subscribe("loopai.evt.v1.task.failed", cb=on_failed)
    await product.nats.flush()
    started = await product.http.post(f"{V1}/tasks/{first['id']}/generate")
    await eventually(lambda: heard)
    assert (heard[0]["generation_id"], heard[0]["fallback_version"]) == (started.json()["generation_id"], 1)
    task = (await product.http.get(f"{V1}/tasks/{first['id']}")).json()
    assert (task["status"], task["active_version"], task["total_versions"]) == ("ready", 1, 1)
    assert generator.attempts == 2 * ATTEMPTS

    await asyncio.gather(*(product.create(examples=EXAMPLES) for _ in range(CALLS_TO_TRIP - 2)))
    assert generator.attempts == CALLS_TO_TRIP * ATTEMPTS
    pong = json.loads((await product.request("loopai.rpc.v1.ping.generator-proxy", b"{}")).data)
    assert pong["status"] == "degraded"
    assert "circuit_breaker: the circuit breaker is open" in pong["detail"]

    at_once = await product.create(name=f"at-once-{uuid4().hex[:8]}", examples=EXAMPLES)
    made = (await product.http.get(f"{V1}/tasks/{at_once['id']}/artifacts/1")).json()
    assert (at_once["status"], made["fallback"]) == ("ready", "learner")
    assert generator.attempts == CALLS_TO_TRIP * ATTEMPTS
    assert len({headers["idempotency-key"] for headers, _ in generator.asked}) == CALLS_TO_TRIP
    letters = await jetstream_of(product.nats).stream_info("LOOPAI_DEAD_LETTERS")
    assert letters.state.messages == 0
