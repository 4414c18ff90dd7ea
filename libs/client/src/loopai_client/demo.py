"""The demonstration: a spam filter learned from real messages, and judged on messages it has not seen."""

import asyncio
import hashlib
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from math import ceil
from typing import Any, Final

from loopai_client.client import MAX_WAIT_SECONDS, AsyncLoopaiClient
from loopai_client.examples import TEXT_SCHEMA, parse_tsv
from loopai_client.models import Artifact, Task

ACCURACY_BAR: Final = 0.975
CONNECTIONS: Final = 4
"""At a time. More would only wait for each other in this client, which is slower than what it calls."""

_LEARNED_SHARE = 0.8
_SPLIT_KEY = b"loopai demo"
_LONGEST_GENERATION_SECONDS = 1800.0
_SHOWN_CODE_LINES = 25


class NoProgram(Exception):
    """The task ended without a program; the message says why."""


@dataclass(frozen=True, slots=True)
class Message:
    """A text message and what it is: ``ham`` or ``spam``."""

    label: str
    text: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What the program said of a message (``None``: it failed).

    ``round_trip_ms`` is seen by this client, over HTTP; ``sandbox_ms`` is the time in the program's process.
    """

    message: Message
    label: str | None
    round_trip_ms: float
    sandbox_ms: float


@dataclass(frozen=True, slots=True)
class LabelScore:
    """How well one label was recognised, and how many messages carry it."""

    precision: float
    recall: float
    messages: int


@dataclass(frozen=True, slots=True)
class Scores:
    """What the answers add up to; latencies in milliseconds."""

    messages: int
    failed: int
    accuracy: float
    labels: dict[str, LabelScore]
    requests_per_second: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    sandbox_p50_ms: float


def messages() -> list[Message]:
    """The messages that come with this package."""
    text = resources.files("loopai_client").joinpath("data/sms_spam/messages.tsv").read_text(encoding="utf-8")
    return [Message(example["output"], example["input"]["text"]) for example in parse_tsv(text)]


def split(given: Iterable[Message]) -> tuple[list[Message], list[Message]]:
    """The messages to learn from and those to judge by; the same text is always on the same side."""
    learned: list[Message] = []
    kept_aside: list[Message] = []
    for message in given:
        # Keyed, because the data is itself a part that was chosen by a hash of the text.
        digest = hashlib.blake2b(message.text.encode(), digest_size=4, key=_SPLIT_KEY).digest()
        position = int.from_bytes(digest, "big") / 2**32
        (learned if position < _LEARNED_SHARE else kept_aside).append(message)
    return learned, kept_aside


def definition(learned: Sequence[Message]) -> dict[str, Any]:
    """The task, with a name of its own for each run."""
    return {
        "name": f"spam-demo-{secrets.token_hex(3)}",
        "description": "Tell whether a text message is spam (advertising, fraud) or ham (everything else).",
        "input_schema": TEXT_SCHEMA,
        "output_schema": {"type": "string", "enum": ["ham", "spam"]},
        "examples": [{"input": {"text": m.text}, "output": m.label} for m in learned],
    }


async def create(client: AsyncLoopaiClient, learned: Sequence[Message]) -> Task:
    """Creates the task and waits for its program; raises :class:`NoProgram` when there will be none."""
    task = await client.create_task(definition(learned), wait_seconds=MAX_WAIT_SECONDS)
    if task.status == "generating":
        task = await client.wait_for_task(task.id, seconds=_LONGEST_GENERATION_SECONDS)
    if task.status != "ready":
        raise NoProgram(f"the task is {task.status}: {task.status_reason or 'no reason given'}")
    return task


async def classify(
    client: AsyncLoopaiClient, task: Task, given: Sequence[Message], on_answer: Callable[[], None]
) -> tuple[list[Answer], float]:
    """Runs the program on each message over HTTP, ``CONNECTIONS`` at a time; returns the answers and the seconds."""
    waiting = iter(given)
    answers: list[Answer] = []

    async def work() -> None:
        for message in waiting:
            started = time.perf_counter()
            result = await client.execute(task.id, {"text": message.text})
            elapsed_ms = (time.perf_counter() - started) * 1000
            label = result.output if result.status == "success" else None
            answers.append(Answer(message, label, elapsed_ms, result.latency_ms))
            on_answer()

    started = time.perf_counter()
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                group.create_task(work())
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return answers, time.perf_counter() - started


def score(answers: Sequence[Answer], seconds: float) -> Scores:
    """Adds up the answers that took ``seconds`` in total."""
    latencies = sorted(answer.round_trip_ms for answer in answers)
    right = sum(answer.label == answer.message.label for answer in answers)
    return Scores(
        messages=len(answers),
        failed=sum(answer.label is None for answer in answers),
        accuracy=right / len(answers),
        labels={label: _label_score(answers, label) for label in sorted({a.message.label for a in answers})},
        requests_per_second=len(answers) / seconds,
        p50_ms=percentile(latencies, 0.50),
        p95_ms=percentile(latencies, 0.95),
        p99_ms=percentile(latencies, 0.99),
        sandbox_p50_ms=percentile(sorted(answer.sandbox_ms for answer in answers), 0.50),
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """The nearest-rank percentile of ascending values: the least one that ``share`` of all do not exceed."""
    return ordered[max(0, ceil(share * len(ordered)) - 1)]


def head(code: str) -> tuple[str, int]:
    """The first lines of a program, and how many more there are. Long lines (tables of weights) are cut."""
    lines = code.splitlines()
    shown = [line if len(line) <= 110 else f"{line[:107]}..." for line in lines[:_SHOWN_CODE_LINES]]
    return "\n".join(shown), max(0, len(lines) - _SHOWN_CODE_LINES)


async def program(client: AsyncLoopaiClient, task: Task) -> tuple[Artifact, str]:
    """The active version of the task's program and its source."""
    return await client.get_artifact(task.id), await client.get_code(task.id)


def _label_score(answers: Sequence[Answer], label: str) -> LabelScore:
    said = sum(answer.label == label for answer in answers)
    there = sum(answer.message.label == label for answer in answers)
    both = sum(answer.label == label == answer.message.label for answer in answers)
    return LabelScore(both / said if said else 0.0, both / there, there)
