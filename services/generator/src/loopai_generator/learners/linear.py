"""Text to label by a linear classifier over words, pairs of words and runs of characters.

The classifier is scikit-learn's ``LinearSVC`` on binary features: fitted on all of them, fitted again on the strongest,
and its weights rounded to integers, so that the program's sums are exact in any order. What is cross-validated is
the emitted program, rounding and all.
"""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC

from loopai_common.contracts.artifacts import SynthesisStrategy
from loopai_common.contracts.generation import GenerationRequest
from loopai_generator.domain import CannotLearn, CrossValidation, LabelTask, Learned, read_label_task
from loopai_generator.learners import text_features
from loopai_generator.learners.folds import cross_validate, fold_of
from loopai_generator.learners.program import entry_point, header, pattern_line, source_of

MIN_EXAMPLES = 10
MAX_TRAINING_CHARACTERS = 1_500_000
MAX_WEIGHTS = 10_000
MAX_FEATURES = 6000
_SIZES = (4, 3)
_PENALTY = 0.02
_SCALE = 1000
_RARE_FROM = 200
"""With this many examples, a feature of a single one says nothing."""

_MANY_LABELS = 8
"""From here on one size is tried, and the classifier is fitted once: the time grows with the labels."""

Matrix = Any
"""``csr_matrix`` of shape (examples, features) with ones; SciPy carries no types."""


@dataclass(frozen=True, slots=True)
class LinearModel:
    """Integer weights; the label with the highest sum wins, the first one in a tie.

    ``weights`` has shape (labels, features), but for two labels (1, features): there a positive sum says ``labels[1]``.
    ``labels`` are positions among the task's labels.
    """

    size: int
    labels: tuple[int, ...]
    features: tuple[str, ...]
    weights: NDArray[np.int64]
    biases: NDArray[np.int64]


class LinearTextLearner:
    """Needs ten examples, and two labels with two different texts each."""

    strategy: ClassVar = SynthesisStrategy.ML

    def learn(self, request: GenerationRequest) -> Learned:
        task = read_label_task(request)
        _require_enough(task)
        task, notes = _within_limits(task)
        sizes = _SIZES if len(task.labels) < _MANY_LABELS else _SIZES[:1]
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
        self._features, self._rows = feature_matrix([example.text for example in task.examples], size)

    def fit(self, without: int | None) -> LinearModel:
        """Fits on all examples, or on those outside the fold ``without``."""
        chosen = np.flatnonzero(self._folds != without) if without is not None else np.arange(len(self._labels))
        return fit_model(self._rows[chosen], self._labels[chosen], self._features, self._size)

    def code_without(self, fold: int) -> str:
        """The program made from the examples outside ``fold``."""
        return write(self.fit(fold), self._task, None)


def feature_matrix(texts: Sequence[str], size: int) -> tuple[list[str], Matrix]:
    """The features of all texts, sorted, and which text has which: the same whatever the order of sets is."""
    rows = [text_features.features(text, size) for text in texts]
    names = sorted(set().union(*rows))
    column = {name: position for position, name in enumerate(names)}
    lengths = [len(row) for row in rows]
    indices = np.fromiter((column[name] for name in chain.from_iterable(rows)), np.int32, sum(lengths))
    pointers = np.concatenate(([0], np.cumsum(lengths)))
    matrix = csr_matrix((np.ones(len(indices)), indices, pointers), shape=(len(rows), len(names)))
    matrix.sort_indices()
    return names, matrix


def fit_model(rows: Matrix, labels: NDArray[np.int64], features: Sequence[str], size: int) -> LinearModel:
    """Fits the classifier and rounds it; ``labels`` are positions among the task's labels, at least two different."""
    frequent = 2 if len(labels) >= _RARE_FROM else 1
    kept = np.flatnonzero(np.bincount(rows.indices, minlength=rows.shape[1]) >= frequent)
    classifier = _fitted(rows[:, kept], labels)
    outputs = classifier.coef_.shape[0]
    if outputs < _MANY_LABELS:
        strength = np.abs(classifier.coef_).max(axis=0)
        kept = kept[np.sort(np.argsort(-strength, kind="stable")[:MAX_FEATURES])]
        classifier = _fitted(rows[:, kept], labels)
    coefficients = classifier.coef_
    scale = _SCALE / max(np.abs(coefficients).max(), np.finfo(float).tiny)
    weights = _strongest(np.rint(coefficients * scale).astype(np.int64))
    used = np.flatnonzero(weights.any(axis=0))
    return LinearModel(
        size=size,
        labels=tuple(int(label) for label in classifier.classes_),
        features=tuple(features[position] for position in kept[used]),
        weights=weights[:, used],
        biases=np.rint(classifier.intercept_ * scale).astype(np.int64),
    )


def write(model: LinearModel, task: LabelTask, cross_validation: CrossValidation | None) -> str:
    """The program that decides as the model does."""
    two = len(model.labels) == 2
    how = (
        "How it decides: every word, every pair of neighbouring words and every run of "
        f"{model.size} characters that stands in WEIGHTS adds its weight once"
    )
    how += (
        "; a sum above 0 says the second label, any other the first."
        if two
        else " to the labels it speaks for or against; the label with the highest sum wins."
    )
    labels = tuple(task.labels[label] for label in model.labels)
    biases = tuple(int(bias) for bias in model.biases)
    return "\n".join(
        (
            header(task, how, SynthesisStrategy.ML, cross_validation),
            "import re",
            "from itertools import pairwise",
            "from types import MappingProxyType",
            "",
            f"LABELS = {labels!r}",
            f"SIZE = {model.size}",
            f"MAX_CHARACTERS = {text_features.MAX_CHARACTERS}",
            pattern_line("WORD", text_features.WORD),
            pattern_line("DIGIT", text_features.DIGIT),
            f"BIAS = {biases[0]}" if two else f"BIASES = {biases!r}",
            "WEIGHTS = MappingProxyType({",
            *(_two_label_lines(model) if two else _many_label_lines(model)),
            "})",
            "KNOWN = frozenset(WEIGHTS)",
            "",
            "",
            source_of(text_features.features),
            "",
            _CLASSIFY_TWO if two else _CLASSIFY_MANY,
            "",
            entry_point(task),
        )
    )


_CLASSIFY_TWO = """\
def classify(text):
    found = features(text, SIZE) & KNOWN
    return LABELS[BIAS + sum([WEIGHTS[feature] for feature in found]) > 0]
"""

_CLASSIFY_MANY = """\
def classify(text):
    sums = list(BIASES)
    for feature in features(text, SIZE) & KNOWN:
        for position, weight in WEIGHTS[feature]:
            sums[position] += weight
    return LABELS[sums.index(max(sums))]
"""


def _two_label_lines(model: LinearModel) -> list[str]:
    weights = {name: int(weight) for name, weight in zip(model.features, model.weights[0], strict=True)}
    return [f"    {name!r}: {weights[name]}," for name in sorted(weights, key=lambda name: (-abs(weights[name]), name))]


def _many_label_lines(model: LinearModel) -> list[str]:
    columns = model.weights.T
    order = sorted(range(len(model.features)), key=lambda c: (-int(np.abs(columns[c]).max()), model.features[c]))
    lines = []
    for column in order:
        pairs = tuple((int(label), int(columns[column][label])) for label in np.flatnonzero(columns[column]))
        lines.append(f"    {model.features[column]!r}: {pairs!r},")
    return lines


def _fitted(rows: Matrix, labels: NDArray[np.int64]) -> Any:
    classifier = LinearSVC(C=_PENALTY, class_weight="balanced", random_state=0)
    with warnings.catch_warnings():
        # A fit that stops at its bound of iterations is judged like any other: by cross-validation.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return classifier.fit(rows, labels)


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
