"""A generator that has a stub for a language model, in the test's own process."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from loopai_common.runtime.settings import load_settings
from loopai_generator.main import create_app
from loopai_generator.settings import GeneratorSettings
from tests.support.sms import generation_request
from tests.support.stub_http import Answer, StubHttpServer

KEY = "sk-secret-key-of-the-test"
COMPLETIONS = "POST /v1/chat/completions"
PRICES = {"gpt-4.1-mini": {"input": 0.4, "output": 1.6}}
PROGRAM = 'def run(input):\n    return "spam" if "prize" in input["text"].lower() else "ham"\n'


def answer(code: str = PROGRAM, **fields: Any) -> Answer:
    """A completion that holds the program."""
    message = {"role": "assistant", "content": f"```python\n{code}```"}
    usage = {"prompt_tokens": 100, "completion_tokens": 50}
    return Answer({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage, **fields})


@asynccontextmanager
async def generator(stub: StubHttpServer, path: str = "/v1", **settings: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a generator whose language model is the stub; ``settings`` are those of ``OPENAI_…``."""
    environment = {
        "OPENAI_BASE_URL": f"{stub.url}{path}",
        "OPENAI_MODEL": "gpt-4.1-mini",
        "OPENAI_API_KEY": KEY,
        "OPENAI_PRICES": json.dumps(PRICES),
        **settings,
    }
    variables = {f"LOOPAI_GENERATOR_{name}": value for name, value in environment.items()}
    app = create_app(load_settings(GeneratorSettings, "generator", variables))
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://generator", timeout=60) as client:
            yield client


async def generate(client: httpx.AsyncClient, headers: dict[str, str] | None = None, **changes: Any) -> httpx.Response:
    """Asks for a program that tells spam from ham."""
    body = generation_request(**changes).model_dump_json()
    return await client.post("/generate", content=body, headers=headers or {})
