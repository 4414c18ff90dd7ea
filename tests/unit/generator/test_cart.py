"""The trainer of trees: grown as scikit-learn's, and boosted as well."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from loopai_generator.learners.cart import (
    Boosting,
    Limits,
    boosted_labels,
    boosted_numbers,
    classification_tree,
    regression_tree,
)
from loopai_generator.learners.tree_code import Leaf, Node, Split, leaves

DEEP = Limits(depth=12, least=1)


def ranks_of(data: NDArray[np.float64]) -> NDArray[np.uint16]:
    """The ranks of each column's values, of shape (columns, rows)."""
    return np.array([np.unique(column, return_inverse=True)[1] for column in data.T], np.uint16)


def answers(tree: Node, ranks: NDArray[np.uint16]) -> NDArray[np.float64]:
    """What the tree says of each row, looked up one by one."""
    found = np.empty(ranks.shape[1])
    for row in range(ranks.shape[1]):
        node = tree
        while isinstance(node, Split):
            node = node.low if ranks[node.column, row] <= node.rank else node.high
        found[row] = node.value
    return found


def depth_of(tree: Node) -> int:
    return 0 if isinstance(tree, Leaf) else 1 + max(depth_of(tree.low), depth_of(tree.high))


def same(tree: Node, fitted: Any, node: int = 0) -> bool:
    """Whether a fitted tree of scikit-learn makes the same splits and gives the same answers."""
    if isinstance(tree, Leaf):
        value = fitted.value[node][0]
        answer = np.argmax(value) if len(value) > 1 else value[0]
        return bool(fitted.children_left[node] == -1 and np.isclose(tree.value, answer))
    return (
        bool(tree.column == fitted.feature[node] and tree.rank == np.floor(fitted.threshold[node]))
        and same(tree.low, fitted, fitted.children_left[node])
        and same(tree.high, fitted, fitted.children_right[node])
    )


def test_tree_of_labels_is_that_of_the_reference_where_no_two_splits_are_equal() -> None:
    draw = np.random.default_rng(0)
    ranks = ranks_of(draw.normal(size=(400, 3)))
    labels = (ranks[0] > 150) * 1 + (ranks[1] + draw.integers(0, 90, 400) > 250) * 1
    reference = DecisionTreeClassifier(max_depth=3, min_samples_leaf=20, random_state=0)
    tree = classification_tree(ranks, labels, Limits(3, 20))
    assert same(tree, reference.fit(ranks.T, labels).tree_)


@pytest.mark.parametrize("least", [1, 5])
def test_tree_of_numbers_is_that_of_the_reference_where_no_two_splits_are_equal(least: int) -> None:
    draw = np.random.default_rng(1)
    ranks = ranks_of(draw.normal(size=(300, 4)))
    targets = ranks[0] * 0.3 + draw.normal(size=300)
    reference = DecisionTreeRegressor(max_depth=4, min_samples_leaf=least, random_state=0).fit(ranks.T, targets)
    assert same(regression_tree(ranks, targets, Limits(4, least)), reference.tree_)


def test_tree_of_flowers_is_as_large_and_as_right_as_the_reference() -> None:
    data = load_iris()
    ranks = ranks_of(data.data)
    tree = classification_tree(ranks, data.target, DEEP)
    reference = DecisionTreeClassifier(max_depth=12, random_state=0).fit(ranks.T, data.target)
    assert (answers(tree, ranks) == data.target).all()
    assert abs(leaves(tree) - reference.get_n_leaves()) <= 1


@pytest.mark.parametrize("load", [load_wine, load_breast_cancer])
def test_boosted_labels_are_as_good_on_unseen_rows_as_the_reference(load: Any) -> None:
    data = load()
    ranks, unseen = ranks_of(data.data), np.arange(len(data.target)) % 3 == 0
    known, truth = ranks[:, ~unseen], data.target[~unseen]
    trees = boosted_labels(known, truth, Boosting(40, 0.1, 0.5, Limits(3, 5)))
    labels = int(truth.max()) + 1
    shares = np.bincount(truth) / len(truth)
    sums = np.tile(np.log(shares) if labels > 2 else [0.0, np.log(shares[1] / shares[0])], (int(unseen.sum()), 1))
    for number, tree in trees:
        sums[:, number + (labels == 2)] += answers(tree, ranks[:, unseen])
    reference = GradientBoostingClassifier(
        n_estimators=40, subsample=0.5, min_samples_leaf=5, max_depth=3, random_state=0
    ).fit(known.T, truth)
    ours = np.mean(np.argmax(sums, axis=1) == data.target[unseen])
    assert ours >= reference.score(ranks[:, unseen].T, data.target[unseen]) - 0.03


def test_boosted_numbers_are_as_good_on_unseen_rows_as_the_reference() -> None:
    data = load_diabetes(scaled=False)
    ranks, unseen = ranks_of(data.data), np.arange(len(data.target)) % 3 == 0
    known, truth = ranks[:, ~unseen], data.target[~unseen]
    trees = boosted_numbers(known, truth, Boosting(120, 0.1, 0.5, Limits(2, 10)))
    sums = truth.mean() + sum(answers(tree, ranks[:, unseen]) for _, tree in trees)
    reference = GradientBoostingRegressor(
        n_estimators=120, subsample=0.5, min_samples_leaf=10, max_depth=2, random_state=0
    ).fit(known.T, truth)
    errors = data.target[unseen] - sums
    r2 = 1 - np.sum(errors**2) / np.sum((data.target[unseen] - data.target[unseen].mean()) ** 2)
    assert r2 >= reference.score(ranks[:, unseen].T, data.target[unseen]) - 0.05


def test_without_sampling_boosted_numbers_are_those_of_the_reference() -> None:
    draw = np.random.default_rng(2)
    ranks = ranks_of(draw.normal(size=(200, 3)))
    targets = ranks[0] * 0.1 + np.sin(ranks[1] / 9.0) + draw.normal(size=200)
    trees = boosted_numbers(ranks, targets, Boosting(15, 0.1, 1.0, Limits(2, 10)))
    reference = GradientBoostingRegressor(n_estimators=15, max_depth=2, min_samples_leaf=10, random_state=0)
    sums = targets.mean() + sum(answers(tree, ranks) for _, tree in trees)
    assert np.allclose(sums, reference.fit(ranks.T, targets).predict(ranks.T))


@pytest.mark.parametrize("labels", [2, 3])
def test_without_sampling_boosted_labels_are_those_of_the_reference(labels: int) -> None:
    draw = np.random.default_rng(3)
    ranks = ranks_of(draw.normal(size=(300, 3)))
    named = (ranks[0] + draw.integers(0, 120, 300)) * labels // 420
    trees = boosted_labels(ranks, named, Boosting(10, 0.1, 1.0, Limits(2, 10)))
    sums = np.zeros((300, max(1, labels if labels > 2 else 1)))
    for number, tree in trees:
        sums[:, number] += answers(tree, ranks)
    reference = GradientBoostingClassifier(n_estimators=10, max_depth=2, min_samples_leaf=10, random_state=0)
    expected = np.asarray(reference.fit(ranks.T, named).decision_function(ranks.T)).reshape(300, -1)
    moved = sums - expected
    assert np.allclose(moved, moved[0])


def test_same_rows_give_the_same_trees() -> None:
    data = load_wine()
    boosting = Boosting(5, 0.1, 0.5, Limits(3, 5))
    first, second = (boosted_labels(ranks_of(data.data), data.target, boosting) for _ in range(2))
    assert first == second


def test_of_equal_splits_the_first_column_and_the_lowest_rank_are_taken() -> None:
    column = np.arange(9, dtype=np.uint16)
    labels = np.array([0, 0, 0, 1, 1, 1, 0, 0, 0])
    turned = column[::-1]
    tree = classification_tree(np.array([column, column, turned]), labels, Limits(1, 1))
    assert isinstance(tree, Split)
    assert (tree.column, tree.rank) == (0, 2)
    numbers = regression_tree(np.array([turned, column]), labels * 0.1, Limits(1, 1))
    assert isinstance(numbers, Split)
    assert (numbers.column, numbers.rank) == (0, 2)


def test_a_limit_lies_halfway_between_two_ranks() -> None:
    tree = regression_tree(np.array([[1, 1, 7, 7]], np.uint16), np.array([0.0, 0.0, 1.0, 1.0]), DEEP)
    assert tree == Split(0, 4, Leaf(0.0), Leaf(1.0))


def test_labels_that_no_single_split_helps_to_tell_are_told_by_two() -> None:
    ranks = np.array([[0, 0, 1, 1], [0, 1, 0, 1]], np.uint16)
    assert (answers(classification_tree(ranks, np.array([0, 1, 1, 0]), DEEP), ranks) == [0, 1, 1, 0]).all()


def test_depth_and_leaves_keep_their_limits() -> None:
    draw = np.random.default_rng(4)
    ranks, labels = ranks_of(draw.normal(size=(500, 5))), draw.integers(0, 4, 500)
    tree = classification_tree(ranks, labels, Limits(5, 7))
    assert depth_of(tree) <= 5

    def smallest(node: Node, rows: NDArray[np.intp]) -> int:
        if isinstance(node, Leaf):
            return len(rows)
        low = ranks[node.column, rows] <= node.rank
        return min(smallest(node.low, rows[low]), smallest(node.high, rows[~low]))

    assert smallest(tree, np.arange(500)) >= 7


@pytest.mark.parametrize("ranks", [np.zeros((3, 50), np.uint16), np.zeros((1, 50), np.uint32)])
def test_rows_that_are_all_the_same_make_one_leaf(ranks: NDArray[np.uint16]) -> None:
    labels = np.arange(50) % 5 % 3
    assert classification_tree(ranks, labels, DEEP) == Leaf(0)
    assert regression_tree(ranks, np.array(labels, np.float64), DEEP) == Leaf(float(labels.mean()))
    assert {type(tree) for _, tree in boosted_labels(ranks, labels, Boosting(4, 0.1, 0.5, Limits(3, 1)))} == {Leaf}


def test_a_label_with_one_row_and_a_hundred_labels_are_told_apart() -> None:
    ranks = np.arange(100, dtype=np.uint16)[None]
    assert (answers(classification_tree(ranks, np.arange(100), Limits(100, 1)), ranks) == np.arange(100)).all()
    rare = (np.arange(100) == 40).astype(int)
    assert (answers(classification_tree(ranks, rare, DEEP), ranks) == rare).all()
    assert len(boosted_labels(ranks, rare, Boosting(8, 0.1, 0.5, Limits(3, 1)))) == 8


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_numbers_of_any_size_are_told_apart(size: float) -> None:
    ranks = np.arange(40, dtype=np.uint16)[None]
    targets = np.array(size * (np.arange(40) // 10), np.float64)
    assert np.allclose(answers(regression_tree(ranks, targets, DEEP), ranks) / size, targets / size)
