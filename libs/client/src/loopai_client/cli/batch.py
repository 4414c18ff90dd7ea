"""``loopai batch``: run a task's program on a file of inputs."""

import os
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from time import monotonic
from typing import Annotated, Any, BinaryIO

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from loopai_client.cli.inputs import json_text
from loopai_client.cli.options import DEFAULT_URL, AsJson, TaskName, TimeoutMs, Url, VersionNumber
from loopai_client.cli.output import ProgramFailed, err, failures
from loopai_client.client import LoopaiClient
from loopai_client.framing import encode_json
from loopai_client.models import BatchItem

_FIELDS = {"id": str, "input": object, "force_validation": bool}
_REFRESH_SECONDS = 0.1


def batch(
    task: TaskName,
    file: Annotated[
        Path,
        typer.Argument(
            help='Lines of {"input": …}, or one JSON array of them, with an "id" of your own if you like; - for stdin.',
            allow_dash=True,
        ),
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where the results go, not stdout.")] = None,
    version: VersionNumber = None,
    timeout_ms: TimeoutMs = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Run a task's program on every input of a file. Prints a line of JSON for each, in their order.

    Lines are read while results come, so that a file may be of any size; an array is read whole.
    """
    statuses: Counter[str] = Counter()
    started = monotonic()
    with failures(as_json=as_json), _opened(file) as source, _written(output) as results, LoopaiClient(url) as client:
        with _progress(source) as advance:
            items = _items(source, advance)
            for result in client.batch_stream(task, items, version=version, timeout_ms=timeout_ms):
                results.write(encode_json(result.model_dump(mode="json")) + b"\n")
                statuses[result.status] += 1
        results.flush()
        _summarise(statuses, monotonic() - started, as_json=as_json)
        failed = statuses.total() - statuses["success"]
        if failed:
            raise ProgramFailed(f"{failed:,} of {statuses.total():,} items did not succeed")


def _summarise(statuses: Counter[str], seconds: float, *, as_json: bool) -> None:
    if as_json:
        summary = {"total": statuses.total(), **statuses, "seconds": round(seconds, 3)}
        sys.stderr.write(encode_json(summary).decode() + "\n")
    else:
        each = ", ".join(f"{count:,} {status}" for status, count in statuses.most_common())
        err.print(f"{statuses.total():,} results in {seconds:.1f} s: {each or 'the file is empty'}")


def _items(source: BinaryIO, advance: Callable[[int], None]) -> Iterator[BatchItem]:
    """The items of lines, or of an array, which is what begins with ``[``. Bad ones are usage errors."""
    lines = _lines(source, advance)
    first = next(lines, None)
    if first is None:
        return
    number, line = first
    if line.lstrip().startswith(b"["):
        values = json_text(_text(b"".join(text for _, text in chain([first], lines)), "FILE"), "FILE")
        for position, value in enumerate(values, 1):
            yield _item(value, f"item {position}")
        return
    for number, line in chain([first], lines):
        where = f"line {number}"
        yield _item(json_text(_text(line, where), where), where)


def _lines(source: Iterable[bytes], advance: Callable[[int], None]) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(source, 1):
        advance(len(line))
        if line.strip():
            yield number, line


def _text(line: bytes, where: str) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise typer.BadParameter("not UTF-8", param_hint=where) from error


def _item(value: Any, where: str) -> BatchItem:
    known = isinstance(value, dict) and "input" in value and value.keys() <= _FIELDS.keys()
    if not known or not all(isinstance(value[name], kind) for name, kind in _FIELDS.items() if name in value):
        raise typer.BadParameter('must be {"input": …}, with an "id" that is text if any', param_hint=where)
    return BatchItem(**value)


@contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    if str(file) == "-":
        yield sys.stdin.buffer
        return
    try:
        source = file.open("rb")
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror}", param_hint="FILE") from error
    with source:
        yield source


@contextmanager
def _written(output: Path | None) -> Iterator[BinaryIO]:
    if output is None:
        yield sys.stdout.buffer
        return
    with output.open("wb") as results:
        yield results


@contextmanager
def _progress(source: BinaryIO) -> Iterator[Callable[[int], None]]:
    """A bar on the terminal, by the size of the file where it has one; the function takes what was read."""
    status = os.fstat(source.fileno())
    total = status.st_size if stat.S_ISREG(status.st_mode) else None
    columns = (TextColumn("Running"), BarColumn(), TextColumn("{task.fields[items]:,}"), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        bar = progress.add_task("", total=total, items=0)
        read_bytes, items, shown_at = 0, 0, 0.0

        def advance(size_bytes: int) -> None:
            nonlocal read_bytes, items, shown_at
            read_bytes, items = read_bytes + size_bytes, items + 1
            if monotonic() - shown_at >= _REFRESH_SECONDS:
                shown_at = monotonic()
                progress.update(bar, completed=read_bytes, items=items)

        yield advance
