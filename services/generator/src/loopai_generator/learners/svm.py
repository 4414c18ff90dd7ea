"""Linear support vector machines over rows of ones and zeros, trained with NumPy alone.

The problem is that of LIBLINEAR's L2-regularised squared hinge loss (Fan et al. 2008, "LIBLINEAR: A library for large
linear classification"): ``1/2 |w|^2 + sum of C_i max(0, 1 - y_i w x_i)^2``, with the intercept as a regularised weight.
It is solved in the primal by a truncated Newton method with line search (Galli & Lin 2021, "A study on truncated Newton
methods for linear classification"). Only rows with a loss bend it, so the products of a step look at these alone
(Keerthi & DeCoste 2005, "A modified finite Newton method for fast solution of large scale linear SVMs").
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MAX_STEPS = 100
_MAX_DIRECTIONS = 200
_MAX_HALVINGS = 30
_SUFFICIENT = 0.01
_RESIDUAL = 0.3
"""How much of the gradient a Newton step may leave: steps far from the solution need not be exact."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A matrix of ones and zeros: row ``i`` has its ones in ``columns[starts[i] : starts[i + 1]]``, below ``width``."""

    columns: NDArray[np.intp]
    starts: NDArray[np.intp]
    width: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    def lengths(self) -> NDArray[np.intp]:
        """How many ones each row has."""
        return np.diff(self.starts)

    def counts(self) -> NDArray[np.intp]:
        """How many ones each column has."""
        return np.bincount(self.columns, minlength=self.width)

    def some(self, chosen: NDArray[np.intp]) -> "Rows":
        """The rows at these positions, in this order."""
        lengths = self.lengths()[chosen]
        starts = _starts(lengths)
        places = np.arange(starts[-1]) + np.repeat(self.starts[chosen] - starts[:-1], lengths)
        return Rows(self.columns[places], starts, self.width)

    def only(self, kept: NDArray[np.intp]) -> "Rows":
        """All rows, with these columns alone, numbered in this order."""
        numbers = np.full(self.width, -1)
        numbers[kept] = np.arange(len(kept))
        columns = numbers[self.columns]
        held = columns >= 0
        return Rows(columns[held], _starts(held)[self.starts], len(kept))

    def with_intercept(self) -> "Rows":
        """The rows with one more column, at the end, which all of them have."""
        columns = np.insert(self.columns, self.starts[1:], self.width)
        return Rows(columns, self.starts + np.arange(len(self.starts)), self.width + 1)

    def times(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sum of each row's weights; no row may be empty."""
        return np.add.reduceat(weights.take(self.columns), self.starts[:-1])

    def transposed_times(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """For each column, the sum of the weights of its rows."""
        sums = np.bincount(self.columns, np.repeat(weights, self.lengths()), self.width)
        return sums.astype(np.float64, copy=False)


@dataclass(frozen=True, slots=True)
class Fitted:
    """``weights`` has shape (labels, columns), ``intercepts`` (labels,); with two, one row speaks for the second."""

    labels: NDArray[np.int64]
    weights: NDArray[np.float64]
    intercepts: NDArray[np.float64]


def fit(rows: Rows, labels: NDArray[np.int64], *, penalty: float, tolerance: float) -> Fitted:
    """Fits one against the rest, with penalties that rise as a label is rarer: ``class_weight="balanced"``.

    ``labels`` are at least two different ones. Stops, as LIBLINEAR does, where the gradient has shrunk to the
    ``tolerance`` times the share of the rarer side.
    """
    known, counts = np.unique(labels, return_counts=True)
    penalties = penalty * len(labels) / (len(known) * counts)
    extended = rows.with_intercept()
    if len(known) == 2:
        solutions = [_solve(extended, labels == known[1], (penalties[0], penalties[1]), tolerance)]
    else:
        solutions = [
            _solve(extended, labels == label, (penalty, own), tolerance)
            for label, own in zip(known, penalties, strict=True)
        ]
    weights = np.array(solutions)
    return Fitted(known, weights[:, :-1], weights[:, -1])


def _solve(
    rows: Rows, positive: NDArray[np.bool_], penalties: tuple[float, float], tolerance: float
) -> NDArray[np.float64]:
    """The weights for ``positive`` against the rest; ``penalties`` are those of the rest and of the positive ones."""
    signs = np.where(positive, 1.0, -1.0)
    costs = np.where(positive, penalties[1], penalties[0])
    weights, sums = np.zeros(rows.width), np.zeros(len(rows))
    enough = None
    for _ in range(_MAX_STEPS):
        losses = 1.0 - signs * sums
        active = np.flatnonzero(losses > 0.0)
        bent, curvature = rows.some(active), 2.0 * costs[active]
        gradient = weights - bent.transposed_times(curvature * signs[active] * losses[active])
        size = float(np.linalg.norm(gradient))
        if enough is None:
            enough = tolerance * min(positive.mean(), 1.0 - positive.mean()) * size
        if size <= enough:
            break
        direction = _newton_direction(bent, curvature, gradient)
        moves = rows.times(direction)
        step = _step(weights, direction, signs * sums, signs * moves, costs, float(gradient @ direction))
        if step == 0.0:
            break
        weights += step * direction
        sums += step * moves
    return weights


def _newton_direction(bent: Rows, curvature: NDArray[np.float64], gradient: NDArray[np.float64]) -> NDArray[np.float64]:
    """Conjugate gradients on the Hessian ``I + X' diag(curvature) X``, until the residual is small enough."""
    direction = np.zeros_like(gradient)
    residual = -gradient
    search = residual
    square = float(residual @ residual)
    enough = _RESIDUAL**2 * square
    for _ in range(_MAX_DIRECTIONS):
        image = search + bent.transposed_times(curvature * bent.times(search))
        length = square / float(search @ image)
        direction += length * search
        residual = residual - length * image
        before, square = square, float(residual @ residual)
        if square <= enough:
            break
        search = residual + square / before * search
    return direction


def _step(
    weights: NDArray[np.float64],
    direction: NDArray[np.float64],
    margins: NDArray[np.float64],
    moves: NDArray[np.float64],
    costs: NDArray[np.float64],
    slope: float,
) -> float:
    """The first of 1, 1/2, 1/4 ... that lowers the objective enough (Armijo); 0 when rounding leaves none."""

    def objective(step: float) -> float:
        moved = weights + step * direction
        losses = np.maximum(0.0, 1.0 - margins - step * moves)
        return float(0.5 * (moved @ moved) + costs @ (losses * losses))

    start, step = objective(0.0), 1.0
    for _ in range(_MAX_HALVINGS):
        if objective(step) <= start + _SUFFICIENT * step * slope:
            return step
        step /= 2.0
    return 0.0


def _starts(lengths: NDArray[np.intp] | NDArray[np.bool_]) -> NDArray[np.intp]:
    return np.concatenate(([0], np.cumsum(lengths, dtype=np.intp)))
