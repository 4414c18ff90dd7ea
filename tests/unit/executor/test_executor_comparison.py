"""When an output counts as the expected one."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopai_common.contracts.tasks import Comparison
from loopai_executor.comparison import (
    MAX_FUZZY_CHARACTERS,
    edit_distance,
    equal_outputs,
    similarity,
    text_similarity,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
TEXT = st.text(alphabet="abc \u00e9\U0001f642", max_size=30)


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        (1, 1),
        (1, 1.0),
        (0.3, 0.1 + 0.2),
        ("a", "a"),
        (None, None),
        (True, True),
        ([1, [2, {"a": None}]], [1, [2, {"a": None}]]),
        ({"a": 1, "b": 2}, {"b": 2.0000000001, "a": 1}),
        (10**30, 10**30),
    ],
)
def test_equal_outputs(expected: Any, actual: Any) -> None:
    assert equal_outputs(expected, actual)
    assert equal_outputs(actual, expected)


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        (1, True),
        (0, False),
        (True, False),
        (0, None),
        (1, "1"),
        (1.0, 1.0000001),
        ([1, 2], [2, 1]),
        ([1], [1, 1]),
        ({"a": 1}, {"a": 1, "b": None}),
        ([], {}),
        ("", 7.204908994026482),
        ([True], [1]),
    ],
)
def test_unequal_outputs(expected: Any, actual: Any) -> None:
    assert not equal_outputs(expected, actual)
    assert not equal_outputs(actual, expected)


@given(JSON)
def test_every_output_is_wholly_similar_to_itself(value: Any) -> None:
    assert [similarity(comparison, value, value) for comparison in Comparison] == [1.0] * len(Comparison)


@given(JSON, JSON)
def test_similarity_is_a_share_whichever_output_comes_first(one: Any, other: Any) -> None:
    for comparison in Comparison:
        near = similarity(comparison, one, other)
        assert 0.0 <= near <= 1.0
        assert similarity(comparison, other, one) == near


@given(JSON, JSON)
def test_outputs_are_wholly_similar_exactly_when_they_are_equal(one: Any, other: Any) -> None:
    assert [similarity(comparison, one, other) == 1.0 for comparison in Comparison] == [
        equal_outputs(one, other)
    ] * len(Comparison)


def distance_by_table(one: str, other: str) -> int:
    """Wagner and Fischer 1974: the definition, row by row."""
    row = list(range(len(other) + 1))
    for i, left in enumerate(one, start=1):
        above, row[0] = row[0], i
        for j, right in enumerate(other, start=1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (left != right))
    return row[-1]


@given(TEXT, TEXT)
def test_edit_distance_is_levenshteins(one: str, other: str) -> None:
    assert edit_distance(one, other) == distance_by_table(one, other)


@pytest.mark.parametrize(
    ("one", "other", "near"),
    [
        ("", "", 1.0),
        ("", "abc", 0.0),
        ("kitten", "sitting", 4 / 7),
        ("12 Main Street", "12 Main street", 13 / 14),
        ("ab" * 200, "ab" * 199 + "b", 399 / 400),
    ],
)
def test_similarity_of_texts_is_one_minus_the_normalised_distance(one: str, other: str, near: float) -> None:
    assert text_similarity(one, other) == near


def test_texts_too_long_to_compare_are_similar_only_when_equal() -> None:
    long = "a" * (MAX_FUZZY_CHARACTERS + 1)
    assert text_similarity(long, long) == 1.0
    assert text_similarity(long, long[:-1] + "b") == 0.0


@pytest.mark.parametrize(
    ("expected", "actual", "near"),
    [
        ("abcde", "abcdx", 0.8),
        ({"city": "Berlin", "zip": 10115}, {"city": "Berlim", "zip": 10115}, 5 / 6),
        ({"city": "Berlin", "zip": 10115}, {"city": "Berlin", "zip": 10116}, 0.0),
        (["abcde", "abcd"], ["abcdx", "abcx"], 0.75),
        (["a"], ["a", "b"], 0.0),
        ({"a": "x"}, {"b": "x"}, 0.0),
        ("1", 1, 0.0),
        (1.0, 1.0 + 1e-10, 1.0),
        ({}, [], 0.0),
    ],
)
def test_fuzzy_lets_only_strings_differ_and_the_least_similar_decides(expected: Any, actual: Any, near: float) -> None:
    assert similarity(Comparison.FUZZY, expected, actual) == near


@pytest.mark.parametrize(
    ("expected", "actual", "near"),
    [
        (100, 90, 0.9),
        (100.0, 125, 0.8),
        (-10, 10, 0.0),
        (0, 0.0, 1.0),
        (0, 1, 0.0),
        ({"price": 200, "unit": "EUR"}, {"price": 150, "unit": "EUR"}, 0.75),
        ({"price": 200, "unit": "EUR"}, {"price": 200, "unit": "USD"}, 0.0),
        ([100, 10], [99, 9], 0.9),
        (True, 1, 0.0),
        (10**400, 10**400 - 1, 1.0),
        ("100", 100, 0.0),
    ],
)
def test_numeric_lets_only_numbers_differ_and_the_least_similar_decides(
    expected: Any, actual: Any, near: float
) -> None:
    assert similarity(Comparison.NUMERIC, expected, actual) == pytest.approx(near)


@pytest.mark.parametrize(
    ("expected", "actual", "near"),
    [
        ({"a": 1, "b": 2, "c": 3, "d": 4}, {"a": 1, "b": 2, "c": 3, "d": 5}, 0.75),
        ({"a": 1, "b": 2}, {"a": 1}, 0.5),
        ({"a": 1}, {"a": 1, "extra": None}, 0.5),
        (
            {"who": {"name": "Ann", "age": 5}, "tags": ["x", "y"]},
            {"who": {"name": "Ann", "age": 6}, "tags": ["x"]},
            0.5,
        ),
        ({"a": []}, {"a": [1]}, 0.0),
        ("a", "a", 1.0),
        ("a", "b", 0.0),
        ({"a": "abcde"}, {"a": "abcdx"}, 0.0),
        (None, {}, 0.0),
    ],
)
def test_structured_is_the_share_of_the_fields_that_are_equal(expected: Any, actual: Any, near: float) -> None:
    assert similarity(Comparison.STRUCTURED, expected, actual) == near
