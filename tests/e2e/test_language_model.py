"""The whole product with a language model behind the generator, told by the environment as `loopai up` would be."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.product import V1, Product
from tests.support.stack import LocalStack
from tests.support.stub_http import Answer, StubHttpServer

NAMES = ("Ann Lee", "Bob Ray", "Cy Fox", "Di Orr", "Ed Poe", "Flo Kay", "Gil Day", "Hal Coe", "Ida Dow", "Jo Ash")
EXAMPLES = [
    {"input": {"text": f"{name} <{name.lower().replace(' ', '.')}@x.org>"}, "output": {"first": name.split()[0]}}
    for name in (*NAMES, "anna-lena vogt", "bernd-uwe klein")
]
ALMOST = 'def run(input):\n    return {"first": input["text"].split()[0].title()}\n'
RIGHT = 'def run(input):\n    return {"first": input["text"].split()[0]}\n'


def answer(code: str) -> Answer:
    """A completion that cost 0.0004 USD."""
    return Answer(
        {
            "model": "gpt-4.1-mini-2025-04-14",
            "choices": [
                {"message": {"role": "assistant", "content": f"```python\n{code}```"}, "finish_reason": "stop"}
            ],
            "usage": {"prompt_tokens": 600, "completion_tokens": 100},
        }
    )


@pytest.fixture
def model() -> Iterator[StubHttpServer]:
    """A language model that is busy first, then nearly right, then right."""
    busy = Answer({"error": {"code": "rate_limit_exceeded"}}, 429, {"Retry-After": "0"})
    with StubHttpServer({"POST /v1/chat/completions": [busy, answer(ALMOST), answer(RIGHT)]}) as stub:
        yield stub


@pytest.fixture
def stack(model: StubHttpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalStack]:
    """A stack that is told about it."""
    monkeypatch.setenv("LOOPAI_GENERATOR_OPENAI_BASE_URL", f"{model.url}/v1")
    monkeypatch.setenv("LOOPAI_GENERATOR_OPENAI_MODEL", "gpt-4.1-mini")
    monkeypatch.setenv("LOOPAI_GENERATOR_OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("LOOPAI_GENERATOR_OPENAI_PRICES", json.dumps({"gpt-4.1-mini": {"input": 0.4, "output": 1.6}}))
    with LocalStack(tmp_path / "stack") as running:
        yield running


async def test_a_task_beyond_the_learner_is_written_improved_and_run(model: StubHttpServer, stack: LocalStack) -> None:
    async with Product.connect(stack) as product:
        schema = {"type": "object", "properties": {"first": {"type": "string"}}, "required": ["first"]}
        task = await product.create(
            description="The first name of a mail address.",
            output_schema=schema,
            examples=EXAMPLES,
            accuracy_target=1.0,
        )
        assert (task["status"], task["active_version"]) == ("ready", 1), task["status_reason"]
        assert await product.output(task["id"], {"text": "Kim Jong <k@x.org>"}) == {"first": "Kim"}
        artifact = (await product.http.get(f"{V1}/tasks/{task['id']}/artifacts/1")).json()
    assert artifact["code"] == RIGHT
    assert (artifact["llm_provider"], artifact["llm_model"]) == ("openai", "gpt-4.1-mini-2025-04-14")
    assert artifact["generation_cost"] == pytest.approx(0.0008)
    assert artifact["validation"]["held_back"]["total"] > 0
    assert artifact["validation"]["accuracy"] == 1.0
    busy, first, second = (asked.body["messages"][-1]["content"] for asked in model.asked)
    assert first == busy
    assert ALMOST in second
    assert_only_shown_examples_were_sent(second, artifact["validation"])


def assert_only_shown_examples_were_sent(prompt: str, report: dict[str, Any]) -> None:
    """What is held back for the check never reaches the model."""
    sent = [example for example in EXAMPLES if example["input"]["text"] in prompt]
    assert len(sent) == report["shown"]["total"]
