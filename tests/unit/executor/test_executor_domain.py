"""The rules of execution."""

from typing import Any

import pytest

from loopai_executor.domain import Counts, DeathCounter, equal_outputs, percentile


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
        ("", None),
        ([True], [1]),
    ],
)
def test_unequal_outputs(expected: Any, actual: Any) -> None:
    assert not equal_outputs(expected, actual)
    assert not equal_outputs(actual, expected)


def test_percentile_is_the_nearest_rank() -> None:
    assert percentile([], 0.5) is None
    assert percentile([3.0], 0.99) == 3.0
    assert percentile([float(n) for n in range(100, 0, -1)], 0.5) == 50.0
    assert percentile([float(n) for n in range(100, 0, -1)], 0.99) == 99.0


def test_five_deaths_in_a_row_quarantine_and_a_minute_or_so_ends_it() -> None:
    deaths = DeathCounter()
    for second in range(4):
        deaths.record(float(second))
        assert not deaths.blocks(float(second))
    deaths.record(4.0)
    assert deaths.blocks(4.0)
    left = deaths.seconds_left(4.0)
    assert 50 < left < 70
    assert deaths.blocks(4.0 + left - 1)
    assert not deaths.blocks(4.0 + left + 1)


def test_rare_deaths_never_quarantine() -> None:
    deaths = DeathCounter()
    for number in range(1000):
        deaths.record(number * 60.0)
        assert not deaths.blocks(number * 60.0)


def test_after_a_quarantine_few_deaths_are_enough_for_the_next() -> None:
    deaths = DeathCounter()
    for _ in range(5):
        deaths.record(0.0)
    assert not deaths.blocks(61.0)
    for _ in range(3):
        deaths.record(61.0)
    assert deaths.blocks(61.0)


def test_durations_of_a_batch_count_for_each_item() -> None:
    counts = Counts()
    counts.ran(64, 64 * 0.00005)
    assert counts.durations[1] == 64
    assert counts.duration_seconds == pytest.approx(0.0032)
