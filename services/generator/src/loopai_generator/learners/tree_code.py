"""Decision trees as source: nested ``if``s over named fields."""

import keyword
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from loopai_common.contracts.artifacts import SynthesisStrategy
from loopai_generator.learners import records
from loopai_generator.learners.program import docstring, source_of
from loopai_generator.learners.records import LENGTH, Choice, Column, Number, Path

_MAX_NAME = 40


@dataclass(frozen=True, slots=True)
class TreeTask:
    """A task that turns fields into a label or a number.

    ``targets`` are positions among ``labels``, or the numbers themselves where ``labels`` is ``None``; ``decimals`` is
    how many a number has (0: a whole one; ``None``: any).
    """

    name: str
    output_property: str | None
    labels: tuple[JsonValue, ...] | None
    inputs: tuple[JsonValue, ...]
    targets: tuple[float, ...]
    decimals: int | None


@dataclass(frozen=True, slots=True)
class Leaf:
    """An answer: a label's position, a number, or what a boosted tree adds."""

    value: int | float


@dataclass(frozen=True, slots=True)
class Split:
    """``low`` for a rank up to ``rank`` in the column, ``high`` for one above."""

    column: int
    rank: int
    low: "Node"
    high: "Node"


Node = Leaf | Split


@dataclass(frozen=True, slots=True)
class TreeModel:
    """One tree that answers (``labels`` is empty), or many that add up.

    ``trees`` are pairs of a position in ``starts`` and the tree that adds to it. With labels the largest sum wins, the
    first in a tie; a single sum above 0 says ``labels[1]``. Without, the sum is the number, kept within ``bounds``.
    """

    labels: tuple[int, ...]
    trees: tuple[tuple[int, Node], ...]
    starts: tuple[int | float, ...] = ()
    bounds: tuple[float, float] | None = None


def leaves(node: Node) -> int:
    """How many leaves a tree has."""
    return 1 if isinstance(node, Leaf) else leaves(node.low) + leaves(node.high)


def write(model: TreeModel, task: TreeTask, columns: Sequence[Column], known: str) -> str:
    """The program that answers as the model does; ``known`` is a sentence on how well."""
    names = _names(columns)
    body = _single(model, task, columns, names) if not model.starts else _sum(model, task, columns, names)
    return "\n".join((_header(model, task, known), *body, ""))


def _header(model: TreeModel, task: TreeTask, known: str) -> str:
    answers = "numbers" if task.labels is None else f"{len(task.labels)} labels"
    made = f"Learned from {len(task.inputs)} examples with {answers}, without a language model."
    return docstring(
        task.name, "Gives the answers", f"{made} {known} Strategy: {SynthesisStrategy.ML}.", _how(model, task)
    )


def _how(model: TreeModel, task: TreeTask) -> str:
    if not model.starts:
        return "How it decides: a decision tree, which answers with the outputs of the examples that came the same way."
    trees = f"How it decides: {len(model.trees)} small decision trees"
    if task.labels is None:
        return f"{trees}, each of which corrects the sum of those before."
    if len(model.starts) == 1:
        return f"{trees} add up; a sum above 0 says the second label, any other the first."
    return f"{trees} add up to a sum for each label; the label with the highest sum wins."


def _single(model: TreeModel, task: TreeTask, columns: Sequence[Column], names: Sequence[str]) -> Iterator[str]:
    tree = model.trees[0][1]
    used = sorted(_columns_in(tree))
    yield from _helpers(columns, used)
    yield "def run(input):"
    yield from _readings(columns, names, used)
    yield from _lines(tree, columns, names, "    ", lambda value: _output(task, value))


def _sum(model: TreeModel, task: TreeTask, columns: Sequence[Column], names: Sequence[str]) -> Iterator[str]:
    used = sorted({column for _, tree in model.trees for column in _columns_in(tree)})
    yield from _helpers(columns, used)
    sums: list[list[str]] = [[repr(start)] for start in model.starts]
    for number, (position, tree) in enumerate(model.trees, start=1):
        if isinstance(tree, Leaf):
            sums[position].append(repr(tree.value))
            continue
        arguments = ", ".join(dict.fromkeys(names[column] for column in sorted(_columns_in(tree))))
        sums[position].append(f"tree_{number}({arguments})")
        yield f"def tree_{number}({arguments}):"
        yield from _lines(tree, columns, names, "    ", repr)
        yield from ("", "")
    yield "def run(input):"
    yield from _readings(columns, names, used)
    yield "    sums = ("
    for own in sums:
        yield "        sum(("
        yield from (f"            {part}," for part in own)
        yield "        )),"
    yield "    )"
    yield from _decision(model, task)


def _decision(model: TreeModel, task: TreeTask) -> Iterator[str]:
    if model.bounds is not None:
        low, high = model.bounds
        rounded = _rounded(task, f"min(max(sums[0], {low!r}), {high!r})")
        yield f"    return {_wrapped(task, rounded)}"
        return
    labels = tuple((task.labels or ())[label] for label in model.labels)
    chosen = "sums[0] > 0" if len(model.starts) == 1 else "sums.index(max(sums))"
    yield f"    return {_wrapped(task, f'{labels!r}[{chosen}]')}"


def _helpers(columns: Sequence[Column], used: Sequence[int]) -> Iterator[str]:
    yield from ('MISSING = float("-inf")', "", "")
    yield source_of(records.at)
    yield ""
    if any(isinstance(columns[column], Number) for column in used):
        yield source_of(records.number)
        yield ""


def _readings(columns: Sequence[Column], names: Sequence[str], used: Sequence[int]) -> Iterator[str]:
    """The assignments of what the trees look at; a field is read once."""
    for name, column in {names[column]: columns[column] for column in used}.items():
        read = f"at(input, {column.path!r})"
        yield f"    {name} = {f'number({read})' if isinstance(column, Number) else read}"


def _lines(
    node: Node, columns: Sequence[Column], names: Sequence[str], indent: str, answer: Callable[[int | float], str]
) -> Iterator[str]:
    while isinstance(node, Split):
        condition, inside, after = _condition(node, columns[node.column], names[node.column])
        yield f"{indent}if {condition}:"
        yield from _lines(inside, columns, names, indent + "    ", answer)
        node = after
    yield f"{indent}return {answer(node.value)}"


def _condition(split: Split, column: Column, name: str) -> tuple[str, Node, Node]:
    """The condition, what is decided where it holds, and what where it does not."""
    if isinstance(column, Choice):
        equal = "==" if isinstance(column.value, str) else "is"
        return f"{name} {equal} {column.value!r}", split.high, split.low
    if split.rank == 0:
        return f"{name} == MISSING", split.low, split.high
    return f"{name} <= {records.limit_above(column, split.rank)!r}", split.low, split.high


def _output(task: TreeTask, value: int | float) -> str:
    if task.labels is not None:
        return _wrapped(task, repr(task.labels[int(value)]))
    if task.decimals is None:
        return _wrapped(task, repr(float(value)))
    return _wrapped(task, repr(round(value, task.decimals or None)))


def _rounded(task: TreeTask, expression: str) -> str:
    if task.decimals is None:
        return expression
    return f"round({expression}, {task.decimals})" if task.decimals else f"round({expression})"


def _wrapped(task: TreeTask, expression: str) -> str:
    return expression if task.output_property is None else f"{{{task.output_property!r}: {expression}}}"


def _columns_in(node: Node) -> set[int]:
    if isinstance(node, Leaf):
        return set()
    return {node.column} | _columns_in(node.low) | _columns_in(node.high)


def _names(columns: Sequence[Column]) -> list[str]:
    """A variable for each column: columns of the same path and kind share it."""
    taken: dict[tuple[Path, type], str] = {}
    for column in columns:
        if (column.path, type(column)) not in taken:
            name = _name(column)
            while name in taken.values():
                name += "_"
            taken[column.path, type(column)] = name
    return [taken[column.path, type(column)] for column in columns]


def _name(column: Column) -> str:
    steps = ["length" if step == LENGTH else str(step) for step in column.path]
    name = re.sub(r"[^a-z0-9]+", "_", "_".join(steps).lower()).strip("_")[:_MAX_NAME]
    if not name or name[0].isdigit() or keyword.iskeyword(name) or name in _TAKEN or name.startswith("tree_"):
        name = f"field_{name}".rstrip("_")
    return name


_TAKEN = frozenset({"input", "at", "number", "sums", "sum", "min", "max", "round", "float", "type", "len", "run"})
