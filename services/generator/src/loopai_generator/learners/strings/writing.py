"""String programs as plain Python."""

import ast
import inspect
import keyword
import re
from collections import Counter
from collections.abc import Mapping
from functools import cache
from textwrap import fill, indent

from pydantic import JsonValue

from loopai_generator.domain import CrossValidation
from loopai_generator.learners.strings import operations
from loopai_generator.learners.strings.language import Branch, Choice, Expression, Listing, Program, Record
from loopai_generator.learners.strings.task import StringTask, default_of, schema_of_items, schema_of_property

_WIDTH = 100
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_IMPORTED = (("datetime", {"UTC", "datetime", "time"}), ("types", {"MappingProxyType"}))
_UNSAFE_IN_NAME = re.compile(r"[^A-Za-z0-9_.-]")


def write(program: Program, task: StringTask, cross_validation: CrossValidation | None) -> str:
    """The module with its ``run``."""
    return _Writer(task).write(program, cross_validation)


class _Writer:
    """Writes the program of one task."""

    def __init__(self, task: StringTask) -> None:
        self._task = task
        self._root = task.output_schema
        self._parameters = ", ".join(task.variables)
        self._taken: set[str] = {"run", "input", "fields", *task.variables, *vars(operations)}
        self._functions: list[str] = []

    def write(self, program: Program, cross_validation: CrossValidation | None) -> str:
        """The module with its ``run``."""
        value = self._value(program, self._parameters, self._root, "answer")
        run = f"def run(input):\n{indent(self._reading(), '    ')}    return {value}\n"
        body = "\n\n".join([*self._functions, run])
        return "\n".join((self._header(cross_validation), *_needed(body), "", body))

    def _header(self, cross_validation: CrossValidation | None) -> str:
        name = _UNSAFE_IN_NAME.sub("_", self._task.name)[:200]
        made = f"Found from {len(self._task.examples)} examples, all of which it reproduces, without a language model."
        if cross_validation is not None:
            made += (
                f" Programs found the same way from a part of the examples got {cross_validation.accuracy:.4f} of the "
                f"others right ({cross_validation.folds} folds)."
            )
        how = (
            "How: searched over a small language of string operations for the simplest program. "
            "Where an operation does not apply to an input, the answer is the default after `except`."
        )
        text = "\n\n".join(
            fill(paragraph, _WIDTH, break_on_hyphens=False)
            for paragraph in (f"Transforms the inputs of the task {name}.", f"{made} Strategy: dsl.", how)
        )
        return f'"""{text}\n"""\n'

    def _reading(self) -> str:
        lines = []
        for parameter, variable in self._task.variables.items():
            reader = "as_number" if variable.is_number else "as_text"
            source = "input" if variable.name is None else f"fields.get({variable.name!r})"
            lines.append(f"{parameter} = {reader}({source})")
        if "text" not in self._task.variables or self._task.variables["text"].name is not None:
            lines.insert(0, "fields = input if isinstance(input, dict) else {}")
        return "".join(f"{line}\n" for line in lines)

    def _value(self, program: Program, arguments: str, schema: object, name: str) -> str:
        """An expression for the program's value; what it needs is added to the functions."""
        if isinstance(program, Record):
            lines = [
                f"    {key!r}: {self._value(own, arguments, schema_of_property(schema, self._root, key), key)},"
                for key, own in program.fields
            ]
            return "\n".join(("{", *(line.replace("\n", "\n    ") for line in lines), "}")).replace("\n", "\n    ")
        if isinstance(program, Listing):
            item = self._value(program.item, "text", schema_of_items(schema, self._root), f"{name}_item")
            return f"[{item} for text in {self._listing(program, arguments, name)}]"
        return self._choice(program, arguments, default_of(schema, self._root), name)

    def _listing(self, program: Listing, arguments: str, name: str) -> str:
        choice = Choice((Branch(None, program.pieces),))
        return self._choice(choice, arguments, [], f"{name}_pieces")

    def _choice(self, choice: Choice, arguments: str, default: JsonValue, name: str) -> str:
        first = choice.branches[0].value
        if len(choice.branches) == 1 and not first.operands:
            return first.source
        function = self._name(name)
        lines: list[str] = []
        for branch in choice.branches:
            value = "".join(f"{line}\n" for line in _statements(branch.value))
            if branch.guard is None:
                lines.append(value)
            else:
                lines.append(f"if {_unwrapped(branch.guard.source)}:\n{indent(value, '    ')}")
        body = "".join(lines)
        self._functions.append(
            f"def {function}({arguments}):\n    try:\n{indent(body, ' ' * 8)}"
            f"    except (LookupError, ValueError, ArithmeticError):\n        return {default!r}\n"
        )
        return f"{function}({arguments})"

    def _name(self, wanted: str) -> str:
        base = "_".join(_NAME.findall(wanted)).lower() or "value"
        base = f"{base}_of" if base in self._taken or keyword.iskeyword(base) or not base.isidentifier() else base
        name, count = base, 1
        while name in self._taken:
            count += 1
            name = f"{base}_{count}"
        self._taken.add(name)
        return name


def _statements(expression: Expression) -> list[str]:
    """The lines that return the expression; what it uses twice is computed once."""
    counts: Counter[Expression] = Counter()
    _count(expression, counts)
    shared = [own for own, count in counts.items() if count > 1 and own.operands]
    names: dict[Expression, str] = {}
    lines: list[str] = []
    for own in sorted(shared, key=lambda e: len(e.source)):
        source = _source(own, names)
        names[own] = f"part_{len(names) + 1}" if len(shared) > 1 else "part"
        lines.append(f"{names[own]} = {source}")
    source = _source(expression, names)
    return [*lines, f"return {_unwrapped(source)}"]


def _count(expression: Expression, counts: Counter[Expression]) -> None:
    counts[expression] += 1
    if counts[expression] == 1:
        for operand in expression.operands:
            _count(operand, counts)


def _source(expression: Expression, names: Mapping[Expression, str]) -> str:
    if expression in names:
        return names[expression]
    texts = [_source(operand, names) for operand in expression.operands]
    return expression.parts[0] + "".join(text + part for text, part in zip(texts, expression.parts[1:], strict=True))


def _unwrapped(source: str) -> str:
    """The source without the parentheses around all of it."""
    if source[:1] == "(" and source[-1:] == ")":
        try:
            ast.parse(source[1:-1], mode="eval")
        except SyntaxError:
            return source
        return source[1:-1]
    return source


def _needed(body: str) -> list[str]:
    """The imports, patterns and functions of the operations that the code uses, in the order of their module."""
    definitions = _definitions()
    wanted: set[str] = set()
    unread = [body]
    while unread:
        for name in _names_in(unread.pop()):
            if name in definitions and name not in wanted:
                wanted.add(name)
                unread.append(definitions[name])
    chosen = [(name, source) for name, source in definitions.items() if name in wanted]
    used = set().union(_names_in(body), *(_names_in(source) for _, source in chosen))
    lines = ["import re"] if "re" in used else []
    for module, names in _IMPORTED:
        if names & used:
            lines.append(f"from {module} import {', '.join(sorted(names & used))}")
    constants = [source for name, source in chosen if not source.startswith("def ")]
    functions = [source for name, source in chosen if source.startswith("def ")]
    return [*lines, *([""] if lines and constants else []), *constants, *(f"\n\n{source}" for source in functions), ""]


def _names_in(source: str) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}


@cache
def _definitions() -> dict[str, str]:
    source = inspect.getsource(operations)
    found = {}
    for node in ast.parse(source).body:
        segment = ast.get_source_segment(source, node)
        if isinstance(node, ast.FunctionDef) and segment is not None:
            found[node.name] = segment
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and segment is not None:
            found[node.targets[0].id] = segment
    return found
