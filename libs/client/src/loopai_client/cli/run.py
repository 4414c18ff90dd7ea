"""``loopai run``: run a task's program on one input."""

import json
import sys
from typing import Annotated, Any

import typer

from loopai_client.cli.inputs import json_or_file, json_text
from loopai_client.cli.options import DEFAULT_URL, AsJson, TaskName, TimeoutMs, Url, VersionNumber
from loopai_client.cli.output import ProgramFailed, err, failures, print_json
from loopai_client.client import LoopaiClient


def run(
    task: TaskName,
    value: Annotated[str | None, typer.Argument(metavar="INPUT", help="The input as JSON, or @file.")] = None,
    text: Annotated[str | None, typer.Option("--text", help='The same as the INPUT {"text": "…"}.')] = None,
    asynchronously: Annotated[
        bool, typer.Option("--async", help="Only queue it, durably, and print the id of its record.")
    ] = False,
    version: VersionNumber = None,
    timeout_ms: TimeoutMs = None,
    input_option: Annotated[str | None, typer.Option("--input", hidden=True)] = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Run a task's program on one input: INPUT, --text, or JSON on stdin. Prints the output."""
    given = _given([value, input_option], text)
    with failures(as_json=as_json), LoopaiClient(url) as client:
        if asynchronously:
            accepted = client.execute_async(task, given, version=version, timeout_ms=timeout_ms)
            print_json(accepted) if as_json else print_text(str(accepted.execution_id))
            if not as_json and err.is_terminal:
                err.print(f"Its outcome: loopai executions show --wait {accepted.execution_id}")
            return
        result = client.execute(task, given, version=version, timeout_ms=timeout_ms)
        if as_json:
            print_json(result)
        if result.status != "success":
            raise ProgramFailed(f"the program ended with {result.status}: {result.error_message or 'no reason given'}")
        if not as_json:
            print_text(as_text(result.output))


def as_text(value: Any) -> str:
    """An output for people: text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def print_text(text: str) -> None:
    """A line on stdout, untouched by colours and widths."""
    sys.stdout.write(f"{text}\n")


def _given(values: list[str | None], text: str | None) -> Any:
    inputs = [value for value in values if value is not None]
    if len(inputs) + (text is not None) > 1:
        raise typer.BadParameter("give one of INPUT and --text", param_hint="INPUT")
    if inputs:
        return json_or_file(inputs[0], "INPUT")
    if text is not None:
        return {"text": text}
    if sys.stdin.isatty():
        raise typer.BadParameter("give INPUT, --text, or JSON on stdin", param_hint="INPUT")
    return json_text(sys.stdin.read(), "stdin")
