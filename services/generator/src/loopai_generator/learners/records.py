"""What a decision tree looks at in an input: numbers, and whether a field holds one of a few values.

Objects and lists are flattened by path. Numbers are told apart by their rank among the distinct values, in which trees
are as good as in the values themselves: ranks are small and quick to sort, and the limit between two of them can be
chosen short enough to be read.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

Path = tuple[str | int, ...]
"""Keys of objects and positions in lists, from the outside in; the length of a list is behind ``LENGTH``."""

LENGTH = -1
"""No position in a list is negative, so this step is free to ask for the list's length."""

MISSING = float("-inf")
"""What stands for a number where there is none."""

Ranks = NDArray[np.unsignedinteger[Any]]
"""Of 16 bits where they fit: those NumPy sorts in linear time."""

MAX_PATHS = 300
MAX_CHOICES = 40
_MAX_DEPTH = 6
_MAX_ELEMENTS = 64
_LARGEST = 1e300


@dataclass(frozen=True, slots=True)
class Number:
    """The number at a path. ``values`` are the distinct ones of the examples, in order; no number has rank 0."""

    path: Path
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """Whether ``value`` (text, true, false or nothing) stands at a path."""

    path: Path
    value: str | bool | None


Column = Number | Choice


def flatten(value: JsonValue, path: Path = ()) -> Iterator[tuple[Path, str | int | float | bool | None]]:
    """The scalars in ``value``, each with its path; of a list the first 64 elements, and the length."""
    if isinstance(value, Mapping) and len(path) < _MAX_DEPTH:
        for key in sorted(value):
            yield from flatten(value[key], (*path, key))
    elif isinstance(value, list) and len(path) < _MAX_DEPTH:
        yield (*path, LENGTH), len(value)
        for position, element in enumerate(value[:_MAX_ELEMENTS]):
            yield from flatten(element, (*path, position))
    elif not isinstance(value, (dict, list)):
        yield path, value


def at(value: object, path: tuple[str | int, ...]) -> object:
    """What stands at the path: a scalar, a list's length for the step -1, or None."""
    for step in path:
        if type(value) is dict and type(step) is str:
            value = value.get(step)
        elif type(value) is list and type(step) is int and step < len(value):
            value = len(value) if step < 0 else value[step]
        else:
            return None
    return value


def number(value: object) -> float:
    """The number, or MISSING, which is below all numbers."""
    return value if type(value) is int or type(value) is float else MISSING


def columns_of(inputs: Sequence[JsonValue]) -> tuple[Column, ...]:
    """The columns that tell inputs apart, in the order of their paths; free text gives none."""
    held: dict[Path, Counter[str | bool | None]] = {}
    numbers: dict[Path, set[float]] = {}
    for value in inputs:
        for path, scalar in flatten(value):
            if is_number(scalar):
                numbers.setdefault(path, set()).add(scalar)
            elif scalar is None or isinstance(scalar, (str, bool)):
                held.setdefault(path, Counter())[scalar] += 1
    filled = Counter(path for value in inputs for path, _ in flatten(value))
    paths = sorted(filled, key=lambda path: (-filled[path], _order(path)))[:MAX_PATHS]
    columns: list[Column] = []
    for path in sorted(paths, key=_order):
        absent = len(inputs) - filled[path]
        values = tuple(sorted(numbers.get(path, ())))
        if len(values) > 1 or (values and (absent or path in held)):
            columns.append(Number(path, values))
        if path in held:
            columns += [Choice(path, value) for value in _choices(held[path], absent, len(inputs))]
    return tuple(columns)


def matrix_of(inputs: Sequence[JsonValue], columns: Sequence[Column]) -> Ranks:
    """The ranks of numbers (0 for what is none), and 1 for a choice that holds; of shape (inputs, columns)."""
    by_path: dict[Path, list[tuple[int, Column]]] = {}
    for position, column in enumerate(columns):
        by_path.setdefault(column.path, []).append((position, column))
    ranks = {column.path: _ranks(column) for column in columns if isinstance(column, Number)}
    highest = max((len(own) for own in ranks.values()), default=1)
    matrix = np.zeros((len(inputs), len(columns)), np.uint16 if highest <= np.iinfo(np.uint16).max else np.uint32)
    for row, value in enumerate(inputs):
        scalars = dict(flatten(value))
        for path, own in by_path.items():
            scalar = scalars.get(path)
            for position, column in own:
                if isinstance(column, Choice):
                    matrix[row, position] = type(scalar) is type(column.value) and scalar == column.value
                elif is_number(scalar):
                    matrix[row, position] = ranks[path].get(scalar, 0)
    return matrix


def limit_above(column: Number, rank: int) -> float:
    """A short number from the value of ``rank`` (1 or more) up to, but not equal to, the next value."""
    low, high = column.values[rank - 1], column.values[rank]
    if isinstance(low, int) and isinstance(high, int):
        return (low + high) // 2
    middle, reach = low / 2 + high / 2, (high - low) / 8
    for digits in range(1, 17):
        limit = float(f"{middle:.{digits}g}")
        if abs(limit - middle) <= reach and low <= limit < high:
            return limit
    return float(low)


def _ranks(column: Number) -> dict[float, int]:
    return {value: rank for rank, value in enumerate(column.values, start=1)}


def _choices(counts: Counter[str | bool | None], absent: int, inputs: int) -> list[str | bool | None]:
    """The values that are common enough to be chosen among, sorted; of free text only its absence."""
    texts = [count for value, count in counts.items() if isinstance(value, str)]
    free = len(texts) > max(2, sum(texts) / 2)
    common = [
        (-count, repr(value), value)
        for value, count in counts.items()
        if count > 1 and value is not None and not (free and isinstance(value, str))
    ]
    values: list[str | bool | None] = [value for _, _, value in sorted(common)[:MAX_CHOICES]]
    if 0 < counts[None] + absent < inputs:
        values.append(None)
    return sorted(values, key=repr) if len(counts) + bool(absent) > 1 else []


def _order(path: Path) -> tuple[tuple[str, int], ...]:
    return tuple((step, 0) if isinstance(step, str) else ("", step + 1) for step in path)


def is_number(value: JsonValue) -> TypeGuard[int | float]:
    """Whether ``value`` is a number (true and false are none) that a 64-bit float can hold."""
    return (type(value) is int or type(value) is float) and abs(value) < _LARGEST
