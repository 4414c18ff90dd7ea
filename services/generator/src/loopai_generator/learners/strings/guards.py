"""What tells inputs apart: the conditions of branches, and the programs of tasks whose outputs are true or false."""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import combinations, pairwise

from loopai_generator.learners.strings.language import Column, Expression, Operation
from loopai_generator.learners.strings.pool import Inputs

_PATTERNS = ("DIGITS", "LETTERS", "CAPITALS", "EMAILS", "URLS", "CLOCKS", "DATE", "CODES", "SPACES", "DOTTED", "SMALL")
_MAX_COMBINED = 70
_MAX_CHARACTERS = 2000
_MAX_WORDS = 60
_MAX_COUNT = 8
_MAX_THRESHOLDS = 30


class Guards:
    """The conditions that tell some of these inputs from others, the simplest first."""

    def __init__(self, inputs: Inputs) -> None:
        everything = (1 << inputs.size) - 1
        cheapest: dict[int, Expression] = {}
        for expression, column in _conditions(inputs):
            held = _mask(position for position, value in enumerate(column) if value)
            opposite = expression.then(Operation("(not ", ")", 0.3))
            for condition, mask in ((expression, held), (opposite, everything ^ held)):
                known = cheapest.get(mask)
                if 0 < mask < everything and (known is None or condition.cost < known.cost - 1e-9):
                    cheapest[mask] = condition
        self._found = sorted(((own, mask) for mask, own in cheapest.items()), key=lambda pair: pair[0].cost)

    def between(self, yes: Iterable[int], no: Iterable[int]) -> Expression | None:
        """The simplest condition that holds at all positions in ``yes`` and at none in ``no``."""
        wanted, unwanted = _mask(yes), _mask(no)
        for expression, mask in self._found:
            if mask & wanted == wanted and not mask & unwanted:
                return expression
        for (left, a), (right, b) in combinations(self._found[:_MAX_COMBINED], 2):
            for join, mask in ((" and ", a & b), (" or ", a | b)):
                if mask & wanted == wanted and not mask & unwanted:
                    return Expression(("(", join, ")"), (left, right), left.cost + right.cost + 1)
        return None


def _mask(positions: Iterable[int]) -> int:
    """A set of positions as the bits of a number."""
    digits = bytearray()
    for position in positions:
        digits.extend(b"\0" * (position // 8 + 1 - len(digits)))
        digits[position // 8] |= 1 << position % 8
    return int.from_bytes(digits, "little")


def _conditions(inputs: Inputs) -> Iterator[tuple[Expression, Column]]:
    for name, column in inputs.texts.items():
        variable = Expression.variable(name)
        for operation in _of_text(column):
            values = operation.column(column)
            if values is not None:
                yield variable.then(operation), values
    for name, column in inputs.numbers.items():
        variable = Expression.variable(name)
        levels = sorted(set(column))
        for low, high in list(pairwise(levels))[:_MAX_THRESHOLDS]:
            middle = (low + high) / 2
            operation = Operation("(", f" > {int(middle) if middle == int(middle) else middle!r})", 1.0)
            yield variable.then(operation), tuple([value > middle for value in column])


def _of_text(column: Column) -> Iterator[Operation]:
    yield Operation("(", " != '')", 0.8)
    marks: Counter[str] = Counter()
    words: Counter[str] = Counter()
    for text in column:
        shown = text[:_MAX_CHARACTERS]
        marks.update({character for character in shown if not character.isalnum()})
        words.update(set(shown.lower().split()))
    for mark in sorted(marks):
        yield Operation(f"({mark!r} in ", ")", 1.0)
        for count in sorted({text.count(mark) for text in column})[:_MAX_COUNT]:
            yield Operation("(", f".count({mark!r}) == {count})", 1.6)
    for name in _PATTERNS:
        yield Operation(f"({name}.search(", ") is not None)", 1.1)
        yield Operation(f"({name}.match(", ") is not None)", 1.3)
    for method in ("isdecimal", "isupper", "islower", "isalpha"):
        yield Operation("", f".{method}()", 1.2)
    yield Operation("", "[-1:].isalpha()", 1.4)
    for text in sorted({text[:1] for text in column if text}):
        yield Operation("", f".startswith({text!r})", 1.3)
    for text in sorted({text[-1:] for text in column if text}):
        yield Operation("", f".endswith({text!r})", 1.4)
    for count in sorted({len(text.split()) for text in column})[:_MAX_COUNT]:
        yield Operation("(len(", f".split()) == {count})", 1.4)
        yield Operation("(len(", f".split()) > {count})", 1.6)
    for count in sorted({len(text) for text in column})[:_MAX_COUNT]:
        yield Operation("(len(", f") > {count})", 1.8)
    common = sorted(((-count, word) for word, count in words.items() if count < len(column)))
    for _, word in common[:_MAX_WORDS]:
        yield Operation(f"({word!r} in ", ".lower())", 1.2)
