"""Every answer that a language model's endpoint is known to give, good or malformed, over real HTTP.

Each file of ``tests/data/openai_answers`` holds what the endpoint answers, call by call, and what the generator makes
of it.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from loopai_common.contracts.generation import GenerationResponse
from tests.integration.generator.openai_generator import COMPLETIONS, KEY, generate, generator
from tests.support.sms import load
from tests.support.stub_http import Answer, StubHttpServer

CASES = {path.stem: path for path in sorted((Path(__file__).parents[2] / "data" / "openai_answers").glob("*.json"))}


@pytest.mark.parametrize("name", CASES)
async def test_answer_is_understood(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    case = json.loads(CASES[name].read_text(encoding="utf-8"))
    expected: dict[str, Any] = case["expect"]
    with StubHttpServer({COMPLETIONS: [Answer(**said) for said in case["answers"]]}) as stub:
        async with generator(stub) as client:
            answered = await generate(client)
    body = answered.json()
    assert answered.status_code == expected.get("status", 200), body
    assert len(stub.asked) == expected["calls"]
    if "status" in expected:
        assert (body["code"], body["retryable"]) == ("generator_failed", True)
        assert expected["error"] in body["message"]
        assert answered.headers.get("Retry-After") == expected.get("retry_after")
    else:
        assert body.keys() == GenerationResponse.model_fields.keys()
        assert body["success"] is expected["success"], body["error_message"]
        assert body["llm_provider"] == "openai"
    if expected.get("success"):
        assert_runs(body, expected)
    elif "success" in expected:
        assert body["code"] is None
        assert expected["error"] in body["error_message"]
    if "told" in expected:
        assert expected["told"] in stub.asked[1].body["messages"][-1]["content"]
    if "cost" in expected:
        assert body["generation_cost"] == pytest.approx(expected["cost"])
    said = "".join(capfd.readouterr())
    for text in (answered.text, said):
        assert re.search(f"SECRET|{KEY}", text) is None


def assert_runs(body: dict[str, Any], expected: dict[str, Any]) -> None:
    """The program is the one that the answer holds."""
    assert body["entry_point"] == expected["entry_point"]
    assert body["metadata"]["calls"] == expected["calls"]
    program = load(body["code"], body["entry_point"])
    for given, output in expected["runs"]:
        assert program(given) == output
    if "model" in expected:
        assert body["llm_model"] == expected["model"]
    if "cost_known" in expected:
        assert body["metadata"]["cost_known"] is expected["cost_known"]
        assert bool(body["metadata"]["notes"]) is not expected["cost_known"]


def test_there_are_cases() -> None:
    assert len(CASES) > 40
