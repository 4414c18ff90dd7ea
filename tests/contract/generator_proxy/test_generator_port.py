"""What the generator-proxy relies on, whichever generator stands behind the URL."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry

from loopai_common.contracts.base import GenerationId
from loopai_common.errors import GeneratorFailed
from loopai_common.identifiers import new_uuid
from loopai_generator_proxy.adapters.http_generator import HttpGenerator, http_client
from loopai_generator_proxy.domain import GeneratorRole, RetryPolicy
from loopai_generator_proxy.metrics import GenerationMetrics
from loopai_generator_proxy.ports import Generator
from loopai_generator_proxy.resilience import CircuitBreaker, ResilientGenerator
from tests.support.service_process import ServiceProcess
from tests.support.sms import generation_request, load, messages
from tests.support.stub_http import Answer, StubHttpServer

FOREIGN = "def classify(text):\n    return 'spam' if 'claim' in text.lower() else 'ham'\n"
BEYOND_REACH = {"type": "object", "required": ["a", "b"]}


@pytest.fixture(params=["reference", "foreign"])
async def generator(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Generator]:
    """The port over HTTP, to our generator and to one that only speaks the contract's required fields."""
    if request.param == "reference":
        with ServiceProcess("loopai_generator.main", "LOOPAI_GENERATOR_", tmp_path / "log", {}) as process:
            async with http_client(2) as client:
                yield http_generator(client, process.url)
        return
    script = [Answer({"success": True, "code": FOREIGN, "entry_point": "classify"})] * 2
    declined = Answer({"success": False, "error_message": "cannot do that"})
    with StubHttpServer({"POST /generate": [*script, declined]}) as stub:
        async with http_client(2) as client:
            yield http_generator(client, stub.url)


def http_generator(client: httpx.AsyncClient, url: str) -> Generator:
    observer = GenerationMetrics(CollectorRegistry()).calls_to(GeneratorRole.PRIMARY)
    return ResilientGenerator(
        HttpGenerator(client, url, api_key=None).attempt,
        CircuitBreaker(failures=5, open_seconds=30.0, on_change=observer.breaker_changed),
        observer,
        policy=RetryPolicy(),
        attempt_timeout_seconds=90.0,
        total_timeout_seconds=120.0,
    )


async def test_programs_run_and_what_is_beyond_reach_is_declined(generator: Generator) -> None:
    known = messages()[:300]
    first = await generator.generate(generation_request(known), GenerationId(new_uuid()))
    again = await generator.generate(generation_request(known), GenerationId(new_uuid()))
    assert first.code == again.code
    assert 0.0 <= first.own_confidence <= 1.0
    assert first.cost >= 0.0
    run = load(first.code, first.entry_point)
    sample = known[0].input
    assert isinstance(sample, dict)
    assert run(sample["text"] if first.entry_point == "classify" else sample) in {"ham", "spam"}
    with pytest.raises(GeneratorFailed) as declined:
        await generator.generate(generation_request(output_schema=BEYOND_REACH), GenerationId(new_uuid()))
    assert declined.value.message
    assert not declined.value.retryable
