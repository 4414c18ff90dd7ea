"""``loopai store``, ``loopai export`` and ``loopai import``: commands on the data of a store, which run where it is."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from loopai_client.cli.options import AsJson
from loopai_client.cli.output import Failed, failures
from loopai_client.cli.stack import DataDir
from loopai_client.local.stack import DEFAULT_DATA_DIR

app = typer.Typer(no_args_is_help=True, help="Check and repair the data of a store, by the settings of artifact-store.")

_PACKAGE = "loopai_artifact_store"


@app.command()
def verify(data_dir: DataDir = DEFAULT_DATA_DIR, as_json: AsJson = False) -> None:
    """Check every digest and every reference; exit code 1 when something is wrong. Changes nothing."""
    _run(data_dir, "verify", as_json=as_json)


@app.command()
def rebuild(data_dir: DataDir = DEFAULT_DATA_DIR, as_json: AsJson = False) -> None:
    """Make an empty catalog anew from the storage of programs."""
    _run(data_dir, "rebuild", as_json=as_json)


@app.command()
def relabel(data_dir: DataDir = DEFAULT_DATA_DIR, as_json: AsJson = False) -> None:
    """Write again what is kept beside the programs for people and for recovery."""
    _run(data_dir, "relabel", as_json=as_json)


def export(
    file: Annotated[Path, typer.Argument(help="The archive; one that is there is replaced.")],
    task: Annotated[list[str] | None, typer.Option(help="Name or id; several times; without it: all.")] = None,
    executions: Annotated[bool, typer.Option("--executions", help="Also the records of executions.")] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Write tasks, with all their versions and programs, into an archive. The store may be in use."""
    chosen = [f"--task={name}" for name in task or ()]
    more = ["--executions"] if executions else []
    _run(data_dir, "export", *chosen, *more, "--", str(file), as_json=as_json)


def import_(
    file: Annotated[Path, typer.Argument(help="The archive.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check what would be done.")] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Store the tasks of an archive with their ids, numbers and times. What is here already is left alone."""
    _run(data_dir, "import", *(["--dry-run"] if dry_run else []), "--", str(file), as_json=as_json)


def _run(data_dir: Path, command: str, *arguments: str, as_json: bool) -> None:
    """Runs the command of artifact-store, a service that this library does not import, and ends as it does."""
    with failures(as_json=as_json):
        if importlib.util.find_spec(_PACKAGE) is None:
            raise Failed("loopai-artifact-store is not installed here; run this where the store runs, or install it")
        options = ["--json"] if as_json else []
        done = subprocess.run(
            [sys.executable, "-m", f"{_PACKAGE}.operations.operator", command, *options, *arguments],
            env={**os.environ, "LOOPAI_DATA_DIR": str(data_dir)},
            check=False,
        )
    raise typer.Exit(done.returncode)
