"""``loopai execute``: run a task's program on one input."""

import json
import sys
from typing import Annotated, Any

import typer

from loopai_client.cli.inputs import json_or_file, json_text
from loopai_client.cli.options import DEFAULT_URL, AsJson, Url
from loopai_client.cli.output import Failed, failures, print_json
from loopai_client.client import LoopaiClient


def execute(
    task: Annotated[str, typer.Argument(help="Name or id.")],
    value: Annotated[str | None, typer.Option("--input", help="The input as JSON, or @file.")] = None,
    text: Annotated[str | None, typer.Option("--text", help='The same as --input \'{"text": "…"}\'.')] = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Run a task's program on one input: --input, --text, or JSON on stdin. Prints the output."""
    given = _given(value, text)
    with failures(as_json=as_json), LoopaiClient(url) as client:
        result = client.execute(task, given)
        if as_json:
            print_json(result.body)
        if result.status != "success":
            raise Failed(f"the program ended with {result.status}: {result.error_message or 'no reason given'}")
    if not as_json:
        output = result.output
        sys.stdout.write((output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)) + "\n")


def _given(value: str | None, text: str | None) -> Any:
    if value is not None and text is not None:
        raise typer.BadParameter("give one of --input and --text", param_hint="--input")
    if value is not None:
        return json_or_file(value, "--input")
    if text is not None:
        return {"text": text}
    if sys.stdin.isatty():
        raise typer.BadParameter("give --input, --text, or JSON on stdin", param_hint="--input")
    return json_text(sys.stdin.read(), "stdin")
