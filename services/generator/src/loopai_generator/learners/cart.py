"""Decision trees and sums of them, trained with NumPy alone.

A tree is grown by CART (Breiman et al. 1984, "Classification and Regression Trees"): each split is the one that takes
most of the Gini impurity or of the squared error away. ``ranks`` have shape (columns, rows); a limit lies half-way
between two. Of splits that are equally good up to rounding, the first column's is taken, and of these the lowest.
Sums are grown by gradient boosting (Friedman 2001, "Greedy function approximation: a gradient boosting machine"), each
tree on a part of the rows (Friedman 2002, "Stochastic gradient boosting").
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loopai_generator.learners.records import Ranks
from loopai_generator.learners.tree_code import Leaf, Node, Split

_CELLS = 1 << 16
"""Columns are looked at in blocks of about as many cells, which bounds the memory."""

_ROUNDING = 1e-10

_Gains = Callable[[NDArray[np.generic]], NDArray[np.float64]]
"""From targets of shape (columns, n), sorted by each column: the share that a split after each takes away."""

_Answer = Callable[[NDArray[np.intp]], int | float]


@dataclass(frozen=True, slots=True)
class Limits:
    """How deep a tree may be, and how few rows a leaf may have."""

    depth: int
    least: int


@dataclass(frozen=True, slots=True)
class Boosting:
    """``stages`` times a tree for each sum, on a ``share`` of the rows, that adds ``rate`` of a Newton step."""

    stages: int
    rate: float
    share: float
    limits: Limits


def classification_tree(ranks: Ranks, labels: NDArray[np.intp], limits: Limits) -> Node:
    """A tree whose leaves have the most frequent label of their rows, the first in a tie; ``labels`` are 0, 1, 2 ..."""

    def answer(rows: NDArray[np.intp]) -> int:
        return int(np.argmax(np.bincount(labels[rows])))

    # As 16 bits, NumPy sorts them in linear time.
    return _Grower(ranks, labels.astype(np.uint16), _gini_gains, answer, limits).grow(np.arange(len(labels)))


def regression_tree(ranks: Ranks, targets: NDArray[np.float64], limits: Limits) -> Node:
    """A tree whose leaves have the mean of the targets of their rows."""

    def answer(rows: NDArray[np.intp]) -> float:
        return float(targets[rows].mean())

    return _Grower(ranks, targets, _variance_gains, answer, limits).grow(np.arange(len(targets)))


def boosted_numbers(ranks: Ranks, targets: NDArray[np.float64], boosting: Boosting) -> list[tuple[int, Node]]:
    """Trees that add to the mean of the targets; each with 0, the number of the sum."""

    def gradient(sums: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return targets[:, None] - sums, np.ones_like(sums)

    return _boosted(ranks, np.array([targets.mean()]), gradient, boosting)


def boosted_labels(ranks: Ranks, labels: NDArray[np.intp], boosting: Boosting) -> list[tuple[int, Node]]:
    """Trees that add to the logarithms of the labels' shares, each with the number of its sum.

    ``labels`` are 0, 1, 2 ..., all with rows. With two there is one sum, that of the second's odds.
    """
    shares = np.bincount(labels) / len(labels)
    if len(shares) == 2:
        starts, truth = np.log(shares[1:] / shares[:1]), labels[:, None] == 1
    else:
        starts, truth = np.log(shares), labels[:, None] == np.arange(len(shares))
    # Sums for all labels have one degree of freedom more than there is (Friedman 2001, algorithm 6).
    damping = (len(starts) - 1) / len(starts) if len(starts) > 1 else 1.0

    def gradient(sums: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        # One sum is that of the second label, beside a first that stays at 0.
        all_sums = sums if len(starts) > 1 else np.column_stack((np.zeros(len(sums)), sums))
        odds = np.exp(all_sums - all_sums.max(axis=1, keepdims=True))
        chances = (odds / odds.sum(axis=1, keepdims=True))[:, -len(starts) :]
        return truth - chances, chances * (1.0 - chances) / damping

    return _boosted(ranks, starts, gradient, boosting)


def _boosted(
    ranks: Ranks,
    starts: NDArray[np.float64],
    gradient: Callable[[NDArray[np.float64]], tuple[NDArray[np.float64], NDArray[np.float64]]],
    boosting: Boosting,
) -> list[tuple[int, Node]]:
    """``gradient`` gives, for the sums of each row, what is missing from them and how much a step changes that."""
    draw = np.random.default_rng(0)
    examples = ranks.shape[1]
    sums = np.tile(starts, (examples, 1))
    trees: list[tuple[int, Node]] = []
    for _ in range(boosting.stages):
        chosen = np.sort(draw.permutation(examples)[: max(1, int(boosting.share * examples))])
        missing, curvature = gradient(sums)
        for number in range(len(starts)):
            own, bend = missing[:, number], curvature[:, number]

            def newton_step(
                rows: NDArray[np.intp], own: NDArray[np.float64] = own, bend: NDArray[np.float64] = bend
            ) -> float:
                total = float(bend[rows].sum())
                return boosting.rate * float(own[rows].sum()) / total if total > np.finfo(float).tiny else 0.0

            tree = _Grower(ranks, own, _variance_gains, newton_step, boosting.limits).grow(chosen)
            _add_answers(tree, ranks, np.arange(examples), sums[:, number])
            trees.append((number, tree))
    return trees


@dataclass(frozen=True, slots=True)
class _Grower:
    ranks: Ranks
    targets: NDArray[np.generic]
    gains: _Gains
    answer: _Answer
    limits: Limits

    def grow(self, rows: NDArray[np.intp], depth: int = 0) -> Node:
        """The tree for these rows, which stand ``depth`` splits below the root."""
        targets = self.targets[rows]
        ended = depth == self.limits.depth or len(rows) < 2 * self.limits.least or bool((targets == targets[0]).all())
        found = None if ended else self._best_split(rows, targets)
        if found is None:
            return Leaf(self.answer(rows))
        column, rank = found
        low = self.ranks[column, rows] <= rank
        return Split(column, rank, self.grow(rows[low], depth + 1), self.grow(rows[~low], depth + 1))

    def _best_split(self, rows: NDArray[np.intp], targets: NDArray[np.generic]) -> tuple[int, int] | None:
        """The column, and the rank up to which its low side goes; ``None`` when no split leaves enough rows."""
        best, most = None, -np.inf
        block = max(1, _CELLS // len(rows))
        offset = self.limits.least - 1
        places = slice(offset, len(rows) - self.limits.least)
        for first in range(0, len(self.ranks), block):
            held = self.ranks[first : first + block].take(rows, axis=1)
            order = np.argsort(held, axis=1, kind="stable")
            held = np.take_along_axis(held, order, axis=1)
            parted = held[:, places] < held[:, 1:][:, places]
            gained = np.where(parted, self.gains(targets[order])[:, places], -np.inf)
            highest = float(gained.max())
            if highest > most + _ROUNDING:
                column, place = divmod(int(np.argmax(gained >= highest - _ROUNDING)), gained.shape[1])
                low, high = (int(rank) for rank in held[column, offset + place : offset + place + 2])
                best, most = (first + column, (low + high) // 2), highest
        return best


def _gini_gains(labels: NDArray[np.generic]) -> NDArray[np.float64]:
    """By the sums of squared counts of both sides, which are whole numbers and so exact."""
    size = labels.shape[1]
    counts = np.bincount(labels[0])
    order = np.argsort(labels, axis=1, kind="stable")
    # How many rows with the same label come before each: the next of them adds (before + 1)^2 - before^2.
    before = np.empty(labels.shape, np.int64)
    np.put_along_axis(before, order, np.concatenate([np.arange(count) for count in counts])[None], axis=1)
    low = np.cumsum(2 * before + 1, axis=1)
    whole = int(counts @ counts)
    high = whole - 2 * np.cumsum(counts[labels], axis=1) + low
    sizes = np.arange(1, size)
    pure = low[:, :-1] / sizes + high[:, :-1] / (size - sizes)
    gained: NDArray[np.float64] = (pure - whole / size) / (size - whole / size)
    return gained


def _variance_gains(targets: NDArray[np.generic]) -> NDArray[np.float64]:
    size = targets.shape[1]
    centred = targets - targets[0].mean()
    centred /= np.abs(centred[0]).max()
    low = np.cumsum(centred, axis=1)[:, :-1]
    sizes = np.arange(1, size)
    gained: NDArray[np.float64] = low * low * (size / (sizes * (size - sizes))) / (centred[0] @ centred[0])
    return gained


def _add_answers(tree: Node, ranks: Ranks, rows: NDArray[np.intp], sums: NDArray[np.float64]) -> None:
    """Adds to the sums of ``rows`` what the tree answers for them."""
    if isinstance(tree, Leaf):
        sums[rows] += tree.value
        return
    low = ranks[tree.column, rows] <= tree.rank
    _add_answers(tree.low, ranks, rows[low], sums)
    _add_answers(tree.high, ranks, rows[~low], sums)
