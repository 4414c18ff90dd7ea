"""Writing programs: the parts that every emitted classifier has, and running one.

A program's module-level names are constants (strings, numbers, tuples, frozen sets, compiled patterns, read-only
mappings): the sandbox recognises such a module and need not make its globals anew for every call.
"""

import inspect
import re
from collections.abc import Callable, Sequence
from textwrap import fill
from types import FunctionType
from typing import Any, cast

from pydantic import JsonValue

from loopai_generator.domain import CrossValidation, LabelTask

_WIDTH = 100
_UNSAFE_IN_NAME = re.compile(r"[^A-Za-z0-9_.-]")


def header(
    task: LabelTask,
    how: str,
    strategy: str,
    cross_validation: CrossValidation | None,
) -> str:
    """The module docstring: what the program is, and how it was made. Nothing from outside stands in it unfiltered."""
    made = f"Learned from {len(task.examples)} examples with {len(task.labels)} labels, without a language model."
    if cross_validation is None:
        known = "There were too few examples to measure the accuracy."
    else:
        known = f"Accuracy in {cross_validation.folds}-fold cross-validation: {cross_validation.accuracy:.4f}."
    return docstring(task.name, "Labels the texts", f"{made} {known} Strategy: {strategy}.", how)


def docstring(name: str, does: str, made: str, how: str) -> str:
    """The module docstring of a program that ``does`` something for the task ``name``."""
    safe = _UNSAFE_IN_NAME.sub("_", name)[:200]
    paragraphs = (f"{does} of the task {safe}.", made, how)
    text = "\n\n".join(fill(paragraph, _WIDTH, break_on_hyphens=False) for paragraph in paragraphs)
    return f'"""{text}\n"""\n'


def pattern_line(name: str, pattern: re.Pattern[str]) -> str:
    """The assignment of a compiled pattern (one without quotes and flags)."""
    return f'{name} = re.compile(r"{pattern.pattern}")'


def escaped(line: str) -> str:
    """``line`` as it stands within three double quotes."""
    # With a double quote in it, repr always chooses single ones as its own.
    return repr('"' + line)[2:-1].replace("\\'", "'").replace('"', '\\"')


def source_of(*functions: Callable[..., Any]) -> str:
    """The source of plain module-level functions, as it stands in this package."""
    return "\n\n".join(inspect.getsource(cast(FunctionType, function)) for function in functions)


def entry_point(task: LabelTask, seen: str = "text") -> str:
    """The ``run`` of a program that has a ``classify``, which is given what ``seen`` says of ``text`` and ``input``."""
    text = _text_expression(task.input_properties)
    label = f"classify({seen})" if task.output_property is None else f"{{{task.output_property!r}: classify({seen})}}"
    return f"def run(input):\n    text = {text}\n    return {label}\n"


def load_program(code: str) -> Callable[[JsonValue], JsonValue]:
    """The ``run(input)`` of a program written by this package."""
    module: dict[str, Any] = {}
    exec(compile(code, "<learned>", "exec"), module)  # noqa: S102  # code of our own making, in a process of its own
    return cast(Callable[[JsonValue], JsonValue], module["run"])


def _text_expression(properties: Sequence[str] | None) -> str:
    if properties is None:
        return "str(input)"
    parts = [f"str(input.get({name!r}) or '')" for name in properties]
    return parts[0] if len(parts) == 1 else f'"\\n".join([{", ".join(parts)}])'
