"""The language of string programs: pieces of Python with holes, and what is put together from them.

An operation *is* its Python text, and the search evaluates that text, so that a program cannot differ from what was
found. What an expression costs says how general it is thought to be: the search keeps the cheapest. The preferences are
those of Gulwani, "Automating String Processing in Spreadsheets Using Input-Output Examples" (POPL 2011): few constants,
few pieces, positions by tokens and delimiters before absolute ones.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias, cast

from pydantic import JsonValue

from loopai_generator.learners.strings import operations

NOT_APPLICABLE = (LookupError, ValueError, OverflowError, ZeroDivisionError)
"""What an operation raises where it does not apply; the programs catch the same."""

Column: TypeAlias = tuple[Any, ...]
"""The values of one expression, in the order of the examples."""


@dataclass(frozen=True, slots=True)
class Operation:
    """A piece of Python around its operand, which stands between ``before`` and ``after``. The whole binds tightly."""

    before: str
    after: str
    cost: float

    def column(self, operand: Column) -> Column | None:
        """Its values; ``None`` when it does not apply to one of the operand's."""
        function = _compiled(f"lambda value: {self.before}value{self.after}")
        try:
            return tuple([function(value) for value in operand])
        except NOT_APPLICABLE:
            return None


@dataclass(frozen=True, slots=True)
class Expression:
    """Python text with other expressions in its gaps: one more part than operands."""

    parts: tuple[str, ...]
    operands: tuple["Expression", ...]
    cost: float

    @classmethod
    def variable(cls, name: str) -> "Expression":
        """A parameter of the program."""
        return cls((name,), (), 0.0)

    @classmethod
    def constant(cls, value: JsonValue) -> "Expression":
        """The same value for every input."""
        return cls((repr(value),), (), 0.5)

    def then(self, operation: Operation) -> "Expression":
        """The operation on what this expression gives."""
        return Expression((operation.before, operation.after), (self,), self.cost + operation.cost)

    @property
    def source(self) -> str:
        """As Python."""
        texts = [operand.source for operand in self.operands]
        return self.parts[0] + "".join(text + part for text, part in zip(texts, self.parts[1:], strict=True))


def joined(expressions: Sequence[Expression], cost: float) -> Expression:
    """The concatenation of texts; neighbouring formats of one date become one."""
    merged: list[Expression] = []
    for expression in expressions:
        format_, previous = _time_format(expression), _time_format(merged[-1]) if merged else None
        if format_ is not None and previous is not None and expression.operands == merged[-1].operands:
            operation = Operation("", f".strftime({previous + format_!r})", 0.0)
            merged[-1] = merged[-1].operands[0].then(operation)
        else:
            merged.append(expression)
        if len(merged) >= 3 and _is_constant(merged[-2]):
            _absorb_constant(merged)
    if len(merged) == 1:
        return merged[0]
    return Expression(("(", *[" + "] * (len(merged) - 1), ")"), tuple(merged), cost)


@dataclass(frozen=True, slots=True)
class Branch:
    """A value for the inputs that the guard holds for; a branch without a guard is the last one."""

    guard: Expression | None
    value: Expression


@dataclass(frozen=True, slots=True)
class Choice:
    """The first branch whose guard holds decides."""

    branches: tuple[Branch, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """An object, each property by a program of its own."""

    fields: tuple[tuple[str, "Program"], ...]


@dataclass(frozen=True, slots=True)
class Listing:
    """An array: the text is taken apart, and each piece goes through ``item`` as its ``text``."""

    pieces: Expression
    item: "Program"


Program: TypeAlias = Choice | Record | Listing


@lru_cache(maxsize=50_000)
def _compiled(source: str) -> Callable[[Any], Any]:
    return cast(Callable[[Any], Any], eval(source, vars(operations)))  # noqa: S307  # put together here from literals


def _is_constant(expression: Expression) -> bool:
    return not expression.operands and expression.parts[0][0] in "'\""


def _time_format(expression: Expression) -> str | None:
    after = expression.parts[-1]
    return after[len(".strftime('") : -len("')")] if after.startswith(".strftime('") else None


def _absorb_constant(merged: list[Expression]) -> None:
    """Turns ``d.strftime('%Y') + '-' + d.strftime('%m')`` into one call."""
    before, constant, after = merged[-3:]
    first, last = _time_format(before), _time_format(after)
    if first is None or last is None or before.operands != after.operands:
        return
    text = constant.parts[0][1:-1]
    if "%" in text or "\\" in text or "'" in text:
        return
    merged[-3:] = [before.operands[0].then(Operation("", f".strftime({first + text + last!r})", 0.0))]
