"""Text to text or object, object to text: string programs from examples, after FlashFill.

S. Gulwani, "Automating String Processing in Spreadsheets Using Input-Output Examples", POPL 2011: a small language of
substrings between positions, constants, concatenations and conditionals; all programs that agree with the examples are
considered at once, and the simplest is preferred.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, ClassVar, cast

from pydantic import JsonValue

from loopai_common.contracts.artifacts import SynthesisStrategy
from loopai_common.contracts.generation import GenerationRequest
from loopai_common.contracts.tasks import Example
from loopai_generator.domain import CannotLearn, CrossValidation, Learned, identity
from loopai_generator.learners.strings.language import Program
from loopai_generator.learners.strings.search import Search
from loopai_generator.learners.strings.task import StringTask, read_string_task
from loopai_generator.learners.strings.writing import write

_FOLDS = 5
_ONE_BY_ONE_BELOW = 10
"""With fewer examples each is held back once."""


class StringLearner:
    """Needs three examples; its program reproduces all of them, or there is none."""

    strategy: ClassVar = SynthesisStrategy.DSL

    def learn(self, request: GenerationRequest) -> Learned:
        task = read_string_task(request)
        program = find(task, range(len(task.examples)))
        measured = _cross_validate(task)
        code = write(program, task, measured)
        return Learned(
            code=code,
            learner="string-program",
            strategy=self.strategy,
            confidence=measured.accuracy,
            cross_validation=measured,
            notes=_notes(measured),
            figures={"operations": code.count("return ")},
        )


def find(task: StringTask, positions: Sequence[int]) -> Program:
    """A program that reproduces the examples at these positions; raises :class:`CannotLearn` when there is none."""
    return Search(task.inputs(positions)).program([task.examples[position].output for position in positions])


def _cross_validate(task: StringTask) -> CrossValidation:
    """How the written programs of all but one fold do on that fold; a fold without a program has none right."""
    folds = _folds(task.examples)
    count = max(folds) + 1
    passed = 0
    for fold in range(count):
        known = [position for position, own in enumerate(folds) if own != fold]
        try:
            run = _load(write(find(task, known), task, None))
        except CannotLearn:
            continue
        held_back = [example for example, own in zip(task.examples, folds, strict=True) if own == fold]
        passed += sum(_same(run(example.input), example.output) for example in held_back)
    return CrossValidation(count, len(folds), passed / len(folds))


def _folds(examples: Sequence[Example]) -> list[int]:
    """The fold of each example: equal inputs together, stable by hash."""
    keys = [json.dumps(example.input, sort_keys=True) for example in examples]
    order = sorted(set(keys), key=lambda key: hashlib.sha256(key.encode()).digest())
    count = len(order) if len(order) < _ONE_BY_ONE_BELOW else _FOLDS
    places = {key: position % count for position, key in enumerate(order)}
    return [places[key] for key in keys]


def _load(code: str) -> Any:
    module: dict[str, Any] = {}
    exec(compile(code, "<learned>", "exec"), module)  # noqa: S102  # code of our own making, in a process of its own
    return module["run"]


def _same(value: JsonValue, expected: JsonValue) -> bool:
    """As the check compares: numbers within 1e-9, everything else exactly."""
    if isinstance(expected, dict) and isinstance(value, dict):
        return value.keys() == expected.keys() and all(_same(value[name], expected[name]) for name in expected)
    if isinstance(expected, list) and isinstance(value, list):
        return len(value) == len(expected) and all(map(_same, value, expected))
    kinds = (bool, str, type(None))
    if isinstance(value, kinds) or isinstance(expected, kinds):
        return identity(value) == identity(expected)
    return abs(cast(float, value) - cast(float, expected)) <= 1e-9


def _notes(measured: CrossValidation) -> tuple[str, ...]:
    if measured.accuracy >= 0.9:
        return ()
    return (
        "The program reproduces every example, but programs from fewer examples often failed on the rest: "
        "more examples of the unusual cases would help.",
    )
