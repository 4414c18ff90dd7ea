"""Finding a program for the outputs of all examples.

Expressions are found on a few examples and tried on all; those that they get wrong join the few (counter-example guided
inductive synthesis: Solar-Lezama et al., "Combinatorial Sketching for Finite Programs", ASPLOS 2006). Where no single
expression fits, the examples are parted by the shapes of their texts, and conditions are sought that tell the parts
from each other, as in FlashFill. All bounds are counts, so that the same examples give the same program.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeGuard

from pydantic import JsonValue

from loopai_generator.domain import CannotLearn, identity
from loopai_generator.learners.strings import operations
from loopai_generator.learners.strings.concatenation import concatenation
from loopai_generator.learners.strings.guards import Guards
from loopai_generator.learners.strings.language import (
    NOT_APPLICABLE,
    Branch,
    Choice,
    Column,
    Expression,
    Listing,
    Operation,
    Program,
    Record,
)
from loopai_generator.learners.strings.pool import Inputs, Pool
from loopai_generator.learners.strings.positions import delimiters

MAX_BRANCHES = 4
_FIRST_SAMPLE = 5
_MAX_SAMPLE = 12
_MAX_ROUNDS = 8
_MAX_KEYS = 50
_MAX_KEY_TRIALS = 150
_MAX_LISTS = 40
_MAX_CONSTANT_BRANCHES = 3
_LEAST_COVERED = 2
"""A branch for a single example would be learned by heart."""

_MAX_GROUPS = 6
_MAX_TRIALS = 10
_SIMPLE = 4.0
_READING = 1.0
"""What it costs to read a date, which all of its parts share."""

_RUNS = re.compile(r"[^\W\d_]+|[0-9]+|\s+")


class Search:
    """Programs that turn ``inputs`` into whatever outputs are asked for, one for each of them."""

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        self._trials = 0
        self._pools: dict[tuple[int, ...], Pool] = {}
        self._rows = [
            [column[position] for column in (*inputs.texts.values(), *inputs.numbers.values())]
            for position in range(inputs.size)
        ]
        self._names = ", ".join((*inputs.texts, *inputs.numbers))

    def program(self, outputs: Sequence[JsonValue], where: str = "the output") -> Program:
        """A program that gives all outputs; raises :class:`CannotLearn`, naming ``where`` in the output it failed."""
        if all(isinstance(output, dict) for output in outputs):
            return self._record([output for output in outputs if isinstance(output, dict)], where)
        if all(isinstance(output, list) for output in outputs):
            return self._listing([output for output in outputs if isinstance(output, list)], where)
        if any(isinstance(output, (dict, list)) for output in outputs):
            raise CannotLearn(f"{where} is of different kinds in different examples")
        return self._choice(outputs, where)

    def _record(self, outputs: Sequence[Mapping[str, JsonValue]], where: str) -> Record:
        names = list(outputs[0])
        if any(output.keys() != set(names) for output in outputs):
            raise CannotLearn(
                f"{where} has other properties in other examples; give each of them all, as null if empty"
            )
        prefix = "" if where == "the output" else f"{where}."
        return Record(
            tuple((name, self.program([output[name] for output in outputs], f"{prefix}{name}")) for name in names)
        )

    def _listing(self, outputs: Sequence[Sequence[JsonValue]], where: str) -> Listing:
        lengths = [len(output) for output in outputs]
        items = [item for output in outputs for item in output]
        for expression, lists in self._lists():
            if [len(own) for own in lists] == lengths and items:
                pieces = tuple([piece for own in lists for piece in own])
                search = Search(Inputs({"text": pieces}, {}, len(pieces)))
                try:
                    return Listing(expression, search.program(items, f"an item of {where}"))
                except CannotLearn:
                    continue
        raise CannotLearn(f"no way to take the text apart gives the items of {where}")

    def _lists(self) -> Iterator[tuple[Expression, list[list[str]]]]:
        sample = self._sample(range(self._inputs.size), ())
        for expression, column in self._pool(sample).texts[:_MAX_LISTS]:
            for operation in _splitters(column):
                split = expression.then(operation)
                values = self._values(split)
                if not any(isinstance(own, Exception) for own in values):
                    yield split, values

    def _choice(self, outputs: Sequence[JsonValue], where: str) -> Choice:
        everything = tuple(range(self._inputs.size))
        single = self._expression(outputs, everything) or self._lookup(outputs)
        if single is not None:
            return Choice((Branch(None, single),))
        self._trials = 0
        for groups in self._partitions(outputs):
            if self._trials > _MAX_TRIALS:
                break
            branches = self._branches(outputs, groups)
            if branches is not None:
                return Choice(branches)
        raise CannotLearn(f"no string program that was tried gives {where} in all examples")

    def _expression(self, outputs: Sequence[JsonValue], positions: Sequence[int]) -> Expression | None:
        """One expression that gives the outputs at these positions."""
        sample = self._sample(positions, ())
        for _ in range(_MAX_ROUNDS):
            expression = self._candidate(tuple([outputs[position] for position in sample]), sample)
            if expression is None:
                return None
            right = self._right(expression, outputs)
            wrong = [position for position in positions if position not in right]
            if not wrong:
                return expression
            if len(sample) >= _MAX_SAMPLE:
                return None
            sample = (*sample, *self._sample(wrong, sample)[:2])
        return None

    def _candidate(self, outputs: Column, sample: tuple[int, ...]) -> Expression | None:
        if all(isinstance(output, bool) for output in outputs):
            yes = {position for position, output in enumerate(outputs) if output}
            if 0 < len(yes) < len(outputs):
                return Guards(self._inputs.at(sample)).between(yes, set(range(len(outputs))) - yes)
        elif all(isinstance(output, str) for output in outputs):
            return self._text(self._pool(sample), outputs)
        elif all(_is_number(output) for output in outputs):
            pool = self._pool(sample)
            for candidates in (pool.numbers, pool.computed, pool.scaled_to(outputs)):
                for expression, column in candidates:
                    if all(_equal(value, output) for value, output in zip(column, outputs, strict=True)):
                        return expression
        return Expression.constant(outputs[0]) if len({identity(output) for output in outputs}) == 1 else None

    def _text(self, pool: Pool, outputs: Column) -> Expression | None:
        """The cheapest concatenation; what takes longer to search is searched when the rest is not simple."""
        plain = pool.pieces_of(outputs)
        moments = pool.moments_of(outputs)
        found = concatenation([*plain, *moments], outputs)
        if moments:
            shared = [(replace(own, cost=own.cost - _READING), column) for own, column in moments]
            dated = concatenation([*plain, *shared], outputs)
            if dated is not None and (found is None or dated[0] + _READING < found[0]):
                found = dated[0] + _READING, dated[1]
        for computed in (False, True):
            if found is not None and (computed or found[0] <= _SIMPLE):
                return found[1]
            pieces = [*plain, *moments, *pool.rewritten(outputs, computed=computed)]
            other = concatenation(pieces, outputs)
            if other is not None and (found is None or other[0] < found[0]):
                found = other
        return found[1] if found is not None else None

    def _lookup(self, outputs: Sequence[JsonValue]) -> Expression | None:
        """A table from a part of the text to the output, where parts occur again."""
        sample = self._sample(range(self._inputs.size), ())
        for key, _ in self._pool(sample).texts[:_MAX_KEY_TRIALS]:
            table: dict[str, JsonValue] = {}
            for value, output in zip(self._values(key), outputs, strict=True):
                if not isinstance(value, str) or identity(table.setdefault(value, output)) != identity(output):
                    break
                if len(table) > _MAX_KEYS or len(table) * 2 > len(outputs):
                    break
            else:
                if len({identity(output) for output in table.values()}) > 1:
                    return key.then(Operation(f"{dict(sorted(table.items()))!r}[", "]", 3.0))
        return None

    def _partitions(self, outputs: Sequence[JsonValue]) -> Iterator[list[list[int]]]:
        """Ways to part the examples into groups that may have an expression each, the largest group first."""
        texts = self._texts
        different = {identity(output) for output in outputs}
        if any(output is None for output in outputs):
            yield _grouped([str(output is None) for output in outputs])
            yield _grouped([f"{output is None} {_marks(text)}" for output, text in zip(outputs, texts, strict=True)])
        if len(different) <= _MAX_CONSTANT_BRANCHES:
            yield _grouped([identity(output) for output in outputs])
        yield _grouped([_marks(text) for text in texts])
        yield _grouped([str(len(text.split())) for text in texts])
        yield _grouped(self._shapes)
        yield _grouped([f"{_marks(o)}" if isinstance(o, str) else identity(o) for o in outputs])

    def _branches(self, outputs: Sequence[JsonValue], groups: list[list[int]]) -> tuple[Branch, ...] | None:
        """A decision list over the groups, or ``None``."""
        left = set(range(self._inputs.size))
        found: list[tuple[Expression, set[int]]] = []
        while left:
            if len(found) == MAX_BRANCHES:
                return None
            best: tuple[Expression, set[int]] | None = None
            for group in groups[:_MAX_GROUPS] if len(groups) > 1 else ():
                own = [position for position in group if position in left]
                self._trials += 1
                expression = self._expression(outputs, own) if own else None
                if expression is not None:
                    right = self._right(expression, outputs) & left
                    if best is None or len(right) > len(best[1]):
                        best = expression, right
                        if len(right) * 2 > len(left):
                            break
            if best is None or len(best[1]) < _LEAST_COVERED:
                return None
            found.append(best)
            left -= best[1]
        return self._guarded(found, outputs)

    def _guarded(
        self, found: list[tuple[Expression, set[int]]], outputs: Sequence[JsonValue]
    ) -> tuple[Branch, ...] | None:
        right = [self._right(expression, outputs) for expression, _ in found]
        left = set(range(self._inputs.size))
        branches: list[Branch] = []
        order = sorted(range(len(found)), key=lambda position: len(found[position][1]))
        for place, position in enumerate(order):
            later = set().union(*(right[other] for other in order[place + 1 :])) if place + 1 < len(order) else set()
            if place + 1 == len(order):
                branches.append(Branch(None, found[position][0]))
                break
            guard = self._guards.between(left & (right[position] - later), left - right[position])
            if guard is None:
                return None
            branches.append(Branch(guard, found[position][0]))
            held = {i for i, value in enumerate(self._values(guard)) if value is True}
            left -= held
        return tuple(branches)

    @cached_property
    def _texts(self) -> list[str]:
        return ["\n".join([column[p] for column in self._inputs.texts.values()]) for p in range(self._inputs.size)]

    @cached_property
    def _shapes(self) -> list[str]:
        return [_shape(text) for text in self._texts]

    @cached_property
    def _guards(self) -> Guards:
        return Guards(self._inputs)

    def _pool(self, sample: tuple[int, ...]) -> Pool:
        if sample not in self._pools:
            self._pools[sample] = Pool(self._inputs.at(sample))
        return self._pools[sample]

    def _sample(self, positions: Sequence[int], known: Sequence[int]) -> tuple[int, ...]:
        """A few of the positions, of as many shapes as there are, the commonest shape first; none that is known."""
        shapes: dict[str, list[int]] = defaultdict(list)
        for position in positions:
            if position not in known:
                shapes[self._shapes[position]].append(position)
        chosen: list[int] = []
        groups = sorted(shapes.values(), key=lambda group: -len(group))
        for turn in range(_FIRST_SAMPLE):
            chosen += [group[turn] for group in groups if turn < len(group)][: _FIRST_SAMPLE - len(chosen)]
        return tuple(chosen)

    def _values(self, expression: Expression) -> list[Any]:
        """What the expression gives for every example; the exception where it does not apply."""
        function = eval(f"lambda {self._names}: {expression.source}", vars(operations))  # noqa: S307  # made of literals
        values: list[Any] = []
        for row in self._rows:
            try:
                values.append(function(*row))
            except NOT_APPLICABLE as error:
                values.append(error)
        return values

    def _right(self, expression: Expression, outputs: Sequence[JsonValue]) -> set[int]:
        values = self._values(expression)
        return {i for i, (value, output) in enumerate(zip(values, outputs, strict=True)) if _equal(value, output)}


def _splitters(column: Column) -> Iterator[Operation]:
    if any(len(text.split()) > 1 for text in column):
        yield Operation("", ".split()", 1.0)
    for delimiter in delimiters(column):
        yield Operation("[piece.strip() for piece in ", f".split({delimiter!r}) if piece.strip()]", 1.2)
    for name in ("EMAILS", "URLS", "HANDLES", "NUMBERS", "WORDS", "LETTERS", "DIGITS", "CODES", "CAPITALISED", "PARTS"):
        yield Operation(f"{name}.findall(", ")", 1.3)
    yield Operation("list(", ")", 2.0)


def _grouped(keys: Sequence[str]) -> list[list[int]]:
    groups: dict[str, list[int]] = defaultdict(list)
    for position, key in enumerate(keys):
        groups[key].append(position)
    return sorted(groups.values(), key=lambda group: -len(group))


def _marks(text: str) -> str:
    """The characters in a text that are neither letters nor digits, each once."""
    return "".join(sorted({character for character in text if not character.isalnum()}))


def _shape(text: str) -> str:
    """The text with every run of letters as ``a``, of digits as ``0``, of spaces as one."""
    return _RUNS.sub(lambda run: "a" if run[0][0].isalpha() else "0" if run[0][0].isdigit() else " ", text[:500])


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _equal(value: object, output: JsonValue) -> bool:
    if _is_number(value) and _is_number(output):
        return abs(value - output) <= 1e-9 * max(1.0, abs(output))
    return type(value) is type(output) and value == output
