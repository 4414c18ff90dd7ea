"""``loopai secrets``: what a deployment must keep to itself."""

from pathlib import Path
from typing import Annotated

import typer

from loopai_client.cli.output import failures, out
from loopai_client.local.deployment import make_secrets


def make(
    directory: Annotated[Path, typer.Argument(help="Where they are kept; a folder for each user of the bus.")],
    nats: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where the NATS server will be.")] = "nats:4222",
) -> None:
    """Make the passwords of the bus and an empty file of API keys, where they are missing."""
    with failures(as_json=False):
        made = make_secrets(directory, nats)
    out.print(f"Passwords made for: {', '.join(made)}." if made else "Every password is there already.")
