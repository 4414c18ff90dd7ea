"""Cross-validation of programs: the figure says how the emitted code does on examples that it was not made from."""

import hashlib
from collections.abc import Callable, Iterable, Sequence

from pydantic import JsonValue

from loopai_generator.domain import CrossValidation, LabelledText, LabelTask, identity
from loopai_generator.learners.program import load_classifier

FOLDS = 5


def fold_of(examples: Sequence[LabelledText]) -> list[int]:
    """The fold (0 to ``FOLDS`` - 1) of each example: stratified by label, equal texts together, stable by hash."""
    labels: dict[str, int] = {}
    for example in examples:
        labels.setdefault(example.text, example.label)
    order = sorted(labels, key=lambda text: (labels[text], hashlib.sha256(text.encode()).digest()))
    folds = {text: position % FOLDS for position, text in enumerate(order)}
    return [folds[example.text] for example in examples]


def cross_validate(task: LabelTask, code_without: Callable[[int], str]) -> CrossValidation:
    """Runs, for each fold, the program that ``code_without`` that fold makes, on the fold."""
    folds = fold_of(task.examples)
    passed = 0
    for fold in range(FOLDS):
        held_back = [example for example, own in zip(task.examples, folds, strict=True) if own == fold]
        passed += _passed(load_classifier(code_without(fold)), task, held_back)
    return CrossValidation(FOLDS, len(task.examples), passed / len(task.examples))


def _passed(classify: Callable[[str], JsonValue], task: LabelTask, examples: Iterable[LabelledText]) -> int:
    labels = [identity(label) for label in task.labels]
    return sum(identity(classify(example.text)) == labels[example.label] for example in examples)
