"""String programs from the learner process, run in the real sandbox."""

import asyncio
import os
import subprocess
import sys
from typing import Any

import pytest

from loopai_common.contracts.frames import AnswerKind
from loopai_common.contracts.generation import GenerationRequest, GenerationResponse
from loopai_generator.domain import CannotLearn
from loopai_generator.learners.strings.learner import find
from loopai_generator.learners.strings.task import read_string_task
from loopai_generator.learners.strings.writing import write
from tests.support.sandbox import program, run, started_pool
from tests.support.string_tasks import Transformation, pairs, string_request, transformations

LEAST_SOLVED = 0.9
LEARNED = ("date-mixed-to-iso", "log-object", "order-line", "pairs")
ODD: list[Any] = ["", "x", "9" * 5000, "é\u0000", None, 5, True, [], {}, {"part": "x", "whole": None}]


def learn_in_process(request: GenerationRequest, seed: str) -> GenerationResponse:
    """The answer of a learner process whose sets and dictionaries are ordered by ``seed``."""
    done = subprocess.run(
        [sys.executable, "-m", "loopai_generator.learners"],
        input=request.model_dump_json().encode(),
        capture_output=True,
        env={**os.environ, "PYTHONHASHSEED": seed},
        timeout=120,
        check=True,
    )
    return GenerationResponse.model_validate_json(done.stdout)


def chosen() -> list[Transformation]:
    return [task for task in transformations() if task.name in LEARNED]


@pytest.fixture(scope="module")
def codes() -> dict[str, str]:
    """The programs of some transformations, each learned in a process of its own."""
    found = {}
    for task in chosen():
        response = learn_in_process(string_request(task.shown), "0")
        assert response.success, response.error_message
        assert response.code is not None
        found[task.name] = response.code
    return found


async def test_programs_solve_unseen_inputs_in_the_sandbox(codes: dict[str, str]) -> None:
    async with started_pool() as pool:
        for task in chosen():
            inputs = [example.input for example in task.unseen]
            answers = await run(pool, program(codes[task.name], task=task.name), inputs, timeout_ms=20_000)
            assert [value for _, value in answers] == [example.output for example in task.unseen], task.name


async def test_odd_inputs_are_answered_in_the_sandbox(codes: dict[str, str]) -> None:
    async with started_pool() as pool:
        for name, code in codes.items():
            answers = await run(pool, program(code, task=name), ODD, timeout_ms=20_000)
            assert {kind for kind, _ in answers} == {AnswerKind.SUCCESS}, (name, answers)


async def test_same_request_gives_the_same_bytes_whatever_the_hash_seed(codes: dict[str, str]) -> None:
    for task in chosen()[:2]:
        response = await asyncio.to_thread(learn_in_process, string_request(task.shown), "12345")
        assert response.code == codes[task.name]


def test_many_examples_are_learned_from() -> None:
    months = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
    rows = [
        [f"{n % 28 + 1} {months[n % 12]} {1990 + n % 40}", f"{1990 + n % 40}-{n % 12 + 1:02d}-{n % 28 + 1:02d}"]
        for n in range(10_000)
    ]
    response = learn_in_process(string_request(pairs(rows)), "0")
    assert response.success, response.error_message
    assert response.metadata is not None
    assert response.metadata["confidence"] == 1.0


def test_most_transformations_are_solved_on_unseen_inputs() -> None:
    unsolved = []
    for task in transformations():
        wanted = read_string_task(string_request(task.shown))
        try:
            code = write(find(wanted, range(len(task.shown))), wanted, None)
        except CannotLearn:
            unsolved.append(task.name)
            continue
        if not task.solved_by(code):
            unsolved.append(task.name)
    assert 1 - len(unsolved) / len(transformations()) >= LEAST_SOLVED, unsolved
