"""Which examples the generator is not shown."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from loopai_common.contracts.tasks import Example
from loopai_generator_proxy.domain import held_back
from tests.unit.generator_proxy.memory import examples

JSON = st.one_of(st.integers(), st.text(max_size=3), st.booleans(), st.none())


@pytest.mark.parametrize("count", [0, 1, 9])
def test_fewer_than_ten_are_all_shown(count: int) -> None:
    assert held_back(examples(count)) == [False] * count


@pytest.mark.parametrize(("count", "hidden"), [(10, 2), (100, 20), (103, 20), (1000, 200)])
def test_a_fifth_is_held_back(count: int, hidden: int) -> None:
    assert sum(held_back(examples(count))) == hidden


def test_every_label_is_held_back_in_its_share() -> None:
    known = examples(100)
    hidden = [example.output for example, own in zip(known, held_back(known), strict=True) if own]
    assert (hidden.count("spam"), hidden.count("ham")) == (4, 16)


def test_order_changes_nothing() -> None:
    known = list(examples(60))
    chosen = {str(example.input) for example, own in zip(known, held_back(known), strict=True) if own}
    random.Random(5).shuffle(known)
    assert {str(example.input) for example, own in zip(known, held_back(known), strict=True) if own} == chosen


def test_label_that_occurs_once_is_shown() -> None:
    known = (*examples(40), Example(input={"text": "the only one"}, output="rare"))
    assert held_back(known)[-1] is False


def test_outputs_that_are_all_different_are_held_back_too() -> None:
    known = tuple(Example(input=n, output=n * n) for n in range(20))
    assert sum(held_back(known)) == 4


@given(st.lists(st.tuples(JSON, JSON), min_size=10, max_size=60))
def test_equal_inputs_are_on_one_side_and_something_is_shown(pairs: list[tuple[JsonValue, JsonValue]]) -> None:
    known = [Example(input=value, output=label) for value, label in pairs]
    hidden = held_back(known)
    sides: dict[str, set[bool]] = {}
    for example, own in zip(known, hidden, strict=True):
        sides.setdefault(repr(example.input), set()).add(own)
    assert all(len(side) == 1 for side in sides.values())
    assert not all(hidden)
