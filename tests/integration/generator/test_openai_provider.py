"""A language model as the provider: what is asked of the endpoint, and how the generator behaves around it."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from loopai_common.contracts.generation import FailingCase, PreviousProgram
from loopai_common.runtime.settings import SettingsError, load_settings
from loopai_generator.domain import text_of
from loopai_generator.settings import GeneratorSettings
from tests.integration.generator.openai_generator import COMPLETIONS, KEY, answer, generate, generator
from tests.support.processes import descendants
from tests.support.service_process import ServiceProcess
from tests.support.sms import generation_request, messages
from tests.support.stub_http import Answer, StubHttpServer

AZURE = "/openai/deployments/writer/chat/completions?api-version=2024-10-21"
HANGING = Answer("", drip_seconds=0.05)


@pytest.mark.parametrize(
    ("path", "settings", "asked_path", "headers", "parameters"),
    [
        ("/v1", {}, "/v1/chat/completions", {"Authorization": f"Bearer {KEY}"}, {}),
        ("/v1/", {}, "/v1/chat/completions", {"Authorization": f"Bearer {KEY}"}, {}),
        (
            "/v1",
            {"OPENAI_MAX_TOKENS": "4000", "OPENAI_TEMPERATURE": "0"},
            "/v1/chat/completions",
            {"Authorization": f"Bearer {KEY}"},
            {"max_completion_tokens": 4000, "temperature": 0.0},
        ),
        (
            "/openai/deployments/writer",
            {"OPENAI_API_KEY_HEADER": "api-key", "OPENAI_API_VERSION": "2024-10-21"},
            AZURE,
            {"api-key": KEY, "Authorization": None},
            {},
        ),
        (
            "/openai/v1",
            {"OPENAI_API_KEY_HEADER": "api-key"},
            "/openai/v1/chat/completions",
            {"api-key": KEY, "Authorization": None},
            {},
        ),
        (
            "/v1",
            {
                "OPENAI_MODEL": "qwen3:8b",
                "OPENAI_MAX_TOKENS": "2000",
                "OPENAI_MAX_TOKENS_PARAMETER": "max_tokens",
            },
            "/v1/chat/completions",
            {},
            {"model": "qwen3:8b", "max_tokens": 2000},
        ),
    ],
    ids=["openai", "openai with a slash", "openai with limits", "azure by deployment", "azure v1", "ollama and vllm"],
)
async def test_endpoint_is_asked_in_its_own_way(
    path: str, settings: dict[str, str], asked_path: str, headers: dict[str, str | None], parameters: dict[str, Any]
) -> None:
    with StubHttpServer({f"POST {asked_path}": answer()}) as stub:
        async with generator(stub, path, **settings) as client:
            answered = await generate(client)
    assert answered.json()["success"], answered.text
    (asked,) = stub.asked
    sent = {name.lower(): value for name, value in asked.headers.items()}
    assert {name: sent.get(name.lower()) for name in headers} == headers
    assert (sent["content-type"], sent["accept-encoding"]) == ("application/json", "identity")
    assert {key: value for key, value in asked.body.items() if key != "messages"} == {
        "model": "gpt-4.1-mini",
        "stream": False,
        **parameters,
    }
    assert [message["role"] for message in asked.body["messages"]] == ["system", "user"]


async def test_no_key_is_sent_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-somebody-elses")
    with StubHttpServer({COMPLETIONS: answer()}) as stub:
        variables = {"LOOPAI_GENERATOR_OPENAI_BASE_URL": f"{stub.url}/v1", "LOOPAI_GENERATOR_OPENAI_MODEL": "m"}
        settings = load_settings(GeneratorSettings, "generator", variables)
        async with generator(stub, OPENAI_MODEL="m") as client:
            await generate(client)
    assert settings.openai_api_key is None
    assert "somebody" not in str(stub.asked[0].headers)


async def test_the_prompt_holds_the_task_and_on_a_later_round_what_failed() -> None:
    previous = PreviousProgram(
        code="def run(input):\n    return 'ham'\n",
        failures=(FailingCase(input={"text": "win a prize"}, expected="spam", actual="ham"),),
    )
    with StubHttpServer({COMPLETIONS: answer()}) as stub:
        async with generator(stub) as client:
            await generate(client, examples=messages()[:200], constraints="Links are spam.", previous=previous)
    system, user = (message["content"] for message in stub.asked[0].body["messages"])
    assert "def" not in user.split("Examples")[0]
    assert "`run(input)`" in system
    for part in ("Decide whether a text message is spam or ham.", '"enum":["ham","spam"]', "Links are spam."):
        assert part in user
    assert '"output":"spam"' in user
    assert "Examples (40 of 200" in user
    assert '{"input":{"text":"win a prize"},"expected":"spam","actual":"ham"}' in user
    assert previous.code in user


async def test_correlation_id_goes_along_and_the_idempotency_key_is_one_for_each_question() -> None:
    bad = answer("def run(input)\n")
    with StubHttpServer({COMPLETIONS: [bad, answer(), bad, answer(), answer()]}) as stub:
        async with generator(stub) as client:
            for _ in range(2):
                await generate(client, {"X-Correlation-ID": "c-1", "Idempotency-Key": "g-1"}, task_id=TASK)
            await generate(client, {"Idempotency-Key": "g-2"}, task_id=TASK)
    assert [asked.headers["X-Correlation-ID"] for asked in stub.asked[:4]] == ["c-1"] * 4
    first, repair, again, repair_again, other = (asked.headers["Idempotency-Key"] for asked in stub.asked)
    assert (first, repair) == (again, repair_again)
    assert len({first, repair, other}) == 3


TASK = "0199f1f0-0000-7000-8000-000000000001"


async def test_a_price_that_is_not_known_is_said() -> None:
    with StubHttpServer({COMPLETIONS: answer(model="llama3.2:3b")}) as stub:
        async with generator(stub, OPENAI_MODEL="llama3.2") as client:
            body = (await generate(client)).json()
    assert (body["generation_cost"], body["metadata"]["cost_known"]) == (0.0, False)
    assert "no price for llama3.2:3b" in body["metadata"]["notes"][0]
    assert (body["metadata"]["prompt_tokens"], body["metadata"]["completion_tokens"]) == (100, 50)


async def test_model_that_drips_without_end_is_given_up_in_time() -> None:
    with StubHttpServer({COMPLETIONS: HANGING}) as stub:
        async with generator(stub, OPENAI_TIMEOUT_SECONDS="0.3") as client:
            answered = await generate(client)
        assert len(stub.asked) == 1
    assert (answered.status_code, answered.json()["retryable"]) == (504, True)
    assert "0.3 seconds" in answered.json()["message"]


async def test_answer_beyond_two_megabytes_is_refused() -> None:
    with StubHttpServer({COMPLETIONS: answer("#" * (2 * 1024 * 1024))}) as stub:
        async with generator(stub) as client:
            body = (await generate(client)).json()
    assert body["success"] is False
    assert "larger than 2097152 bytes" in body["error_message"]


async def test_compressed_answer_is_refused() -> None:
    with StubHttpServer({COMPLETIONS: Answer("x", headers={"Content-Encoding": "gzip"})}) as stub:
        async with generator(stub) as client:
            body = (await generate(client)).json()
    assert "compressed" in body["error_message"]


async def test_endpoint_that_is_not_there_is_retryable() -> None:
    with StubHttpServer({}) as stub:
        pass
    async with generator(stub) as client:
        answered = await generate(client)
    assert answered.status_code == 502
    assert "ConnectError" in answered.json()["message"]


async def test_more_requests_than_may_be_in_flight_are_refused() -> None:
    with StubHttpServer({COMPLETIONS: HANGING}) as stub:
        settings = {"CONCURRENCY": "1", "MAX_WAITING": "1", "OPENAI_TIMEOUT_SECONDS": "1"}
        async with generator(stub, **settings) as client:
            answers = await asyncio.gather(*(generate(client) for _ in range(3)))
    assert sorted(answered.status_code for answered in answers) == [503, 504, 504]


async def test_readiness_says_how_the_last_call_failed() -> None:
    with StubHttpServer({COMPLETIONS: [Answer({}, 401), answer()]}) as stub:
        async with generator(stub) as client:
            states = []
            for _ in range(3):
                states.append((await client.get("/health/ready")).json()["checks"]["language_model"])
                await generate(client)
    assert [state["status"] for state in states] == ["healthy", "degraded", "healthy"]
    assert "OPENAI_API_KEY" in states[1]["detail"]


def test_process_starts_no_learner_and_logs_neither_key_nor_input(tmp_path: Path) -> None:
    with StubHttpServer({COMPLETIONS: [Answer({"error": {"message": "wrong key"}}, 401), answer()]}) as stub:
        environment = {
            "LOOPAI_GENERATOR_OPENAI_BASE_URL": f"{stub.url}/v1",
            "LOOPAI_GENERATOR_OPENAI_MODEL": "gpt-4.1-mini",
            "LOOPAI_GENERATOR_OPENAI_API_KEY": KEY,
            "LOOPAI_GENERATOR_OPENAI_PRICES": json.dumps({"gpt-4.1-mini": {"input": 10, "output": 20}}),
            "LOOPAI_GENERATOR_LOG_LEVEL": "debug",
        }
        with ServiceProcess("loopai_generator.main", "LOOPAI_GENERATOR_", tmp_path / "log", environment) as process:
            body = generation_request(messages()[:20]).model_dump_json()
            answers = [httpx.post(f"{process.url}/generate", content=body, timeout=60).json() for _ in range(2)]
            assert descendants(process.pid) == []
            assert process.stop() == 0
            log = process.log
    assert [answered["success"] for answered in answers] == [False, True]
    assert answers[1]["generation_cost"] == pytest.approx((100 * 10 + 50 * 20) / 1e6)
    assert KEY not in log
    assert text_of(messages()[0].input, ("text",)) not in log
    assert "language_model_failed" in log


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"PROVIDER": "openai"}, "openai_base_url is needed"),
        ({"OPENAI_BASE_URL": "http://127.0.0.1:1/v1"}, "openai_model is needed"),
        ({"OPENAI_BASE_URL": "ftp://127.0.0.1/v1"}, "OPENAI_BASE_URL"),
        ({"OPENAI_PRICES": '{"m": {"input": -1, "output": 1}}'}, "OPENAI_PRICES"),
        ({"OPENAI_PRICES": "cheap"}, "OPENAI_PRICES"),
        ({"OPENAI_TEMPERATURE": "3"}, "OPENAI_TEMPERATURE"),
        ({"PROVIDER": "oracle"}, "PROVIDER"),
    ],
)
def test_bad_settings_are_refused_with_a_sentence(settings: dict[str, str], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        load_settings(GeneratorSettings, "generator", {f"LOOPAI_GENERATOR_{k}": v for k, v in settings.items()})


def test_settings_show_no_key() -> None:
    settings = load_settings(GeneratorSettings, "generator", {"LOOPAI_GENERATOR_OPENAI_API_KEY": KEY})
    assert KEY not in repr(settings)
    assert settings.provider == "auto"
