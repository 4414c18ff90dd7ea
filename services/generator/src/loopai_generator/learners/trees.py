"""Objects and numbers to a label or a number, by a decision tree or a sum of small ones.

Either a single tree, or the sum of boosted ones. Cross-validation of the emitted programs decides which: the simplest
that is not clearly worse than the best (within one standard error; Breiman et al. 1984, "Classification and Regression
Trees").
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from loopai_common.contracts.artifacts import SynthesisStrategy
from loopai_common.contracts.generation import GenerationRequest
from loopai_generator.domain import (
    CannotLearn,
    CrossValidation,
    LabelledText,
    Learned,
    identity,
    is_closed,
    label_of,
    label_place,
    labels_of,
)
from loopai_generator.learners import cart, tree_code
from loopai_generator.learners.cart import Boosting, Limits
from loopai_generator.learners.folds import FOLDS, fold_of, held_back_answers
from loopai_generator.learners.keywords import CONFIDENCE_OF_AN_EXAMPLE, MEASURABLE_FROM
from loopai_generator.learners.records import Column, Ranks, columns_of, is_number, matrix_of
from loopai_generator.learners.tree_code import Leaf, Node, Split, TreeModel, TreeTask

_MAX_DEPTH = 12
_SMALLEST_LEAVES = (1, 5)
_BOOSTED_TREES = 120
_BOOSTED_DEPTHS_OF_NUMBERS = (2, 3)
_BOOSTED_DEPTH_OF_LABELS = 3
_BOOSTED_RATE = 0.1
_BOOSTED_SHARE = 0.5
_BOOSTED_LEAF = 10
_EXAMPLES_A_BOOSTED_LEAF = 15
_MAX_BOOSTED_LABELS = 12
_MAX_BOOSTED_CELLS = 400_000
"""Examples times columns; beyond, boosting would take minutes."""

_SCALE = 1000
_FEW_NUMBERS = 20
_MAX_DECIMALS = 6
_NOT_CLEARLY_WORSE_R2 = 0.01
_RULES_FROM = 0.5
_EXACT = 1e-9
_COMPARED_EXACTLY = (
    "The output is a number that is estimated: unless numbers are compared with a tolerance, few examples will count "
    "as passed, whatever the estimate is worth."
)

Fit = Callable[[Ranks, NDArray[np.float64]], TreeModel]
"""Makes a model from rows and targets (labels as their positions)."""


@dataclass(frozen=True, slots=True)
class _Judged:
    """How a kind of model did: ``score`` is the accuracy, for numbers R² (1 - squared error / variance)."""

    fit: Fit
    how: str
    score: float
    measured: CrossValidation
    mean_absolute_error: float | None


class TreeLearner:
    """Needs fields that tell inputs apart: numbers, or texts, truths and absences that come again and again."""

    strategy: ClassVar = SynthesisStrategy.ML

    def learn(self, request: GenerationRequest) -> Learned:
        task = read_tree_task(request)
        columns = columns_of(task.inputs)
        if not columns:
            raise CannotLearn("the inputs have no fields of numbers or of values that come again")
        rows, targets = matrix_of(task.inputs, columns), np.array(task.targets, np.float64)
        kinds = _kinds(task, columns)
        if len(task.inputs) < MEASURABLE_FROM:
            return _unmeasured(task, columns, kinds[0], rows, targets)
        judged = [_judge(task, columns, kind, rows, targets) for kind in kinds]
        best = _simplest_of_the_best(judged, len(task.inputs))
        model = best.fit(rows, targets)
        figures: dict[str, JsonValue] = {"leaves": sum(tree_code.leaves(tree) for _, tree in model.trees)}
        if best.mean_absolute_error is not None:
            figures |= {"r2": round(best.score, 6), "mean_absolute_error": float(f"{best.mean_absolute_error:.6g}")}
        return Learned(
            code=tree_code.write(model, task, columns, _known(best)),
            learner=best.how,
            strategy=self.strategy,
            confidence=min(1.0, max(0.0, best.score)),
            cross_validation=best.measured,
            notes=_notes(task, best.measured),
            figures=figures,
        )


def read_tree_task(request: GenerationRequest) -> TreeTask:
    """The request as a task of fields to a label or a number; raises :class:`CannotLearn` when it is something else."""
    inputs = [example.input for example in request.examples]
    outputs = [example.output for example in request.examples]
    if not inputs:
        raise CannotLearn("a decision tree needs examples; give at least ten")
    target, schema = label_place(request.output_schema, outputs)
    values = [label_of(output, target) for output in outputs]
    if _are_amounts(values, closed=is_closed(schema)):
        amounts = [float(value) for value in values if isinstance(value, (int, float))]
        return TreeTask(request.task_name, target, None, tuple(inputs), tuple(amounts), _decimals(values))
    labels = labels_of(schema, values)
    positions = {identity(label): position for position, label in enumerate(labels)}
    if any(identity(value) not in positions for value in values):
        raise CannotLearn("an example's output does not satisfy the output schema; correct the one or the other")
    targets = tuple(float(positions[identity(value)]) for value in values)
    if len(set(targets)) < 2:
        raise CannotLearn("all examples have the same output; give examples of another one")
    if not is_closed(schema) and _copies_a_field(inputs, values):
        raise CannotLearn("the outputs are copies of what stands in the inputs, which no tree can extract")
    return TreeTask(request.task_name, target, labels, tuple(inputs), targets, 0)


def _are_amounts(values: Sequence[JsonValue], *, closed: bool) -> bool:
    """Whether the outputs are numbers to come near to, rather than a few codes that happen to be numbers."""
    if closed or not all(map(is_number, values)):
        return False
    different = set(map(identity, values))
    codes = len(different) <= _FEW_NUMBERS and 2 * len(different) <= len(values)
    return any(isinstance(value, float) for value in values) or not codes


def _copies_a_field(inputs: Sequence[JsonValue], values: Sequence[JsonValue]) -> bool:
    return all(
        isinstance(given, dict) and isinstance(value, str) and value in given.values()
        for given, value in zip(inputs, values, strict=True)
    )


def _decimals(values: Sequence[JsonValue]) -> int | None:
    """How many decimals the outputs have at most; ``None`` for as many as there may be."""
    most = 0
    for value in values:
        if isinstance(value, float):
            while most <= _MAX_DECIMALS and round(value, most) != value:
                most += 1
    if most == 0 and any(isinstance(value, float) for value in values):
        most = 1
    return most if most <= _MAX_DECIMALS else None


def _kinds(task: TreeTask, columns: Sequence[Column]) -> list[tuple[str, Fit]]:
    """What is tried, the simplest first."""
    numbers = task.labels is None
    kinds: list[tuple[str, Fit]] = [
        ("decision-tree", partial(_fit_one, least=least, numbers=numbers)) for least in reversed(_SMALLEST_LEAVES)
    ]
    if len(task.inputs) * len(columns) > _MAX_BOOSTED_CELLS:
        return kinds
    if numbers:
        kinds += [("boosted-trees", partial(_fit_boosted_numbers, depth=depth)) for depth in _BOOSTED_DEPTHS_OF_NUMBERS]
    elif len(set(task.targets)) <= _MAX_BOOSTED_LABELS:
        kinds.append(("boosted-trees", _fit_boosted_labels))
    return kinds


def _simplest_of_the_best(judged: Sequence[_Judged], examples: int) -> _Judged:
    best = max(one.score for one in judged)
    if judged[0].mean_absolute_error is None:
        margin = (best * (1 - best) / examples) ** 0.5
    else:
        # Numbers that follow from rules, such as prices, can be met exactly: then this is what counts.
        exact = max(judged, key=lambda one: one.measured.accuracy)
        if exact.measured.accuracy >= _RULES_FROM:
            return exact
        margin = _NOT_CLEARLY_WORSE_R2
    return next(one for one in judged if one.score >= best - margin)


def _judge(
    task: TreeTask,
    columns: Sequence[Column],
    kind: tuple[str, Fit],
    rows: Ranks,
    targets: NDArray[np.float64],
) -> _Judged:
    """Cross-validates the programs that a kind of model makes."""
    how, fit = kind
    order = {target: position for position, target in enumerate(sorted(set(task.targets)))}
    keys = [
        LabelledText(identity(value), order[target]) for value, target in zip(task.inputs, task.targets, strict=True)
    ]
    folds = np.array(fold_of(keys))

    def code_without(fold: int) -> str:
        chosen = np.flatnonzero(folds != fold)
        return tree_code.write(fit(rows[chosen], targets[chosen]), task, columns, "")

    answers = held_back_answers(task.inputs, folds.tolist(), code_without)
    values = [label_of(answer, task.output_property) for answer in answers]
    if task.labels is not None:
        expected = [identity(task.labels[int(target)]) for target in task.targets]
        accuracy = sum(identity(value) == own for value, own in zip(values, expected, strict=True)) / len(values)
        return _Judged(fit, how, accuracy, CrossValidation(FOLDS, len(values), accuracy), None)
    errors = np.array(values, np.float64) - targets
    exact = float(np.mean(np.abs(errors) <= _EXACT))
    variance = float(np.sum((targets - targets.mean()) ** 2))
    r2 = 1.0 - float(np.sum(errors**2)) / variance if variance else exact
    return _Judged(fit, how, r2, CrossValidation(FOLDS, len(values), exact), float(np.mean(np.abs(errors))))


def _unmeasured(
    task: TreeTask,
    columns: Sequence[Column],
    kind: tuple[str, Fit],
    rows: Ranks,
    targets: NDArray[np.float64],
) -> Learned:
    examples = len(task.inputs)
    how, fit = kind
    note = (
        f"Only {examples} examples were given: the program was not measured. Give at least {MEASURABLE_FROM}, "
        "better a hundred."
    )
    return Learned(
        code=tree_code.write(fit(rows, targets), task, columns, "There were too few examples to measure the accuracy."),
        learner=how,
        strategy=TreeLearner.strategy,
        confidence=CONFIDENCE_OF_AN_EXAMPLE * (1 + examples),
        cross_validation=None,
        notes=(note, *_notes(task, None)),
    )


def _known(judged: _Judged) -> str:
    folds = f"{judged.measured.folds}-fold cross-validation"
    if judged.mean_absolute_error is None:
        return f"Accuracy in {folds}: {judged.measured.accuracy:.4f}."
    return f"In {folds}: R2 {judged.score:.4f}, mean absolute error {judged.mean_absolute_error:.6g}."


def _notes(task: TreeTask, measured: CrossValidation | None) -> tuple[str, ...]:
    if task.labels is None:
        return () if measured and measured.accuracy >= _RULES_FROM else (_COMPARED_EXACTLY,)
    missing = len(task.labels) - len(set(task.targets))
    if missing:
        return (f"{missing} of {len(task.labels)} labels have no example, and the program never gives them.",)
    return ()


def _fit_one(rows: Ranks, targets: NDArray[np.float64], *, least: int, numbers: bool) -> TreeModel:
    limits = Limits(_MAX_DEPTH, min(least, max(1, len(rows) // 10)))
    if numbers:
        return TreeModel((), ((0, _written(cart.regression_tree(_by_column(rows), targets, limits), float)),))
    labels, positions = np.unique(targets, return_inverse=True)
    tree = cart.classification_tree(_by_column(rows), positions, limits)
    return TreeModel((), ((0, _written(tree, lambda position: int(labels[int(position)]))),))


def _fit_boosted_numbers(rows: Ranks, targets: NDArray[np.float64], *, depth: int) -> TreeModel:
    trees = cart.boosted_numbers(_by_column(rows), targets, _boosting(len(rows), _BOOSTED_TREES, depth))
    return TreeModel(
        labels=(0,),
        trees=tuple((0, _written(tree, _short)) for _, tree in trees),
        starts=(_short(targets.mean()),),
        bounds=(float(targets.min()), float(targets.max())),
    )


def _fit_boosted_labels(rows: Ranks, targets: NDArray[np.float64]) -> TreeModel:
    labels, positions, counts = np.unique(targets, return_inverse=True, return_counts=True)
    if len(labels) < 2:
        return _fit_one(rows, targets, least=1, numbers=False)
    sums = 1 if len(labels) == 2 else len(labels)
    boosting = _boosting(len(rows), _BOOSTED_TREES // sums, _BOOSTED_DEPTH_OF_LABELS)
    shares = counts / counts.sum()
    starts = [np.log(shares[1] / shares[0])] if sums == 1 else np.log(shares)
    return TreeModel(
        labels=tuple(int(label) for label in labels),
        trees=tuple(
            (number, _written(tree, lambda value: round(_SCALE * value)))
            for number, tree in cart.boosted_labels(_by_column(rows), positions, boosting)
        ),
        starts=tuple(round(_SCALE * float(start)) for start in starts),
    )


def _boosting(examples: int, stages: int, depth: int) -> Boosting:
    least = min(_BOOSTED_LEAF, max(1, examples // _EXAMPLES_A_BOOSTED_LEAF))
    return Boosting(stages, _BOOSTED_RATE, _BOOSTED_SHARE, Limits(depth, least))


def _by_column(rows: Ranks) -> Ranks:
    return np.ascontiguousarray(rows.T)


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def _written(tree: Node, answer: Callable[[float], int | float]) -> Node:
    """The tree with the answers that its program gives; what then answers the same either way is a leaf."""
    if isinstance(tree, Leaf):
        return Leaf(answer(tree.value))
    low, high = _written(tree.low, answer), _written(tree.high, answer)
    return low if isinstance(low, Leaf) and low == high else Split(tree.column, tree.rank, low, high)
