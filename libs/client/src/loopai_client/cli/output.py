"""What the command prints, and how it ends: results on stdout, everything else on stderr, one exit code each."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any

import typer
from pydantic import BaseModel
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loopai_client.errors import ApiError, LoopaiError, Unreachable
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
    """The request was refused, or what was asked for could not be done."""
    USAGE = 2
    """The command line, or a file that it names, is wrong."""
    PROGRAM_FAILED = 3
    """The program raised or ran out of time; of a batch: at least one item did not succeed, for whatever reason."""
    UNREACHABLE = 4
    """Nobody answers at the URL, or not in time."""


class Failed(Exception):
    """The command did not do what it was asked for; the message says why."""


class ProgramFailed(Exception):
    """A program did not succeed; the message says how it ended."""


def print_json(value: Any) -> None:
    """One line of JSON on stdout, whole, whatever the width of the terminal. Models may stand alone or in a list."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, default=plain) + "\n")
    sys.stdout.flush()


def plain(value: object) -> Any:
    """What the API said, for a model; raises :class:`TypeError` for anything else that JSON does not know."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} is no JSON")


def table(columns: list[str], rows: list[list[str]]) -> Table:
    """A table for people, with as much room as it needs."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*map(escape, row))
    return shown


def facts(pairs: dict[str, object]) -> Table:
    """Names and values below each other; what is ``None`` is left out."""
    shown = Table.grid(padding=(0, 2))
    for name, value in pairs.items():
        if value is not None:
            shown.add_row(f"[bold]{name}[/bold]", escape(str(value)))
    return shown


@contextmanager
def failures(*, as_json: bool) -> Iterator[None]:
    """Turns what can go wrong into a readable message on stderr and the right exit code."""
    try:
        yield
    except ApiError as error:
        details = [{"field": d.field, "message": d.message, "code": d.code} for d in error.details]
        _fail(
            as_json,
            ExitCode.FAILED,
            error.code,
            error.message,
            details=details,
            status=error.status,
            trace_id=error.trace_id,
        )
    except Unreachable as error:
        _fail(as_json, ExitCode.UNREACHABLE, error.code, error.message)
    except LoopaiError as error:
        _fail(as_json, ExitCode.FAILED, error.code, error.message)
    except ProgramFailed as error:
        _fail(as_json, ExitCode.PROGRAM_FAILED, "program_failed", str(error))
    except (AlreadyRunning, StillRunning, PortTaken, ServerFailed, StartFailed, Failed) as error:
        _fail(as_json, ExitCode.FAILED, "failed", str(error))
    except BadKeyFile as error:
        _fail(as_json, ExitCode.FAILED, "failed", f"that is not a file of API keys: {error}")
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
    trace_id: str | None = None,
) -> None:
    if as_json:
        body = {"code": code, "message": message, "details": details or [], "status": status, "trace_id": trace_id}
        sys.stderr.write(json.dumps({"error": body}, ensure_ascii=False) + "\n")
    else:
        prefix = f"[red]{escape(code)}[/red]: " if status is not None else "[red]loopai:[/red] "
        err.print(prefix + escape(message))
        for detail in details or ():
            err.print(f"  [bold]{escape(detail['field'])}[/bold]: {escape(detail['message'])} ({detail['code']})")
    raise typer.Exit(exit_code)
