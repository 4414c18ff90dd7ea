"""What the linear classifier looks at beside a text: the other fields of an input, each as a few words.

A field of a few values says which it holds; a number says which of up to eight limits it exceeds. :func:`facts` is
written into every program that it serves. A fact has two spaces or more, and is longer than any run of characters that
is looked at, so it is never mistaken for a feature of the text.
"""

from collections.abc import Sequence

from pydantic import JsonValue

from loopai_generator.learners.records import LENGTH, Number, Path, at, columns_of, limit_above

_MAX_LIMITS = 8

Field = tuple[str, Path, tuple[float, ...]]
"""A name for people, where it stands, and the limits of its number."""


def fields_of(inputs: Sequence[JsonValue], text_properties: Sequence[str] | None) -> tuple[Field, ...]:
    """The fields that tell inputs apart, but for those that are read as text."""
    if text_properties is None:
        return ()
    limits: dict[Path, tuple[float, ...]] = {}
    for column in columns_of(inputs):
        if column.path and column.path[0] not in text_properties:
            limits.setdefault(column.path, ())
            if isinstance(column, Number):
                limits[column.path] = _limits(column)
    return tuple((_name(path), path, limits[path]) for path in limits)


def facts(value: object, fields: tuple[tuple[str, tuple[str | int, ...], tuple[float, ...]], ...]) -> list[str]:
    """What the fields say, as features."""
    found = []
    for name, path, limits in fields:
        held = at(value, path)
        if type(held) is int or type(held) is float:
            found += [f"{name} > {limit}" for limit in limits if held > limit]
        else:
            found.append(f"{name} = {held!r}")
    return found


def _limits(column: Number) -> tuple[float, ...]:
    """Limits between the distinct values, evenly spread."""
    between = len(column.values) - 1
    count = min(_MAX_LIMITS, between)
    ranks = sorted({round((position + 1) * (between + 1) / (count + 1)) for position in range(count)})
    return tuple(limit_above(column, min(max(rank, 1), between)) for rank in ranks)


def _name(path: Path) -> str:
    steps = ("length" if step == LENGTH else str(step) for step in path)
    return " ".join(".".join(steps).split()) or "field"
