"""The trainer of the linear classifier: the solution is that of scikit-learn's ``LinearSVC``."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.svm import LinearSVC

from loopai_generator.domain import read_label_task
from loopai_generator.learners.linear import feature_matrix
from loopai_generator.learners.svm import Fitted, Rows, fit
from tests.support.sms import generation_request, messages


def rows_of(matrix: NDArray[np.bool_]) -> Rows:
    """The ones of a matrix."""
    return Rows(np.nonzero(matrix)[1], np.concatenate(([0], np.cumsum(matrix.sum(axis=1)))), matrix.shape[1])


def drawn(examples: int, columns: int, labels: int, *, seed: int = 0) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Rows whose label shows in some of their columns, with noise."""
    draw = np.random.default_rng(seed)
    named = np.arange(examples) % labels
    odds = draw.random((labels, columns)) ** 3
    return draw.random((examples, columns)) < odds[named], named


def decisions(rows: Rows, fitted: Fitted) -> NDArray[np.float64]:
    """Of shape (labels, rows)."""
    together = np.column_stack((fitted.weights, fitted.intercepts))
    return np.array([rows.with_intercept().times(weights) for weights in together])


def reference(rows: Rows, labels: NDArray[np.int64], penalty: float) -> Any:
    """scikit-learn's weights and intercepts, as near to the solution as it gets."""
    matrix = csr_matrix((np.ones(len(rows.columns)), rows.columns, rows.starts), shape=(len(rows), rows.width))
    model = LinearSVC(C=penalty, tol=1e-8, max_iter=100_000, class_weight="balanced", random_state=0)
    fitted = model.fit(matrix, labels)
    return Fitted(fitted.classes_, fitted.coef_, fitted.intercept_)


@pytest.mark.parametrize(("examples", "columns", "labels"), [(200, 30, 2), (60, 300, 2), (300, 40, 5), (40, 2, 3)])
@pytest.mark.parametrize("penalty", [0.02, 1.0])
def test_decisions_are_those_of_the_reference(examples: int, columns: int, labels: int, penalty: float) -> None:
    matrix, named = drawn(examples, columns, labels)
    rows = rows_of(matrix)
    fitted = fit(rows, named, penalty=penalty, tolerance=1e-6)
    expected = decisions(rows, reference(rows, named, penalty))
    assert np.abs(decisions(rows, fitted) - expected).max() < 1e-3


def test_decisions_on_real_messages_are_those_of_the_reference() -> None:
    task = read_label_task(generation_request(messages()[:500]))
    _, rows = feature_matrix(task.examples, 4)
    labels = np.array([example.label for example in task.examples])
    expected = decisions(rows, reference(rows, labels, 0.02))
    assert np.abs(decisions(rows, fit(rows, labels, penalty=0.02, tolerance=1e-3)) - expected).max() < 0.01


def test_at_the_solution_the_objective_has_no_slope() -> None:
    matrix, named = drawn(150, 40, 2)
    fitted = fit(rows_of(matrix), named, penalty=0.5, tolerance=1e-9)
    extended = np.column_stack((matrix, np.ones(len(matrix)))).astype(np.float64)
    weights = np.append(fitted.weights[0], fitted.intercepts[0])
    signs = np.where(named == 1, 1.0, -1.0)
    losses = np.maximum(0.0, 1.0 - signs * (extended @ weights))
    assert np.abs(weights - extended.T @ (2 * 0.5 * signs * losses)).max() < 1e-6


def test_same_rows_give_the_same_bytes() -> None:
    matrix, named = drawn(200, 50, 4)
    first, second = (fit(rows_of(matrix), named, penalty=0.1, tolerance=0.1) for _ in range(2))
    assert first.weights.tobytes() == second.weights.tobytes()


@pytest.mark.parametrize("labels", [2, 100])
@pytest.mark.parametrize(
    "matrix",
    [np.zeros((200, 1), bool), np.ones((200, 1), bool), np.ones((200, 3), bool), np.zeros((200, 0), bool)],
    ids=["empty rows", "one constant column", "identical rows", "no columns"],
)
@pytest.mark.parametrize("penalty", [1e-9, 1.0, 1e9])
def test_rows_that_say_nothing_end_in_finite_weights(matrix: NDArray[np.bool_], labels: int, penalty: float) -> None:
    fitted = fit(rows_of(matrix), np.arange(200) % labels, penalty=penalty, tolerance=1e-3)
    assert fitted.weights.shape == (1 if labels == 2 else labels, matrix.shape[1])
    assert np.isfinite(fitted.weights).all()
    assert np.isfinite(fitted.intercepts).all()


def test_one_column_is_enough_to_tell_two_labels_apart() -> None:
    named = np.arange(40) % 2
    fitted = fit(rows_of(named[:, None] == 1), named, penalty=1.0, tolerance=1e-3)
    assert (decisions(rows_of(np.array([[False], [True]])), fitted)[0] > 0).tolist() == [False, True]


def test_a_label_with_a_single_example_is_found_by_what_only_it_has() -> None:
    matrix, named = drawn(90, 20, 3)
    matrix = np.column_stack((matrix, np.arange(90) == 7))
    named[7] = 3
    fitted = fit(rows_of(matrix), named, penalty=1.0, tolerance=1e-3)
    assert fitted.labels[np.argmax(decisions(rows_of(matrix), fitted)[:, 7])] == 3


def test_labels_need_not_be_numbered_without_gaps() -> None:
    matrix, named = drawn(60, 20, 2)
    assert fit(rows_of(matrix), 5 + 4 * named, penalty=1.0, tolerance=1e-3).labels.tolist() == [5, 9]


def test_parts_of_rows_are_those_of_the_matrix() -> None:
    matrix, _ = drawn(30, 12, 2)
    matrix[3] = False
    chosen, kept = np.array([3, 0, 29, 3]), np.array([11, 2, 5])
    part = rows_of(matrix).some(chosen).only(kept)
    held = np.zeros((4, 3), bool)
    held[np.repeat(np.arange(4), part.lengths()), part.columns] = True
    assert (held == matrix[chosen][:, kept]).all()
    assert part.counts().tolist() == held.sum(axis=0).tolist()


def test_products_are_those_of_the_matrix() -> None:
    matrix, _ = drawn(30, 12, 2)
    rows, extended = rows_of(matrix).with_intercept(), np.column_stack((matrix, np.ones(30))).astype(np.float64)
    draw = np.random.default_rng(1)
    weights, across = draw.random(13), draw.random(30)
    assert np.allclose(rows.times(weights), extended @ weights)
    assert np.allclose(rows.transposed_times(across), extended.T @ across)
