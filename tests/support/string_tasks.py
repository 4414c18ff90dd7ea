"""Transformations of texts, each with examples that are shown and others that are not (``string_tasks.jsonl``)."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from loopai_common.contracts.artifacts import SynthesisStrategy
from loopai_common.contracts.generation import GenerationRequest
from loopai_common.contracts.tasks import Example
from tests.support.sms import generation_request, load

_FILE = Path(__file__).parents[1] / "data" / "string_tasks.jsonl"


@dataclass(frozen=True, slots=True)
class Transformation:
    """One task of the corpus."""

    name: str
    shown: tuple[Example, ...]
    unseen: tuple[Example, ...]

    def solved_by(self, code: str) -> bool:
        """Whether the program gives the outputs of all examples, unseen ones included; as the check, numbers nearly."""
        run = load(code)
        return all(_rounded(run(own.input)) == _rounded(own.output) for own in (*self.shown, *self.unseen))


@cache
def transformations() -> tuple[Transformation, ...]:
    """The corpus, in the order of the file."""
    rows = [json.loads(line) for line in _FILE.read_text(encoding="utf-8").splitlines()]
    return tuple(Transformation(row["name"], pairs(row["shown"]), pairs(row["unseen"])) for row in rows)


def pairs(rows: list[list[Any]]) -> tuple[Example, ...]:
    """Examples from inputs and outputs."""
    return tuple(Example(input=given, output=expected) for given, expected in rows)


def string_request(examples: tuple[Example, ...], **changes: Any) -> GenerationRequest:
    """A request for a string program; its schemas take and give anything unless told otherwise."""
    fields = {"input_schema": True, "output_schema": True, "strategy": SynthesisStrategy.DSL, "task_name": "strings"}
    return generation_request(examples, **{**fields, **changes})


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(own) for name, own in value.items()}
    if isinstance(value, list):
        return [_rounded(own) for own in value]
    return round(value, 9) if isinstance(value, float) else value
