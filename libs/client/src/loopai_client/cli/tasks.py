"""``loopai task``: create, list, show."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from loopai_client.cli.inputs import examples_from, json_or_file
from loopai_client.cli.options import DEFAULT_URL, AsJson, Url
from loopai_client.cli.output import Failed, failures, out, print_json, table
from loopai_client.client import MAX_WAIT_SECONDS, Artifact, LoopaiClient, Task
from loopai_client.examples import TEXT_SCHEMA, labels_schema

app = typer.Typer(no_args_is_help=True, help="Create tasks and look at them.")

_POLL_SECONDS = 1.0


@app.command()
def create(
    name: Annotated[str, typer.Option(help="Letters, digits, and _ . -")],
    description: Annotated[str, typer.Option(help="What the program shall do.")],
    input_schema: Annotated[
        str | None, typer.Option(help='JSON Schema of the input, or @file. Without it: {"text": "…"}.')
    ] = None,
    output_schema: Annotated[
        str | None, typer.Option(help="JSON Schema of the output, or @file. Without it: the labels of the examples.")
    ] = None,
    examples: Annotated[
        Path | None,
        typer.Option(help='.jsonl or .json of {"input", "output"}, or .tsv with a label and a text on each line.'),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the program is ready.")] = False,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Create a task; a program for it is then generated."""
    shown = examples_from(examples, "--examples") if examples else []
    output = json_or_file(output_schema, "--output-schema") if output_schema else labels_schema(shown)
    if output is None:
        raise typer.BadParameter("needed, since the examples use no labels", param_hint="--output-schema")
    definition: dict[str, Any] = {
        "name": name,
        "description": description,
        "input_schema": json_or_file(input_schema, "--input-schema") if input_schema else TEXT_SCHEMA,
        "output_schema": output,
        "examples": shown,
    }
    with failures(as_json=as_json), LoopaiClient(url) as client:
        task = client.create_task(definition, wait_seconds=MAX_WAIT_SECONDS if wait else 0)
        while wait and task.status == "generating":
            time.sleep(_POLL_SECONDS)
            task = client.get_task(task.id)
        if as_json:
            print_json(task.body)
        else:
            out.print(f"{escape(task.name)} [bold]{task.status}[/bold] ({task.id})")
        if task.status == "failed":
            raise Failed(f"no program: {task.status_reason or 'no reason given'}")


@app.command("list")
def list_tasks(url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """List the tasks."""
    with failures(as_json=as_json), LoopaiClient(url) as client:
        tasks = list(client.list_tasks())
    if as_json:
        print_json([task.body for task in tasks])
    elif not tasks:
        out.print("No tasks yet; make one with `loopai task create`.")
    else:
        out.print(table(["name", "status", "active", "versions", "created"], [_row(task) for task in tasks]))


@app.command()
def show(
    task: Annotated[str, typer.Argument(help="Name or id.")], url: Url = DEFAULT_URL, as_json: AsJson = False
) -> None:
    """Show a task and its versions."""
    with failures(as_json=as_json), LoopaiClient(url) as client:
        found = client.get_task(task)
        artifacts = client.list_artifacts(task)
    if as_json:
        print_json({"task": found.body, "artifacts": [artifact.body for artifact in artifacts]})
        return
    out.print(f"[bold]{escape(found.name)}[/bold]  {found.id}")
    out.print(f"{found.status}{f': {escape(found.status_reason)}' if found.status_reason else ''}")
    out.print(escape(str(found.body.get("description", ""))))
    if artifacts:
        columns = ["version", "status", "strategy", "confidence", "bytes", "digest"]
        out.print(table(columns, [_version_row(artifact) for artifact in artifacts]))


def _row(task: Task) -> list[str]:
    active = "-" if task.active_version is None else str(task.active_version)
    versions, created = str(task.body.get("total_versions", "")), str(task.body.get("created_at", ""))
    return [task.name, task.status, active, versions, created]


def _version_row(artifact: Artifact) -> list[str]:
    return [
        str(artifact.version),
        artifact.status,
        artifact.synthesis_strategy,
        f"{artifact.confidence_score:.3f}",
        f"{artifact.size_bytes:,}",
        artifact.digest.removeprefix("sha256:")[:12],
    ]
