"""Cross-validation of programs: the figure says how the emitted code does on examples that it was not made from."""

import hashlib
from collections.abc import Callable, Sequence

from pydantic import JsonValue

from loopai_generator.domain import CrossValidation, LabelledText, LabelTask, identity, label_of
from loopai_generator.learners.program import load_program

FOLDS = 5


def fold_of(examples: Sequence[LabelledText]) -> list[int]:
    """The fold (0 to ``FOLDS`` - 1) of each example: stratified by label, equal texts together, stable by hash."""
    labels: dict[str, int] = {}
    for example in examples:
        labels.setdefault(example.text, example.label)
    order = sorted(labels, key=lambda text: (labels[text], hashlib.sha256(text.encode()).digest()))
    folds = {text: position % FOLDS for position, text in enumerate(order)}
    return [folds[example.text] for example in examples]


def held_back_answers(
    inputs: Sequence[JsonValue], folds: Sequence[int], code_without: Callable[[int], str]
) -> list[JsonValue]:
    """For each input, the answer of the program that ``code_without`` the input's fold makes."""
    programs = [load_program(code_without(fold)) for fold in range(FOLDS)]
    return [programs[fold](value) for value, fold in zip(inputs, folds, strict=True)]


def cross_validate(task: LabelTask, code_without: Callable[[int], str]) -> CrossValidation:
    """Runs, for each fold, the program that ``code_without`` that fold makes, on the fold."""
    inputs = [example.input for example in task.examples]
    labels = [identity(label) for label in task.labels]
    answers = held_back_answers(inputs, fold_of(task.examples), code_without)
    passed = sum(
        identity(label_of(answer, task.output_property)) == labels[example.label]
        for answer, example in zip(answers, task.examples, strict=True)
    )
    return CrossValidation(FOLDS, len(task.examples), passed / len(task.examples))
