"""Real text messages, labelled ham or spam: the data of the demo (``loopai_client/data/sms_spam``)."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import loopai_client
from loopai_common.contracts.generation import GenerationRequest
from loopai_common.contracts.tasks import Example
from loopai_common.identifiers import new_uuid
from tests.support.builders import TEXT_SCHEMA

_FILE = Path(loopai_client.__file__).parent / "data" / "sms_spam" / "messages.tsv"


@cache
def messages() -> tuple[Example, ...]:
    """All 3,619 messages, in the order of the file."""
    rows = (line.split("\t", 1) for line in _FILE.read_text(encoding="utf-8").splitlines())
    return tuple(Example(input={"text": text}, output=label) for label, text in rows)


def parts(held_out_every: int = 5) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """The messages to learn from, and every fifth, to judge by."""
    everything = messages()
    known = tuple(example for position, example in enumerate(everything) if position % held_out_every)
    return known, everything[::held_out_every]


def generation_request(examples: tuple[Example, ...] = (), **changes: Any) -> GenerationRequest:
    """A valid request for a program that tells spam from ham."""
    fields: dict[str, Any] = {
        "task_id": new_uuid(),
        "task_name": "sms",
        "description": "Decide whether a text message is spam or ham.",
        "input_schema": TEXT_SCHEMA,
        "output_schema": {"type": "string", "enum": ["ham", "spam"]},
        "examples": examples,
    }
    return GenerationRequest.model_validate({**fields, **changes})


def load(code: str, entry_point: str = "run") -> Callable[[Any], Any]:
    """The entry point of a program, in this process: for programs of our own learner only."""
    module: dict[str, Any] = {}
    exec(compile(code, "<program>", "exec"), module)
    loaded: Callable[[Any], Any] = module[entry_point]
    return loaded


def accuracy(code: str, examples: tuple[Example, ...]) -> float:
    """The share of examples that the program gets right."""
    run = load(code)
    return sum(1 for example in examples if run(example.input) == example.output) / len(examples)
