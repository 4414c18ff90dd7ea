"""The arguments and options that several commands share."""

from typing import Annotated

import typer

from loopai_client.client import DEFAULT_URL

TaskName = Annotated[str, typer.Argument(help="Name or id.")]
Url = Annotated[str, typer.Option("--url", envvar="LOOPAI_URL", help="Where the API answers.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
VersionNumber = Annotated[
    int | None, typer.Option("--version", min=1, help="The version to run; without it: the active one.")
]
TimeoutMs = Annotated[
    int | None, typer.Option("--timeout-ms", min=1, max=60_000, help="Time that an execution may take.")
]

__all__ = ["DEFAULT_URL", "AsJson", "TaskName", "TimeoutMs", "Url", "VersionNumber"]
