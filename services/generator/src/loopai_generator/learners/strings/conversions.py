"""What can be made of a part of a text: other case, other separators, and the parts of dates, times and numbers."""

import re
from collections.abc import Iterator

from loopai_generator.learners.strings import operations
from loopai_generator.learners.strings.language import Column, Expression, Operation

CASES = (
    Operation("", ".lower()", 0.5),
    Operation("", ".upper()", 0.5),
    Operation("", ".title()", 0.6),
    Operation("", ".capitalize()", 0.6),
)
_FACTORS = (60, 100, 1000, 12, 24, 7, 3600)
_LEAST_POINTS = 3
_NUMBER_ALONE = re.compile(r"\s*[-+$€£¥%]*\s*[0-9][0-9.,]*\s*[%€$£¥]*\s*")
_SEPARATORS = (" ", "-", "_", ".", "/", ",", ":")
_FORMATS = tuple(
    Operation("", f".strftime('{directive}')", cost)
    for directive, cost in (
        ("%Y", 0.1), ("%m", 0.1), ("%d", 0.1), ("%B", 0.2), ("%b", 0.2), ("%y", 0.3), ("%A", 0.3), ("%a", 0.3),
        ("%j", 0.5), ("%V", 0.5), ("%G", 0.4),
    )
)  # fmt: skip
_DATE_PARTS = (
    *_FORMATS,
    Operation("str(", ".day)", 0.2),
    Operation("str(", ".month)", 0.2),
    Operation("str((", ".month + 2) // 3)", 0.6),
    Operation("str(", ".isoweekday())", 0.8),
)
_TIME_PARTS = (
    *(Operation("", f".strftime('{directive}')", 0.2) for directive in ("%H", "%M", "%S", "%I", "%p")),
    Operation("str(", ".hour)", 0.4),
    Operation("str((", ".hour + 11) % 12 + 1)", 0.4),
    Operation("", ".strftime('%p').lower()", 0.4),
)
_NUMBER_FORMATS = tuple(
    Operation("format(", f", '{specification}')", cost)
    for specification, cost in (
        ("", 0.6), (",", 0.5), (".2f", 0.5), (",.2f", 0.4), (".0f", 0.7), (",.0f", 0.6), (".1f", 0.6), (".3f", 0.8),
        (".0%", 0.7), (".1%", 0.7), ("02d", 0.8), ("03d", 0.8), ("04d", 0.8), ("05d", 0.9), ("06d", 0.9),
    )
)  # fmt: skip
_MONTH = (
    Operation("str(MONTHS[", "[:3].lower()])", 0.8),
    Operation("format(MONTHS[", "[:3].lower()], '02d')", 0.8),
    Operation("datetime(2000, int(", "), 1).strftime('%B')", 0.9),
    Operation("datetime(2000, int(", "), 1).strftime('%b')", 0.9),
)
_SPLITTERS = (("", ".split()"), ("WORDS.findall(", ")"), ("PARTS.findall(", ")"))
_INITIALS = ("", ".", " ", ". ", "-")


def same_letters(column: Column) -> Iterator[Operation]:
    """Operations that change no letter or digit but its case: separators, padding, camel case."""
    for separator in sorted({character for character in column[0] if not character.isalnum()}):
        for other in ("", *_SEPARATORS):
            if other != separator and all(separator in text for text in column):
                yield Operation("", f".replace({separator!r}, {other!r})", 0.8)
    yield Operation("' '.join(", ".split())", 0.7)
    for before, after in _SPLITTERS:
        for separator in ("", *_SEPARATORS):
            yield Operation(f"{separator!r}.join({before}", f"{after})", 1.0 + 0.2 * (before == "PARTS.findall("))
        yield Operation(f"camel({before}", f"{after})", 1.1)


def other_letters(column: Column) -> Iterator[Operation]:
    """Operations whose result has letters or digits that the text does not have, or not in this order."""
    yield Operation("", ".lstrip('0')", 0.8)
    for width in (2, 3, 4, 5, 6, 8, 10):
        yield Operation("", f".zfill({width})", 0.9)
    if all(text and not text.isdigit() for text in column):
        for before, after in _SPLITTERS:
            for separator in _INITIALS:
                yield Operation(f"{separator!r}.join([word[0] for word in {before}", f"{after}])", 1.2)
        yield Operation("' '.join(reversed(", ".split()))", 1.3)
    yield Operation("", "[::-1]", 1.8)
    yield from _MONTH


def moments(text: Expression, column: Column) -> Iterator[tuple[Expression, Column]]:
    """The parts, as texts, of the dates and times that stand in such texts."""
    for position in (0, 1, -1):
        for day_first in (True, False):
            reading = Operation("read_date(", f", {position}, day_first={day_first})", 1.0 + 0.1 * (position != 0))
            yield from _parts(text, column, reading, _DATE_PARTS)
        yield from _parts(text, column, Operation("read_time(", f", {position})", 1.2), _TIME_PARTS)
    stamp = Operation("read_stamp(", ")", 1.6)
    if all(text.isdecimal() and len(text) == 10 for text in column):
        yield from _parts(text, column, stamp, (*_DATE_PARTS, *_TIME_PARTS))


def as_numbers(text: Expression, column: Column) -> Iterator[tuple[Expression, Column]]:
    """The numbers that such texts are read as."""
    if not all(operations.DIGITS.search(value) for value in column):
        return
    alone = all(_NUMBER_ALONE.fullmatch(value) for value in column)
    for reading in (
        Operation("number(", ")", 0.3 if alone else 0.9),
        Operation("number_comma(", ")", 0.6 if alone else 1.2),
    ):
        values = reading.column(column)
        if values is not None:
            yield text.then(reading), values


def counted(text: Expression, column: Column, separators: list[str]) -> Iterator[tuple[Expression, Column]]:
    """What can be counted in such texts."""
    countings = [
        Operation("len(", ")", 1.5),
        Operation("len(", ".split())", 1.5),
        Operation("len(", ".splitlines())", 1.8),
    ]
    countings += [Operation("len(WORDS.findall(", "))", 1.8), Operation("len(DIGITS.findall(", "))", 1.9)]
    countings += [Operation("", f".count({separator!r})", 1.7) for separator in separators]
    countings += [Operation("len(", f".split({separator!r}))", 1.7) for separator in separators]
    for operation in countings:
        values = operation.column(column)
        if values is not None:
            yield text.then(operation), values


def arithmetic(numbers: list[tuple[Expression, Column]]) -> Iterator[tuple[Expression, Column]]:
    """Sums, differences, products and quotients of the numbers, and of each with a few round ones."""
    for expression, column in numbers:
        for operation in (
            Operation("(", " + 1)", 1.2), Operation("(", " - 1)", 1.2), Operation("(", " * 100)", 1.2),
            Operation("(", " / 100)", 1.2), Operation("(", " * 1000)", 1.3), Operation("(", " / 1000)", 1.3),
            Operation("(", " * 60)", 1.4), Operation("(", " / 60)", 1.4), Operation("(", " * 1024)", 1.4),
            Operation("(", " / 1024)", 1.4), Operation("round(", ")", 1.0),
            Operation("round(", " * 100)", 1.4), Operation("abs(", ")", 1.2), Operation("(-", ")", 1.2),
        ):  # fmt: skip
            values = operation.column(column)
            if values is not None:
                yield expression.then(operation), values
    for left, left_column in numbers:
        for right, right_column in numbers:
            pairs = list(zip(left_column, right_column, strict=True))
            cost = left.cost + right.cost + 1.2
            yield Expression(("(", " - ", ")"), (left, right), cost), tuple([a - b for a, b in pairs])
            if right_column and all(b for b in right_column):
                yield Expression(("(", " / ", ")"), (left, right), cost + 0.3), tuple([a / b for a, b in pairs])
            for factor in _FACTORS:
                scaled = Expression(("(", f" * {factor} + ", ")"), (left, right), cost + 0.4)
                yield scaled, tuple([a * factor + b for a, b in pairs])
            if left.source <= right.source:
                yield Expression(("(", " * ", ")"), (left, right), cost), tuple([a * b for a, b in pairs])
                yield Expression(("(", " + ", ")"), (left, right), cost), tuple([a + b for a, b in pairs])


def scaled_to(number: Expression, column: Column, outputs: Column) -> Iterator[tuple[Expression, Column]]:
    """The number times a factor plus a constant, such that it gives the first two different outputs."""
    pairs = list(dict(zip(column, outputs, strict=True)).items())
    if len(pairs) < _LEAST_POINTS:
        return
    (first, low), (second, high) = pairs[:2]
    factor = _plain((high - low) / (second - first))
    constant = _plain(low - factor * first)
    expression = number.then(Operation("(", f" * {factor!r} + {constant!r})", 2.0))
    yield expression, tuple([value * factor + constant for value in column])


def _plain(value: float) -> float:
    rounded = round(value, 9)
    return int(rounded) if rounded == int(rounded) else rounded


def formatted(number: Expression, column: Column) -> Iterator[tuple[Expression, Column]]:
    """The ways to write a number."""
    for operation in _NUMBER_FORMATS:
        values = operation.column(column)
        if values is not None:
            yield number.then(operation), values


def _parts(
    text: Expression, column: Column, reading: Operation, parts: tuple[Operation, ...]
) -> Iterator[tuple[Expression, Column]]:
    read = reading.column(column)
    if read is None:
        return
    for part in parts:
        values = part.column(read)
        if values is not None:
            yield text.then(reading).then(part), values
