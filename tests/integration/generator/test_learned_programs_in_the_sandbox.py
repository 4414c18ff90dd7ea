"""Learned programs where they will run: made by a learner process, executed by a locked worker."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from benchmarks.intents import corpus
from loopai_common.contracts.frames import AnswerKind
from loopai_common.contracts.generation import GenerationRequest, GenerationResponse
from loopai_common.contracts.tasks import Example
from tests.support.flowers import flowers, objects_request
from tests.support.sandbox import program, run, started_pool
from tests.support.service_process import ServiceProcess
from tests.support.sms import generation_request, messages

PATIENCE_SECONDS = 300.0
"""The machine may be busy; what is tested here is what is learned, not how fast."""


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """One that learns for as long as it takes."""
    log = tmp_path_factory.mktemp("generator") / "log"
    settings = {"LOOPAI_GENERATOR_LEARN_TIMEOUT_SECONDS": str(PATIENCE_SECONDS)}
    with ServiceProcess("loopai_generator.main", "LOOPAI_GENERATOR_", log, settings) as process:
        yield process


def learned(generator: ServiceProcess, request: GenerationRequest) -> GenerationResponse:
    answer = httpx.post(f"{generator.url}/generate", content=request.model_dump_json(), timeout=PATIENCE_SECONDS)
    response = GenerationResponse.model_validate_json(answer.content)
    assert response.success, response.error_message
    return response


def questions(size: int) -> tuple[Example, ...]:
    return tuple(Example(input={"text": text}, output=label) for text, label in corpus(size))


def with_fields() -> tuple[Example, ...]:
    """Messages with a channel; what comes by letter is archived, spam or not."""
    return tuple(
        Example(
            input={"text": message.input["text"], "from": {"channel": ("letter", "phone")[position % 2]}},
            output=message.output if position % 2 else "archive",
        )
        for position, message in enumerate(messages()[:200])
        if isinstance(message.input, dict)
    )


def prices() -> tuple[Example, ...]:
    return tuple(
        Example(input={"grams": n * 10, "express": n % 3 == 0}, output=round(1.5 + 2 * (n // 25) + 3 * (n % 3 == 0), 2))
        for n in range(100)
    )


@pytest.mark.parametrize(
    ("request_of", "learner", "least"),
    [
        (lambda: objects_request(flowers()), "decision-tree", 0.95),
        (lambda: objects_request(prices(), output="number"), "decision-tree", 0.95),
        (lambda: objects_request(with_fields()), "linear-text", 0.95),
        (lambda: generation_request(questions(800), output_schema={"type": "string"}), "linear-text", 0.9),
    ],
    ids=["object to label", "object to number", "text and fields to label", "text to 77 labels"],
)
async def test_learned_program_answers_in_a_locked_worker(
    generator: ServiceProcess, request_of: Any, learner: str, least: float
) -> None:
    request: GenerationRequest = request_of()
    response = learned(generator, request)
    assert response.code is not None
    assert response.metadata is not None
    assert response.metadata["learner"] == learner
    inputs = [example.input for example in request.examples]
    async with started_pool() as pool:
        answers: list[tuple[int, Any]] = []
        for start in range(0, len(inputs), 50):
            answers += await run(pool, program(response.code), inputs[start : start + 50])
    assert {kind for kind, _ in answers} == {AnswerKind.SUCCESS}
    passed = sum(value == example.output for (_, value), example in zip(answers, request.examples, strict=True))
    assert passed / len(inputs) >= least
