"""Text to label by a linear classifier over words, pairs of words and runs of characters.

The classifier is a linear support vector machine on binary features: fitted on all of them, fitted again on the
strongest, and its weights rounded to integers, so that the program's sums are exact in any order. What is
cross-validated is the emitted program, rounding and all.

With more than two labels, only the differences between a feature's weights matter. Each feature's median is taken off
its weights: most of them become 0, and need not be written. The program adds the weights of all labels at once, as the
lanes of one whole number.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from loopai_common.contracts.artifacts import SynthesisStrategy
from loopai_common.contracts.generation import GenerationRequest
from loopai_generator.domain import CannotLearn, CrossValidation, LabelledText, LabelTask, Learned, read_label_task
from loopai_generator.learners import records, svm, text_features
from loopai_generator.learners.facts import Field, facts, fields_of
from loopai_generator.learners.folds import cross_validate, fold_of
from loopai_generator.learners.program import entry_point, escaped, header, pattern_line, source_of
from loopai_generator.learners.svm import Rows

MIN_EXAMPLES = 10
MAX_TRAINING_CHARACTERS = 1_500_000
MAX_WEIGHTS = 40_000
MAX_FEATURES = 6000
_SIZES = (4, 3)
_PENALTY, _TOLERANCE = 0.02, 1e-3
_PENALTY_OF_MANY, _TOLERANCE_OF_MANY = 0.05, 0.1
_SCALE = 1000
_SCALE_OF_MANY = 100
_RARE_FROM = 200
"""With this many examples, a feature of a single one says nothing."""

_MANY_LABELS = 8
"""From here on one size is tried, and the classifier fitted once, less exactly: the time grows with the labels."""

_MAX_FITTED_OF_MANY = 20_000


@dataclass(frozen=True, slots=True)
class LinearModel:
    """Integer weights; the label with the highest sum wins, the first one in a tie.

    ``weights`` has shape (labels, features), but for two labels (1, features): there a positive sum says ``labels[1]``.
    ``labels`` are positions among the task's labels; ``fields`` are looked at beside the text.
    """

    size: int
    labels: tuple[int, ...]
    features: tuple[str, ...]
    weights: NDArray[np.int64]
    biases: NDArray[np.int64]
    fields: tuple[Field, ...] = ()


class LinearTextLearner:
    """Needs ten examples, and two labels with two different texts each."""

    strategy: ClassVar = SynthesisStrategy.ML

    def learn(self, request: GenerationRequest) -> Learned:
        task = read_label_task(request)
        _require_enough(task)
        task, notes = _within_limits(task)
        sizes = _SIZES if len(task.labels) < _MANY_LABELS else _SIZES[1:]
        trials = [_Trial(task, size) for size in sizes]
        measured = [cross_validate(task, trial.code_without) for trial in trials]
        best = max(range(len(trials)), key=lambda position: measured[position].accuracy)
        model = trials[best].fit(None)
        return Learned(
            code=write(model, task, measured[best]),
            learner="linear-text",
            strategy=self.strategy,
            confidence=measured[best].accuracy,
            cross_validation=measured[best],
            notes=(*notes, *_notes(task, model)),
            figures={"features": len(model.features), "characters_in_a_run": model.size},
        )


class _Trial:
    """The examples as a matrix, for one size of the runs of characters."""

    def __init__(self, task: LabelTask, size: int) -> None:
        self._task = task
        self._size = size
        self._folds = np.array(fold_of(task.examples))
        self._labels = np.array([example.label for example in task.examples])
        self._fields = fields_of([example.input for example in task.examples], task.input_properties)
        self._features, self._rows = feature_matrix(task.examples, size, self._fields)

    def fit(self, without: int | None) -> LinearModel:
        """Fits on all examples, or on those outside the fold ``without``."""
        chosen = np.flatnonzero(self._folds != without) if without is not None else np.arange(len(self._labels))
        model = fit_model(self._rows.some(chosen), self._labels[chosen], self._features, self._size)
        return replace(model, fields=self._fields)

    def code_without(self, fold: int) -> str:
        """The program made from the examples outside ``fold``."""
        return write(self.fit(fold), self._task, None)


def feature_matrix(
    examples: Sequence[LabelledText], size: int, fields: tuple[Field, ...] = ()
) -> tuple[list[str], Rows]:
    """All features, sorted, and which example has which: the same whatever the order of sets is."""
    rows = [text_features.features(example.text, size).union(facts(example.input, fields)) for example in examples]
    names = sorted(set().union(*rows))
    column = {name: position for position, name in enumerate(names)}
    lengths = np.array([len(row) for row in rows])
    columns = np.fromiter((column[name] for name in chain.from_iterable(rows)), np.intp, lengths.sum())
    # One sort of numbers that begin with the row puts the columns of every row in order.
    places = np.repeat(np.arange(len(rows)) * len(names), lengths)
    columns = np.sort(columns + places) - places
    return names, Rows(columns, np.concatenate(([0], np.cumsum(lengths))), len(names))


def fit_model(rows: Rows, labels: NDArray[np.int64], features: Sequence[str], size: int) -> LinearModel:
    """Fits the classifier and rounds it; ``labels`` are positions among the task's labels, at least two different."""
    frequent = 2 if len(labels) >= _RARE_FROM else 1
    counts = rows.counts()
    kept = np.flatnonzero(counts >= frequent)
    many = len(np.unique(labels)) >= _MANY_LABELS
    if many:
        kept = kept[np.sort(np.argsort(-counts[kept], kind="stable")[:_MAX_FITTED_OF_MANY])]
    penalty, tolerance = (_PENALTY_OF_MANY, _TOLERANCE_OF_MANY) if many else (_PENALTY, _TOLERANCE)
    fitted = svm.fit(rows.only(kept), labels, penalty=penalty, tolerance=tolerance)
    if not many:
        strength = np.abs(fitted.weights).max(axis=0)
        kept = kept[np.sort(np.argsort(-strength, kind="stable")[:MAX_FEATURES])]
        fitted = svm.fit(rows.only(kept), labels, penalty=penalty, tolerance=tolerance)
    coefficients = fitted.weights
    if len(coefficients) > 1:
        coefficients = coefficients - np.median(coefficients, axis=0)
    scale = (_SCALE_OF_MANY if many else _SCALE) / max(np.abs(coefficients).max(), np.finfo(float).tiny)
    weights = _strongest(np.rint(coefficients * scale).astype(np.int64))
    used = np.flatnonzero(weights.any(axis=0))
    return LinearModel(
        size=size,
        labels=tuple(int(label) for label in fitted.labels),
        features=tuple(features[position] for position in kept[used]),
        weights=weights[:, used],
        biases=np.rint(fitted.intercepts * scale).astype(np.int64),
    )


def write(model: LinearModel, task: LabelTask, cross_validation: CrossValidation | None) -> str:
    """The program that decides as the model does."""
    labels = tuple(task.labels[label] for label in model.labels)
    two = len(labels) == 2
    return "\n".join(
        (
            header(task, _how(model, two), SynthesisStrategy.ML, cross_validation),
            "import re",
            *(() if two else ("import struct",)),
            "from itertools import pairwise",
            "from types import MappingProxyType",
            "",
            f"LABELS = {labels!r}",
            f"SIZE = {model.size}",
            f"MAX_CHARACTERS = {text_features.MAX_CHARACTERS}",
            pattern_line("WORD", text_features.WORD),
            pattern_line("DIGIT", text_features.DIGIT),
            *((f"FIELDS = {model.fields!r}",) if model.fields else ()),
            *(_two_label_table(model) if two else _many_label_table(model)),
            "",
            "",
            source_of(text_features.features),
            "",
            *((source_of(records.at, facts), "") if model.fields else ()),
            _CLASSIFY_TWO if two else _CLASSIFY_MANY,
            "",
            entry_point(task, f"features(text, SIZE){'.union(facts(input, FIELDS))' if model.fields else ''}"),
        )
    )


_CLASSIFY_TWO = """\
KNOWN = frozenset(WEIGHTS)


def classify(found):
    return LABELS[BIAS + sum([WEIGHTS[feature] for feature in found & KNOWN]) > 0]
"""


_PARSED = """\
def packed(weights):
    return sum(weight << 32 * lane for lane, weight in weights)


def parsed(line):
    weights, _, feature = line.partition(" :")
    numbers = [int(number) for number in weights.split()]
    return feature, packed(zip(numbers[::2], numbers[1::2]))
"""

# 2^31 in every lane undoes the borrows that negative weights make.
_CLASSIFY_MANY = """\
BIAS = packed(enumerate(BIASES)) + packed((lane, 1 << 31) for lane in range(len(LABELS)))
KNOWN = frozenset(WEIGHTS)


def classify(found):
    total = BIAS + sum([WEIGHTS[feature] for feature in found & KNOWN])
    sums = struct.unpack(LANES, total.to_bytes(4 * len(LABELS), "little"))
    return LABELS[sums.index(max(sums))]
"""


def _how(model: LinearModel, two: bool) -> str:
    start = (
        "How it decides: every word, every pair of neighbouring words and every run of "
        f"{model.size} characters that stands in WEIGHTS adds its weight once"
    )
    if model.fields:
        start = start.replace("characters that", "characters of the text, and every fact about another field, that")
    if two:
        return start + "; a sum above 0 says the second label, any other the first."
    return (
        start + " to the labels it speaks for or against; the label with the highest sum wins. A line of WEIGHTS is "
        "'label weight label weight ... :feature', where labels are numbered as in LABELS, from 0. The sums of all "
        "labels are added up at once, in lanes of one whole number."
    )


def _two_label_table(model: LinearModel) -> list[str]:
    weights = {name: int(weight) for name, weight in zip(model.features, model.weights[0], strict=True)}
    order = sorted(weights, key=lambda name: (-abs(weights[name]), name))
    lines = [f"    {name!r}: {weights[name]}," for name in order]
    return [f"BIAS = {int(model.biases[0])}", "WEIGHTS = MappingProxyType({", *lines, "})"]


def _many_label_table(model: LinearModel) -> list[str]:
    columns = model.weights.T
    order = sorted(range(len(model.features)), key=lambda c: (-int(np.abs(columns[c]).max()), model.features[c]))
    lines = []
    for column in order:
        weights = " ".join(f"{label} {columns[column][label]}" for label in np.flatnonzero(columns[column]))
        lines.append(escaped(f"{weights} :{model.features[column]}"))
    biases = tuple(int(bias) for bias in model.biases)
    table = "\n".join(lines)
    return [
        f'LANES = "<{len(biases)}I"',
        f"BIASES = {biases!r}",
        "",
        "",
        _PARSED,
        "",
        'WEIGHTS = MappingProxyType(dict(map(parsed, """\\',
        f'{table}""".split("\\n"))))',
    ]


def _strongest(weights: NDArray[np.int64]) -> NDArray[np.int64]:
    """At most ``MAX_WEIGHTS`` weights, the largest in size; the rest becomes 0."""
    strength = np.abs(weights).ravel()
    if np.count_nonzero(strength) <= MAX_WEIGHTS:
        return weights
    dropped = np.argsort(-strength, kind="stable")[MAX_WEIGHTS:]
    flat = weights.ravel().copy()
    flat[dropped] = 0
    return flat.reshape(weights.shape)


def _require_enough(task: LabelTask) -> None:
    if len(task.examples) < MIN_EXAMPLES:
        raise CannotLearn(
            f"a classifier needs at least {MIN_EXAMPLES} examples and got {len(task.examples)}; "
            "give more, or use the strategy 'rule'"
        )
    texts = Counter(label for _, label in {(example.text, example.label) for example in task.examples})
    if sum(count >= 2 for count in texts.values()) < 2:
        raise CannotLearn("a classifier needs two labels with at least two different examples each; give more examples")


def _within_limits(task: LabelTask) -> tuple[LabelTask, tuple[str, ...]]:
    """The task with as many examples as fit into memory; the examples left out are spread evenly."""
    lengths = [min(len(example.text), text_features.MAX_CHARACTERS) for example in task.examples]
    total = sum(lengths)
    if total <= MAX_TRAINING_CHARACTERS:
        return task, ()
    kept = int(len(task.examples) * MAX_TRAINING_CHARACTERS / total)
    chosen = [task.examples[position * len(task.examples) // kept] for position in range(kept)]
    note = f"The examples hold more text than is learned from; {kept} of {len(task.examples)} were used."
    return (
        LabelTask(task.name, task.description, task.input_properties, task.output_property, task.labels, tuple(chosen)),
        (note,),
    )


def _notes(task: LabelTask, model: LinearModel) -> tuple[str, ...]:
    missing = len(task.labels) - len(model.labels)
    if missing == 0:
        return ()
    return (f"{missing} of {len(task.labels)} labels have no example, and the program never gives them.",)
