"""``loopai artifacts``: the versions of a task's program."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from loopai_client.cli.inputs import text_from
from loopai_client.cli.options import DEFAULT_URL, AsJson, TaskName, Url
from loopai_client.cli.output import facts, failures, out, print_json, table
from loopai_client.client import LoopaiClient
from loopai_client.models import Artifact, EntryPoint, SynthesisStrategy
from loopai_common.contracts.base import format_timestamp

app = typer.Typer(no_args_is_help=True, help="Look at the versions of a program, add some, decide which one runs.")

_ACTIVE = "active"
COLUMNS = ["version", "status", "share", "strategy", "confidence", "bytes", "digest"]


def _version(text: str) -> int | None:
    if text == _ACTIVE:
        return None
    if text.isascii() and text.isdecimal() and 0 < int(text) < 2**31:
        return int(text)
    raise typer.BadParameter(f"a number from 1 on, or {_ACTIVE}", param_hint="VERSION")


Version = Annotated[str, typer.Argument(metavar="VERSION", help="A number, or active.")]


@app.command("list")
def list_artifacts(task: TaskName, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """List the versions, oldest first."""
    with failures(as_json=as_json), LoopaiClient(url) as client:
        artifacts = list(client.list_artifacts(task))
    if as_json:
        print_json(artifacts)
    elif not artifacts:
        out.print("There is no version yet.")
    else:
        out.print(table(COLUMNS, [row(artifact) for artifact in artifacts]))


@app.command()
def show(task: TaskName, version: Version = _ACTIVE, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Show a version, how it was made, and how it did on the examples."""
    number = _version(version)
    with failures(as_json=as_json), LoopaiClient(url) as client:
        artifact = client.get_artifact(task, number)
    if as_json:
        print_json(artifact)
    else:
        _print(artifact)


@app.command()
def code(task: TaskName, version: Version = _ACTIVE, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Print the source of a version, exactly as it is stored."""
    number = _version(version)
    with failures(as_json=as_json), LoopaiClient(url) as client:
        source = client.get_code(task, number)
    if as_json:
        print_json({"code": source})
    else:
        sys.stdout.write(source)


@app.command()
def upload(
    task: TaskName,
    file: Annotated[Path, typer.Argument(help="The source, in Python; - for stdin.", allow_dash=True)],
    entry_point: Annotated[EntryPoint, typer.Option(help="The function to call.")] = EntryPoint.RUN,
    strategy: Annotated[SynthesisStrategy, typer.Option(help="How it was made.")] = SynthesisStrategy.AUTO,
    activate: Annotated[bool, typer.Option(help="Whether it shall run from now on.")] = True,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Hand in a program: it is checked on the task's examples, and becomes the next version."""
    source = text_from(file, "FILE")
    with failures(as_json=as_json), LoopaiClient(url) as client:
        artifact = client.upload_artifact(task, source, entry_point=entry_point, strategy=strategy, activate=activate)
    if as_json:
        print_json(artifact)
    else:
        out.print(f"Version {artifact.version} is {artifact.status}.")


@app.command()
def activate(
    task: TaskName,
    version: Annotated[int, typer.Argument(min=1)],
    percentage: Annotated[
        float, typer.Option(min=0, max=100, help="Below 100: the share of the executions that it gets.")
    ] = 100.0,
    reason: Annotated[str, typer.Option(help="Why; it is kept in the history.")] = "",
    expected_version: Annotated[
        int | None, typer.Option(min=1, help="Only while this one is the active version.")
    ] = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Make a version the active one, forward or back, or give it a share of the executions."""
    with failures(as_json=as_json), LoopaiClient(url) as client:
        artifact = client.activate(
            task, version, percentage=percentage, reason=reason, expected_version=expected_version
        )
    if as_json:
        print_json(artifact)
    else:
        out.print(f"Version {artifact.version} is {artifact.status}, with {artifact.deployment_percentage:g} %.")


@app.command()
def history(task: TaskName, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """List which version was given which share of the executions, newest first."""
    with failures(as_json=as_json), LoopaiClient(url) as client:
        activations = list(client.list_activations(task))
    if as_json:
        print_json(activations)
        return
    rows = [
        [
            format_timestamp(a.at),
            "-" if a.from_version is None else str(a.from_version),
            str(a.to_version),
            f"{a.percentage:g} %",
            a.actor,
            a.reason,
        ]
        for a in activations
    ]
    out.print(table(["at", "from", "to", "share", "by", "reason"], rows))


def row(artifact: Artifact) -> list[str]:
    """A version in the columns of :data:`COLUMNS`."""
    return [
        str(artifact.version),
        artifact.status,
        f"{artifact.deployment_percentage:g} %",
        artifact.synthesis_strategy,
        f"{artifact.confidence_score:.3f}",
        f"{artifact.size_bytes:,}",
        artifact.digest.removeprefix("sha256:")[:12],
    ]


def _print(artifact: Artifact) -> None:
    validation = artifact.validation
    out.print(
        facts(
            {
                "version": artifact.version,
                "status": artifact.status,
                "share": f"{artifact.deployment_percentage:g} %",
                "improves on": artifact.parent_version,
                "strategy": artifact.synthesis_strategy,
                "model": artifact.llm_model,
                "made by": None if artifact.fallback is None else f"the {artifact.fallback}, as a fallback",
                "confidence": f"{artifact.confidence_score:.3f}",
                "examples": None if validation is None else f"{validation.passed} of {validation.total} right",
                "entry point": artifact.entry_point,
                "size": f"{artifact.size_bytes:,} bytes",
                "digest": artifact.digest,
                "created": format_timestamp(artifact.created_at),
            }
        )
    )
    for failure in validation.failures if validation else ():
        got = failure.error or f"got {failure.actual!r}"
        out.print(escape(f"  {failure.input!r}: {got}, not {failure.expected!r}"))
