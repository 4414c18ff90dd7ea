"""What the command prints, and how it ends: results on stdout, everything else on stderr, one exit code each."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loopai_client.client import ApiError, Unreachable
from loopai_client.local.data_dir import AlreadyRunning, StillRunning
from loopai_client.local.nats_server import ServerFailed
from loopai_client.local.ports import PortTaken
from loopai_client.local.supervisor import StartFailed
from loopai_common.keys import BadKeyFile

# Where the output goes to a file or a pipe, a table takes the room it needs.
_PIPE_WIDTH = 1000

out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else _PIPE_WIDTH)
err = Console(stderr=True, highlight=False, soft_wrap=True)


class ExitCode(IntEnum):
    """How the command ends."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3


class Failed(Exception):
    """The command did not do what it was asked for; the message says why."""


def print_json(value: Any) -> None:
    """One line of JSON on stdout, whole, whatever the width of the terminal."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def table(columns: list[str], rows: list[list[str]]) -> Table:
    """A table for people, with as much room as it needs."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*map(escape, row))
    return shown


@contextmanager
def failures(*, as_json: bool) -> Iterator[None]:
    """Turns what can go wrong into a readable message on stderr and the right exit code."""
    try:
        yield
    except ApiError as error:
        details = [{"field": d.field, "message": d.message, "code": d.code} for d in error.details]
        _fail(as_json, ExitCode.FAILED, error.code, error.message, details=details, status=error.status)
    except Unreachable as error:
        _fail(as_json, ExitCode.UNREACHABLE, "unreachable", str(error))
    except (AlreadyRunning, StillRunning, PortTaken, ServerFailed, StartFailed, Failed) as error:
        _fail(as_json, ExitCode.FAILED, "failed", str(error))
    except BadKeyFile as error:
        _fail(as_json, ExitCode.FAILED, "failed", f"this is not a file of API keys: {error}")
    except OSError as error:
        _fail(as_json, ExitCode.FAILED, "failed", f"{error.filename or 'operating system'}: {error.strerror or error}")


def _fail(
    as_json: bool,
    exit_code: ExitCode,
    code: str,
    message: str,
    *,
    details: list[dict[str, str]] | None = None,
    status: int | None = None,
) -> None:
    if as_json:
        body = {"code": code, "message": message, "details": details or [], "status": status}
        sys.stderr.write(json.dumps({"error": body}, ensure_ascii=False) + "\n")
    else:
        prefix = f"[red]{escape(code)}[/red]: " if status is not None else "[red]loopai:[/red] "
        err.print(prefix + escape(message))
        for detail in details or ():
            err.print(f"  [bold]{escape(detail['field'])}[/bold]: {escape(detail['message'])} ({detail['code']})")
    raise typer.Exit(exit_code)
