"""The options that several commands share."""

from typing import Annotated

import typer

from loopai_client.client import DEFAULT_URL

Url = Annotated[str, typer.Option("--url", envvar="LOOPAI_URL", help="Where the API answers.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]

__all__ = ["DEFAULT_URL", "AsJson", "Url"]
