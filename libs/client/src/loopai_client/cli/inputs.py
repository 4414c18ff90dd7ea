"""What is given on the command line as JSON, as ``@file``, or as a file of examples. Bad input is a usage error."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from loopai_client.examples import Example, parse_json, read_examples


def json_or_file(text: str, option: str) -> Any:
    """The JSON value that ``text`` is, or that the file named after its ``@`` holds."""
    with _usage_errors(option):
        return parse_json(Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") else text)


def json_text(text: str, where: str) -> Any:
    """The JSON value that ``text`` is."""
    with _usage_errors(where):
        return parse_json(text)


def examples_from(path: Path, option: str) -> list[Example]:
    """The examples of a file, see :func:`loopai_client.examples.read_examples`."""
    with _usage_errors(option):
        return read_examples(path)


def text_from(path: Path, option: str) -> str:
    """The text of a file, or of stdin for ``-``."""
    with _usage_errors(option):
        return sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")


@contextmanager
def _usage_errors(option: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error), param_hint=option) from error
