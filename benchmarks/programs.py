"""Programs for the benchmarks, published over NATS: no generator takes part, and each is a version like any other."""

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import nats
from nats.aio.client import Client

from loopai_common.contracts import subjects
from loopai_common.contracts.failure import ERROR_CODE_HEADER

TINY = 'def run(input):\n    return "spam" if "free" in input["text"] else "ham"\n'
"""The smallest text classifier: what it costs beside the path is next to nothing."""

_TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
_SECONDS = 20.0
_GENERATION_SECONDS = 60.0
_ENDED = frozenset({"ready", "failed"})
_CONCURRENT = 16

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Published:
    """A task and the version that was published."""

    task_id: str
    version: int


def classifier(number: int) -> str:
    """A small text classifier that differs from the others."""
    words = ", ".join(repr(f"{word}{number}") for word in ("free", "prize", "claim", "txt", "urgent"))
    return (
        f"WORDS = ({words}, 'free')\n\n\ndef run(input):\n    text = input['text'].lower()\n"
        "    return 'spam' if any(word in text for word in WORDS) else 'ham'\n"
    )


def publish_tiny(nats_url: str) -> Published:
    """Creates a task, lets its generation end, and activates :data:`TINY` there."""

    async def work(client: Client) -> Published:
        task_id = await _create(client)
        async with asyncio.timeout(_GENERATION_SECONDS):
            while True:
                if (await _call(client, subjects.TASKS_GET, {"task": task_id}))["status"] in _ENDED:
                    break
                await asyncio.sleep(0.1)
        return await publish_version(client, task_id, TINY, activate=True)

    return connected(nats_url, work)


def publish(nats_url: str, codes: Sequence[str], *, isolation: str = "call") -> list[Published]:
    """Creates a task for each program and activates it there; no generator may run, or it would add a version."""

    async def work(client: Client) -> list[Published]:
        gate = asyncio.Semaphore(_CONCURRENT)

        async def one(code: str) -> Published:
            async with gate:
                return await publish_version(client, await _create(client, isolation), code, activate=True)

        return list(await asyncio.gather(*map(one, codes)))

    return connected(nats_url, work)


async def publish_version(client: Client, task_id: str, code: str, *, activate: bool) -> Published:
    """Publishes ``code`` as the next version of the task."""
    body = {"task_id": task_id, "generation_id": str(uuid.uuid4()), "code": code, "activate": activate}
    artifact = await _call(client, subjects.ARTIFACTS_PUBLISH, body)
    return Published(task_id, int(artifact["version"]))


def connected(nats_url: str, work: Callable[[Client], Awaitable[T]]) -> T:
    """Runs ``work`` with a connection of its own."""

    async def run() -> T:
        client = await nats.connect(nats_url)
        try:
            return await work(client)
        finally:
            await client.close()

    return asyncio.run(run())


async def _create(client: Client, isolation: str = "call") -> str:
    definition = {
        "name": f"bench-{uuid.uuid4().hex[:12]}",
        "description": "A program of the benchmark.",
        "input_schema": _TEXT,
        "output_schema": {"enum": ["spam", "ham"]},
        "examples": [],
        "sampling_rate": 0,
        "isolation": isolation,
    }
    return str((await _call(client, subjects.TASKS_CREATE, {"definition": definition}))["id"])


async def _call(client: Client, subject: str, body: dict[str, Any]) -> dict[str, Any]:
    reply = await client.request(subject, json.dumps(body).encode(), timeout=_SECONDS)
    if reply.headers and ERROR_CODE_HEADER in reply.headers:
        raise RuntimeError(f"{subject}: {reply.data.decode()}")
    answer: dict[str, Any] = json.loads(reply.data)
    return answer
