"""Where to cut a text: at delimiters and tokens, counted from either side, and only then at absolute positions.

A cut takes the left or the right end off a text; two of them are a substring between two positions, and the right one
may be relative to the left one ("from the first colon to the next space").
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from loopai_generator.learners.strings import operations
from loopai_generator.learners.strings.language import Column, Operation

_TOKENS = (
    ("WORDS", 1.2), ("DIGITS", 1.0), ("LETTERS", 1.25), ("NUMBERS", 1.1), ("NAMES", 1.2), ("EMAILS", 0.9),
    ("URLS", 0.9), ("CLOCKS", 1.0), ("DOTTED", 1.0), ("CODES", 1.0), ("HANDLES", 1.1), ("CAPITALS", 1.3),
    ("SMALL", 1.4), ("CAPITALISED", 1.2), ("PARTS", 1.5),
)  # fmt: skip
_ENDS = ("DIGITS", "LETTERS", "WORDS", "NOT_ALNUM", "SPACES", "CAPITALS")
_DELIMITERS = tuple(
    re.compile(f"(?=({pattern}))")
    for pattern in (r"[\W_]", r"(?<![\W_])[\W_]+", r"[^\w\s]\s", r"\b[^\W\d_]+[=:.]\s?", r"\s[^\W\d_]+\s")
)
_MAX_DELIMITER_CHARACTERS = 12
_MAX_DELIMITERS = 28
_MAX_CHARACTERS = 2000
_COUNTS = (0, 1, 2, 3, 4, 5, 6, -1, -2, -3)
_MAX_OFFSET = 8
_USUAL = " ,;:|=/\t@-_.()#\n"


def delimiters(texts: Sequence[str]) -> list[str]:
    """What may separate the parts of such texts, that which stands in most of them first.

    Runs of punctuation and their characters, keys like ``level=``, and words between spaces.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        found = {own for pattern in _DELIMITERS for own in pattern.findall(text[:_MAX_CHARACTERS])}
        counts.update(own for own in found if len(own) <= _MAX_DELIMITER_CHARACTERS)
    least = len(texts) if len(texts) < 3 else len(texts) / 2
    common = [(-count, len(own), own) for own, count in counts.items() if count >= least or count >= 20]
    return [own for _, _, own in sorted(common)[:_MAX_DELIMITERS]]


def cuts(column: Column, *, absolute: bool) -> Iterator[tuple[Operation, Column]]:
    """The operations that take a part out of these texts, and the parts; with absolute positions if asked."""
    shortest = min(map(len, column))
    if not all(map(str.isalnum, column)):
        yield from _listed(column)
        for operation in _ends(column):
            yield from _applied(operation, column)
    elif not (all(map(str.isdecimal, column)) or all(map(str.isalpha, column))):
        yield from _tokens(column)
    if absolute:
        same = len({len(text) for text in column}) == 1
        for operation in _slices(min(shortest, _MAX_OFFSET), same=same, length=shortest):
            yield from _applied(operation, column)


def _listed(column: Column) -> Iterator[tuple[Operation, Column]]:
    """One of the tokens, or of the parts between delimiters."""
    yield from _tokens(column)
    yield from _members("", ".split()", 1.0, [text.split() for text in column])
    for delimiter in delimiters(column):
        lists = [text.split(delimiter) for text in column]
        present = min(map(len, lists)) > 1
        cost = 0.0 if delimiter[0] in _USUAL else 0.1
        cost += 0.03 * (len(delimiter) - 1) + (0.0 if present else 0.5)
        yield from _members("", f".split({delimiter!r})", 1.0 + cost, lists)
        if present:
            yield from _applied(Operation("", f".split({delimiter!r}, 1)[1]", 1.1 + cost), column)
            yield from _applied(Operation("", f".rsplit({delimiter!r}, 1)[0]", 1.2 + cost), column)


def _tokens(column: Column) -> Iterator[tuple[Operation, Column]]:
    for name, cost in _TOKENS:
        pattern = _pattern(name)
        if pattern.search(column[0]) is not None:
            yield from _members(f"{name}.findall(", ")", cost, [pattern.findall(text) for text in column])


def _members(before: str, after: str, cost: float, lists: list[list[str]]) -> Iterator[tuple[Operation, Column]]:
    for count in _counts(min(map(len, lists))):
        yield Operation(before, f"{after}[{count}]", cost + _distance(count)), tuple([own[count] for own in lists])


def _applied(operation: Operation, column: Column) -> Iterator[tuple[Operation, Column]]:
    values = operation.column(column)
    if values is not None:
        yield operation, values


def _ends(column: Column) -> Iterator[Operation]:
    """What is before or behind a kind of characters, or without some."""
    for name in _ENDS:
        pattern = _pattern(name)
        if all(pattern.search(text) for text in column):
            yield Operation(f"{name}.split(", ", maxsplit=1)[0]", 1.5)
            yield Operation(f"{name}.split(", ", maxsplit=1)[1]", 1.7)
            yield Operation(f"{name}.split(", ")[-1]", 1.8)
    for delimiter in "\"'.,;:!?()[]#$":
        if any(text[:1] == delimiter or text[-1:] == delimiter for text in column):
            yield Operation("", f".strip({delimiter!r})", 1.2)
    yield Operation("", ".strip()", 0.2)
    yield Operation("NOT_DIGITS.sub('', ", ")", 1.0)
    yield Operation("NOT_ALNUM.sub('', ", ")", 1.3)


def _slices(offset: int, *, same: bool, length: int) -> Iterator[Operation]:
    for size in range(1, offset + 1):
        cost = 1.7 + 0.1 * size
        yield Operation("", f"[:{size}]", cost if size > 1 else 1.25)
        yield Operation("", f"[-{size}:]", cost)
        yield Operation("", f"[{size}:]", cost)
        yield Operation("", f"[:-{size}]", cost)
    last = min(length, 24) if same else min(offset, 4)
    for start in range(1, last):
        for end in range(start + 1, last + 1):
            yield Operation("", f"[{start}:{end}]", 2.2 + 0.03 * (start + end))


def _counts(present: int) -> list[int]:
    """The positions that exist among so many in every text."""
    return [count for count in _COUNTS if (count < present if count >= 0 else -count <= present)]


def _distance(count: int) -> float:
    return 0.15 * count if count >= 0 else 0.1 - 0.2 * (count + 1)


def _pattern(name: str) -> re.Pattern[str]:
    pattern: re.Pattern[str] = getattr(operations, name)
    return pattern
