"""The generator's HTTP contract, against the real process."""

import asyncio
import os
import signal
from pathlib import Path

import httpx
import pytest

from loopai_common.contracts.generation import GenerationRequest, GenerationResponse
from tests.support.processes import alive, descendants, wait_for, wait_until_gone
from tests.support.service_process import ServiceProcess
from tests.support.sms import accuracy, generation_request, messages, parts

PATIENCE = 90.0
"""Seconds: the machine may be busy, and a learner process imports for a second or more."""


def post(generator: ServiceProcess, request: GenerationRequest) -> httpx.Response:
    return httpx.post(f"{generator.url}/generate", content=request.model_dump_json(), timeout=PATIENCE)


def start(tmp_path: Path, **settings: str) -> ServiceProcess:
    return ServiceProcess("loopai_generator.main", "LOOPAI_GENERATOR_", tmp_path / "log", settings)


def test_learns_spam_from_real_messages(generator: ServiceProcess) -> None:
    known, unseen = parts()
    answer = post(generator, generation_request(known))
    response = GenerationResponse.model_validate_json(answer.content)
    assert answer.status_code == 200
    assert response.success
    assert response.code is not None
    assert response.generated_at is not None
    assert accuracy(response.code, unseen) >= 0.975


def test_same_request_gives_the_same_program(generator: ServiceProcess) -> None:
    request = generation_request(messages()[:200])
    assert post(generator, request).json()["code"] == post(generator, request).json()["code"]


def test_task_beyond_reach_is_declined_with_advice(generator: ServiceProcess) -> None:
    answer = post(generator, generation_request(output_schema={"type": "string"}))
    assert (answer.status_code, answer.json()["success"], answer.json()["code"]) == (200, False, None)
    assert "enum" in answer.json()["error_message"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "malformed_json"),
        (b"{", 400, "malformed_json"),
        (b"\xff", 400, "malformed_json"),
        (b'{"a": NaN}', 400, "malformed_json"),
        (b"[" * 100_000, 400, "malformed_json"),
        (b"[]", 400, "validation_error"),
        (b"{}", 400, "validation_error"),
        (b" " * (8 * 1024 * 1024 + 1), 413, "body_too_large"),
    ],
)
def test_bad_body_is_answered_with_its_code(generator: ServiceProcess, body: bytes, status: int, code: str) -> None:
    answer = httpx.post(f"{generator.url}/generate", content=body, timeout=PATIENCE)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json()["message"]


def test_schema_that_is_none_is_refused_by_name(generator: ServiceProcess) -> None:
    answer = post(generator, generation_request(output_schema={"type": "nonsense"}))
    assert answer.status_code == 400
    assert [detail["field"].split("/")[0] for detail in answer.json()["details"]] == ["output_schema"]


def test_unknown_path_and_method_have_the_same_form(generator: ServiceProcess) -> None:
    assert httpx.get(f"{generator.url}/nothing").json()["code"] == "not_found"
    assert httpx.get(f"{generator.url}/generate").json()["code"] == "method_not_allowed"


async def test_health_answers_while_a_program_is_learned(generator: ServiceProcess) -> None:
    known, _ = parts()
    async with httpx.AsyncClient(base_url=generator.url, timeout=PATIENCE) as client:
        learning = asyncio.create_task(client.post("/generate", content=generation_request(known).model_dump_json()))
        answered = 0
        while not learning.done():
            assert (await client.get("/health")).status_code == 200
            answered += 1
        assert (await learning).json()["success"]
        assert answered > 3


async def test_client_that_leaves_takes_the_work_with_it(generator: ServiceProcess) -> None:
    known, _ = parts()

    async def shown(line: str) -> None:
        await asyncio.to_thread(wait_for, lambda: line in httpx.get(f"{generator.url}/metrics").text, line)

    async with httpx.AsyncClient(base_url=generator.url, timeout=PATIENCE) as client:
        learning = asyncio.create_task(client.post("/generate", content=generation_request(known).model_dump_json()))
        await shown("loopai_generator_in_flight 1.0")
        learning.cancel()
        await shown('loopai_generator_generations_total{outcome="cancelled"} 1.0')
        await shown("loopai_generator_in_flight 0.0")
    assert len(descendants(generator.pid)) <= 1


def test_spare_learner_that_died_is_replaced(tmp_path: Path) -> None:
    with start(tmp_path) as generator:
        (spare,) = descendants(generator.pid)
        os.kill(spare, signal.SIGKILL)
        wait_until_gone([spare])
        assert post(generator, generation_request(messages()[:50])).json()["success"]


async def test_more_requests_than_may_wait_are_refused(tmp_path: Path) -> None:
    known, _ = parts()
    body = generation_request(known).model_dump_json()
    with start(tmp_path, LOOPAI_GENERATOR_CONCURRENCY="1", LOOPAI_GENERATOR_MAX_WAITING="0") as generator:
        async with httpx.AsyncClient(base_url=generator.url, timeout=PATIENCE) as client:
            answers = await asyncio.gather(*(client.post("/generate", content=body) for _ in range(3)))
    assert sorted(answer.status_code for answer in answers) == [200, 503, 503]
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert refused.json()["code"] == "overloaded"
    assert int(refused.headers["Retry-After"]) > 0


def test_learning_that_takes_too_long_is_declined(tmp_path: Path) -> None:
    known, _ = parts()
    with start(tmp_path, LOOPAI_GENERATOR_LEARN_TIMEOUT_SECONDS="0.05") as generator:
        answer = post(generator, generation_request(known)).json()
    assert answer["success"] is False
    assert "give fewer examples" in answer["error_message"]


def test_sigterm_ends_it_and_its_learners_with_exit_code_0(tmp_path: Path) -> None:
    with start(tmp_path) as generator:
        learners = descendants(generator.pid)
        assert len(learners) == 1
        assert all(map(alive, learners))
        assert generator.stop() == 0
    wait_until_gone(learners)
