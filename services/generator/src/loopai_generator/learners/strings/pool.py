"""All the parts of a few texts that the language can name, each by its cheapest expression."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from loopai_generator.learners.strings.conversions import (
    CASES,
    arithmetic,
    as_numbers,
    counted,
    formatted,
    moments,
    other_letters,
    same_letters,
    scaled_to,
)
from loopai_generator.learners.strings.language import Column, Expression, Operation
from loopai_generator.learners.strings.positions import cuts, delimiters

_CUT_AGAIN = 150
_CUT_AT_OFFSETS = 40
_USUAL_CHARACTERS = 120
_MAX_PARTS = 12_000
_CONVERTED = 120
_REWORDED = 60
_NUMBERS = 40
_OPERANDS = 14


@dataclass(frozen=True, slots=True)
class Inputs:
    """What programs read: variables with texts and with numbers, a column of equal length each."""

    texts: Mapping[str, Column]
    numbers: Mapping[str, Column]
    size: int

    def at(self, positions: tuple[int, ...]) -> "Inputs":
        """Some of the examples."""
        return Inputs(
            {name: tuple([column[i] for i in positions]) for name, column in self.texts.items()},
            {name: tuple([column[i] for i in positions]) for name, column in self.numbers.items()},
            len(positions),
        )


class _Cheapest:
    """Keeps one expression for each column: two that agree on all examples cannot be told apart."""

    def __init__(self) -> None:
        self.found: dict[Column, Expression] = {}

    def offer(self, expression: Expression, column: Column) -> None:
        known = self.found.get(column)
        if known is None or expression.cost < known.cost - 1e-9:
            self.found[column] = expression

    def offer_then(self, expression: Expression, operation: Operation, column: Column) -> None:
        known = self.found.get(column)
        if known is None or expression.cost + operation.cost < known.cost - 1e-9:
            self.found[column] = expression.then(operation)

    def by_cost(self) -> list[tuple[Expression, Column]]:
        """The cheapest first; among equals the one that came first."""
        return sorted(((own, column) for column, own in self.found.items()), key=lambda pair: pair[0].cost)


class Pool:
    """The parts of the texts of ``inputs``, which should be few: every part is computed for each."""

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        self._variables = [(Expression.variable(name), column) for name, column in inputs.texts.items()]

    @cached_property
    def texts(self) -> list[tuple[Expression, Column]]:
        """The texts, what one cut leaves of them, and what a second one leaves of that; the cheapest first."""
        parts = _Cheapest()
        for expression, column in self._variables:
            parts.offer(expression, column)
            _cut(parts, expression, column, absolute=True)
        first = [(own, column) for own, column in parts.by_cost() if own.operands and _varies(column)]
        longest = max([_USUAL_CHARACTERS, *(len(text) for _, column in self._variables for text in column)])
        for position, (expression, column) in enumerate(first[: _CUT_AGAIN * _USUAL_CHARACTERS // longest]):
            _cut(parts, expression, column, absolute=position < _CUT_AT_OFFSETS)
        return parts.by_cost()[:_MAX_PARTS]

    @cached_property
    def numbers(self) -> list[tuple[Expression, Column]]:
        """The numbers among the inputs and in the parts of the texts, the cheapest first."""
        found = _Cheapest()
        for name, column in self._inputs.numbers.items():
            found.offer(Expression.variable(name), column)
        for expression, column in self.texts:
            for number, values in as_numbers(expression, column):
                found.offer(number, values)
        return found.by_cost()

    @cached_property
    def computed(self) -> list[tuple[Expression, Column]]:
        """Numbers that stand nowhere: counted, or computed from others."""
        found = _Cheapest()
        for expression, column in self._variables:
            for number, values in counted(expression, column, delimiters(column)):
                found.offer(number, values)
        counts = found.by_cost()
        for number, values in arithmetic(self.numbers[:_OPERANDS] + counts[:2]):
            found.offer(number, values)
        return found.by_cost()

    def scaled_to(self, outputs: Column) -> list[tuple[Expression, Column]]:
        """The numbers times a factor plus a constant, where two examples say which and a third agrees."""
        found = _Cheapest()
        for number, values in self.numbers[:_OPERANDS]:
            for scaled, column in scaled_to(number, values, outputs):
                found.offer(scaled, column)
        return found.by_cost()

    def pieces_of(self, outputs: Column) -> list[tuple[Expression, Column]]:
        """The parts that stand in these outputs as they are, the cheapest first."""
        return [(own, column) for own, column in self.texts if _stands_in(column, outputs)]

    def moments_of(self, outputs: Column) -> list[tuple[Expression, Column]]:
        """The parts of dates and times that stand in these outputs."""
        found = _Cheapest()
        for expression, column in self._variables:
            for moment, values in moments(expression, column):
                for own, cased in _with_cases(moment, values):
                    if _stands_in(cased, outputs):
                        found.offer(own, cased)
        return found.by_cost()

    def rewritten(self, outputs: Column, *, computed: bool) -> list[tuple[Expression, Column]]:
        """What stands in these outputs when it is converted; with computed numbers if asked."""
        found = _Cheapest()
        for expression, column in self._conversions(outputs, computed=computed):
            for own, cased in _with_cases(expression, column):
                if _stands_in(cased, outputs):
                    found.offer(own, cased)
        return found.by_cost()

    def _conversions(self, outputs: Column, *, computed: bool) -> Iterator[tuple[Expression, Column]]:
        folded = tuple([_folded(output) for output in outputs])
        loose = [pair for pair in self.texts if _folds_into(pair[1], folded)][:_CONVERTED]
        for expression, column in loose:
            yield expression, column
            yield from _converted(expression, column, same_letters(column), outputs)
        for expression, column in self.texts[:_REWORDED]:
            yield from _converted(expression, column, other_letters(column), outputs)
        if any(character.isdigit() for character in outputs[0]):
            for number, values in self.numbers[:_NUMBERS] + (self.computed if computed else []):
                yield from formatted(number, values)


def _converted(
    expression: Expression, column: Column, conversions: Iterator[Operation], outputs: Column
) -> Iterator[tuple[Expression, Column]]:
    first, output = column[:1], outputs[0].lower()
    for operation in conversions:
        shown = operation.column(first)  # most conversions fail on the first text already
        if shown is not None and shown[0].lower() in output:
            values = operation.column(column)
            if values is not None:
                yield expression.then(operation), values


def _cut(parts: _Cheapest, expression: Expression, column: Column, *, absolute: bool) -> None:
    for operation, values in cuts(column, absolute=absolute):
        if not any(values):
            continue
        parts.offer_then(expression, operation, values)
        stripped = tuple([text.strip() for text in values])
        if stripped != values and any(stripped):
            parts.offer(expression.then(operation).then(Operation("", ".strip()", 0.1)), stripped)


def _with_cases(expression: Expression, column: Column) -> Iterator[tuple[Expression, Column]]:
    yield expression, column
    for operation in CASES:
        values = operation.column(column)
        if values is not None and values != column:
            yield expression.then(operation), values


def _varies(column: Column) -> bool:
    return len(column) == 1 or len(set(column)) > 1


def _stands_in(column: Column, outputs: Column) -> bool:
    return any(column) and all(map(str.__contains__, outputs, column))


def _folds_into(column: Column, folded: Column) -> bool:
    for text, output in zip(column, folded, strict=True):
        own = _folded(text)
        if not own or own not in output:
            return False
    return True


def _folded(text: str) -> str:
    return "".join([character for character in text.lower() if character.isalnum()])


def _lowered(column: Column) -> Column:
    return tuple([text.lower() for text in column])
