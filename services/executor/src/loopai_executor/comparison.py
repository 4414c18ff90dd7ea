"""When the output of a program counts as the expected one."""

from collections.abc import Callable, Iterator
from typing import Any, Final

from loopai_common.contracts.tasks import Comparison

MAX_FUZZY_CHARACTERS: Final = 10_000
"""The work grows with the product of the lengths: longer texts are similar only when they are equal."""

_NUMBER_TOLERANCE: Final = 1e-9

Path = tuple[str | int, ...]


def similarity(comparison: Comparison, expected: Any, actual: Any) -> float:
    """How near two JSON values are, from 0.0 (nothing fits) to 1.0 (all does).

    ``exact``: 1.0 for equal outputs, else 0.0. ``fuzzy``: that of the least similar strings, provided that everything
    else is equal. ``numeric``: that of the least similar numbers, likewise. ``structured``: the share of the fields
    that are equal, of those in either value.
    """
    match comparison:
        case Comparison.EXACT:
            return float(equal_outputs(expected, actual))
        case Comparison.FUZZY:
            return _least(text_similarity, str, expected, actual)
        case Comparison.NUMERIC:
            return _least(number_similarity, (int, float), expected, actual)
        case Comparison.STRUCTURED:
            return _structured(expected, actual)


def equal_outputs(expected: Any, actual: Any) -> bool:
    """Exact equality of JSON values: numbers within 1e-9, a boolean is no number, object keys in any order."""
    if isinstance(expected, bool) or isinstance(actual, bool):
        return expected is actual
    if isinstance(expected, int | float) and isinstance(actual, int | float):
        return expected == actual or abs(expected - actual) <= _NUMBER_TOLERANCE
    if isinstance(expected, dict) and isinstance(actual, dict):
        return expected.keys() == actual.keys() and all(equal_outputs(v, actual[k]) for k, v in expected.items())
    if isinstance(expected, list) and isinstance(actual, list):
        return len(expected) == len(actual) and all(map(equal_outputs, expected, actual))
    return type(expected) is type(actual) and bool(expected == actual)


def text_similarity(one: str, other: str) -> float:
    """1 minus the Levenshtein distance over the length of the longer text; 1.0 for two empty ones."""
    if one == other:
        return 1.0
    longest = max(len(one), len(other))
    return 0.0 if longest > MAX_FUZZY_CHARACTERS else (longest - edit_distance(one, other)) / longest


def number_similarity(one: float, other: float) -> float:
    """1 minus the difference over the larger magnitude, at least 0.0; 1.0 for equal numbers."""
    if equal_outputs(one, other):
        return 1.0
    largest = max(abs(one), abs(other))
    return max(0.0, 1.0 - abs(one - other) / largest)


def edit_distance(one: str, other: str) -> int:
    """The Levenshtein distance: the least number of characters to insert, delete or replace.

    Bit-parallel, a column of the table in one integer (Myers 1999, in the form of Hyyrö 2003).
    """
    if not one:
        return len(other)
    positions: dict[str, int] = {}
    for index, character in enumerate(one):
        positions[character] = positions.get(character, 0) | 1 << index
    last, mask = 1 << len(one) - 1, (1 << len(one)) - 1
    distance, plus, minus = len(one), mask, 0
    for character in other:
        equal = positions.get(character, 0)
        diagonal = (((equal & plus) + plus) ^ plus) | equal | minus
        up, down = minus | ~(diagonal | plus) & mask, plus & diagonal
        distance += bool(up & last) - bool(down & last)
        up, down = (up << 1 | 1) & mask, (down << 1) & mask
        plus, minus = down | ~(diagonal | up) & mask, up & diagonal
    return distance


def _least(similar: Callable[[Any, Any], float], kinds: type | tuple[type, ...], expected: Any, actual: Any) -> float:
    """The least similarity of the values of ``kinds`` at the same places; 0.0 where anything else differs."""
    if isinstance(expected, bool) or isinstance(actual, bool):
        return float(expected is actual)
    if isinstance(expected, kinds) and isinstance(actual, kinds):
        return similar(expected, actual)
    if isinstance(expected, dict) and isinstance(actual, dict):
        if expected.keys() != actual.keys():
            return 0.0
        return min((_least(similar, kinds, value, actual[key]) for key, value in expected.items()), default=1.0)
    if isinstance(expected, list) and isinstance(actual, list):
        if len(expected) != len(actual):
            return 0.0
        pairs = zip(expected, actual, strict=True)
        return min((_least(similar, kinds, one, other) for one, other in pairs), default=1.0)
    return float(equal_outputs(expected, actual))


def _structured(expected: Any, actual: Any) -> float:
    wanted, given = dict(_fields(expected)), dict(_fields(actual))
    right = sum(1 for path, value in wanted.items() if path in given and equal_outputs(value, given[path]))
    return right / len(wanted.keys() | given.keys())


def _fields(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """The values inside that hold no others, each with the keys and positions that lead there."""
    if isinstance(value, dict) and value:
        for key, child in value.items():
            yield from _fields(child, (*path, key))
    elif isinstance(value, list) and value:
        for index, child in enumerate(value):
            yield from _fields(child, (*path, index))
    else:
        yield path, value
