"""``loopai dlq``: messages that could not be handled. For operators: it talks to NATS, not to the API."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from loopai_client.cli.options import AsJson
from loopai_client.cli.output import Failed, facts, failures, out, print_json, table
from loopai_client.cli.stack import DataDir
from loopai_client.local.stack import DEFAULT_DATA_DIR, nats_url_of
from loopai_common.contracts.base import format_timestamp

if TYPE_CHECKING:
    from loopai_client.dead_letters import Content, DeadLetter, DeadLetters

T = TypeVar("T")

_COLUMNS = ["sequence", "subject", "at", "deliveries", "reason", "bytes"]

app = typer.Typer(no_args_is_help=True, help="Look at messages that could not be handled, and put them back.")

Nats = Annotated[
    str | None, typer.Option("--nats", envvar="LOOPAI_NATS_URL", help="NATS server; without it: the running stack's.")
]
OfSubject = Annotated[
    str | None, typer.Option("--subject", help="Only those that were sent on this subject; wildcards * and >.")
]
Sequence = Annotated[int, typer.Argument(metavar="SEQUENCE", min=1, help="As `loopai dlq list` shows it.")]


@app.command("list")
def list_letters(
    subject: OfSubject = None, nats: Nats = None, data_dir: DataDir = DEFAULT_DATA_DIR, as_json: AsJson = False
) -> None:
    """List the dead letters, oldest first."""
    with failures(as_json=as_json):
        letters = _with_letters(nats, data_dir, lambda kept: kept.list(subject))
    if as_json:
        print_json([_shown(letter) for letter in letters])
    elif not letters:
        out.print("There are none.")
    else:
        out.print(table(_COLUMNS, [_row(letter) for letter in letters]))


@app.command()
def show(sequence: Sequence, nats: Nats = None, data_dir: DataDir = DEFAULT_DATA_DIR, as_json: AsJson = False) -> None:
    """Show a dead letter with its headers and its body, which holds what its sender sent."""
    with failures(as_json=as_json):
        letter, content = _with_letters(nats, data_dir, lambda kept: kept.get(sequence))
    if as_json:
        print_json({**_shown(letter), "headers": dict(content.headers), "body": _body(content)})
        return
    out.print(facts(_shown(letter)))
    out.print()
    out.print(facts(dict(sorted(content.headers.items()))))
    out.print()
    body = _body(content)
    out.print(body if isinstance(body, str) else json.dumps(body, indent=2, ensure_ascii=False), markup=False)


@app.command()
def replay(
    sequences: Annotated[
        list[int] | None, typer.Argument(metavar="[SEQUENCE]...", min=1, help="As `loopai dlq list` shows them.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Put all of them back.")] = False,
    subject: OfSubject = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    nats: Nats = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Put messages back on the subjects that they were sent on, and remove their dead letters.

    Do it when the cause is gone: what fails again becomes a new dead letter.
    """
    if [bool(sequences), every, subject is not None].count(True) != 1:
        raise typer.BadParameter("name them, or say --all, or --subject")
    with failures(as_json=as_json):
        if not sequences:
            letters = _with_letters(nats, data_dir, lambda kept: kept.list(subject))
            sequences = [letter.sequence for letter in letters]
        count = len(sequences)
        if count and not yes:
            typer.confirm(f"Put {count} {'message' if count == 1 else 'messages'} back?", abort=True, err=True)
        _with_letters(nats, data_dir, lambda kept: _put_back(kept, sequences, as_json=as_json))
    if not as_json and not sequences:
        out.print("There are none.")


async def _put_back(kept: "DeadLetters", sequences: list[int], *, as_json: bool) -> None:
    for sequence in sequences:
        subject = await kept.replay(sequence)
        if as_json:
            print_json({"sequence": sequence, "subject": subject})
        else:
            out.print(f"{sequence} is on {subject} again.", markup=False)


def _with_letters(nats: str | None, data_dir: Path, work: "Callable[[DeadLetters], Awaitable[T]]") -> T:
    # Not with the other imports: a client of NATS takes as long to import as all the rest of the command.
    from loopai_client.dead_letters import DeadLetters

    url = nats or nats_url_of(data_dir)
    if url is None:
        raise Failed(f"no stack runs for {data_dir}; say with --nats or LOOPAI_NATS_URL where NATS is")

    async def run() -> T:
        async with DeadLetters.at(url) as kept:
            return await work(kept)

    return asyncio.run(run())


def _shown(letter: "DeadLetter") -> dict[str, Any]:
    return {**asdict(letter), "at": format_timestamp(letter.at)}


def _row(letter: "DeadLetter") -> list[str]:
    reason = f"{letter.code}: {letter.reason}" if letter.code else letter.reason or ""
    deliveries = "-" if letter.deliveries is None else str(letter.deliveries)
    at = format_timestamp(letter.at)
    return [str(letter.sequence), letter.subject, at, deliveries, reason, f"{letter.size_bytes:,}"]


def _body(content: "Content") -> Any:
    """As JSON where it is some, else as text."""
    try:
        return json.loads(content.body)
    except (ValueError, RecursionError):
        return content.body.decode(errors="backslashreplace")
