"""Examples of a task: reading them from a file, and the schemas that follow from them."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

Example = dict[str, Any]
"""``{"input": …, "output": …}``, as the API takes it."""

TEXT_SCHEMA: Final[Mapping[str, Any]] = {
    "type": "object",
    "properties": {"text": {"type": "string"}},
    "required": ["text"],
    "additionalProperties": False,
}
_MOST_LABELS = 50


def read_examples(path: Path) -> list[Example]:
    """The examples of a file: ``.jsonl`` or ``.json`` of ``{"input", "output"}``, or ``.tsv`` of label and text.

    Raises :class:`ValueError` that says what is wrong with the file, and :class:`OSError`.
    """
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise ValueError(f"unknown kind of file; known are {', '.join(_READERS)}")
    return list(read(path.read_text(encoding="utf-8")))


def parse_json(text: str) -> Any:
    """The JSON value that ``text`` is; raises :class:`ValueError`, for NaN and for absurd nesting too."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def parse_tsv(text: str) -> Iterator[Example]:
    """The examples in lines of a label, a tab and a text; raises :class:`ValueError`."""
    for number, line in enumerate(text.split("\n"), 1):
        label, tab, message = line.rstrip("\r").partition("\t")
        if tab:
            yield {"input": {"text": message}, "output": label}
        elif line.strip():
            raise ValueError(f"line {number} is not a label, a tab, and a text")


def labels_schema(examples: Sequence[Example]) -> dict[str, Any] | None:
    """The schema of the labels that the examples use, ``None`` when their outputs are no labels."""
    outputs = [example["output"] for example in examples]
    if not outputs or not all(isinstance(output, str) for output in outputs):
        return None
    labels = sorted(set(outputs))
    return {"type": "string", "enum": labels} if len(labels) <= _MOST_LABELS else None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _example(value: Any, where: str) -> Example:
    if not isinstance(value, dict) or value.keys() != {"input", "output"}:
        raise ValueError(f'{where} is not {{"input": …, "output": …}}')
    return value


def _parse_list(text: str) -> Iterator[Example]:
    values = parse_json(text)
    if not isinstance(values, list):
        raise ValueError("not a list of examples")
    for number, value in enumerate(values, 1):
        yield _example(value, f"example {number}")


def _parse_lines(text: str) -> Iterator[Example]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield _example(parse_json(line), f"line {number}")


_READERS: Final[Mapping[str, Callable[[str], Iterator[Example]]]] = {
    ".jsonl": _parse_lines,
    ".json": _parse_list,
    ".tsv": parse_tsv,
}
