"""``loopai up`` and ``loopai down``: the whole product on this machine."""

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from loopai_client.cli.first_steps import first_steps
from loopai_client.cli.options import AsJson
from loopai_client.cli.output import failures, out, print_json
from loopai_client.local import data_dir as data_dirs
from loopai_client.local.nats_server import free_port
from loopai_client.local.stack import DEFAULT_DATA_DIR, DEFAULT_PORT, Stack, StackSettings, sandboxed
from loopai_client.local.supervisor import Event, run_until_stopped

_LONGEST_STOP_SECONDS = 180.0

_MAX_WORKERS = 64
_CERTIFICATE = "LOOPAI_API_SSL_CERTFILE"

DataDir = Annotated[Path, typer.Option(envvar="LOOPAI_DATA_DIR", help="Where state and logs are kept.")]


def up(
    data_dir: DataDir = DEFAULT_DATA_DIR,
    host: Annotated[str, typer.Option(envvar="LOOPAI_API_HOST", help="Address the API listens on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(envvar="LOOPAI_API_PORT", min=0, max=65535, help="Port of the API; 0 takes a free one.")
    ] = DEFAULT_PORT,
    nats: Annotated[
        str | None, typer.Option(envvar="LOOPAI_NATS_URL", help="NATS server to use; without it one is started.")
    ] = None,
    api_workers: Annotated[
        int, typer.Option(envvar="LOOPAI_API_WORKERS", min=1, max=_MAX_WORKERS, help="Processes of the api.")
    ] = 1,
    executor_workers: Annotated[
        int, typer.Option(envvar="LOOPAI_EXECUTOR_WORKERS", min=1, max=_MAX_WORKERS, help="Processes of the executor.")
    ] = 1,
    keys: Annotated[
        Path | None,
        typer.Option(envvar="LOOPAI_API_KEYS_FILE", help="File of API keys (see `loopai keys`) that callers need."),
    ] = None,
    mongo: Annotated[
        str | None, typer.Option(metavar="URL", help="MongoDB that keeps tasks, programs and records, not files.")
    ] = None,
    redis: Annotated[str | None, typer.Option(metavar="URL", help="Redis or Valkey that caches them.")] = None,
    generator: Annotated[
        str | None,
        typer.Option(
            envvar="GENERATOR_URL",
            help="Generator to ask; the built-in one stands in while it is unavailable. Without it: the built-in one.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run the whole product until Ctrl-C."""
    report = _report_json if as_json else report_line
    with failures(as_json=as_json):
        started = time.monotonic()
        settings = StackSettings(
            data_dir,
            host,
            port or free_port(),
            nats,
            api_workers,
            executor_workers,
            keys,
            https=_CERTIFICATE in os.environ,
            mongo_url=mongo,
            redis_url=redis,
            generator_url=generator,
        )
        with data_dirs.held(settings.data_dir, settings.url):
            stack = Stack(settings, report)
            if not sandboxed():
                out.print(
                    "Warning: this is not Linux, so programs run without the kernel's sandbox; run only your own."
                )
            asyncio.run(run_until_stopped(stack.supervisor, _announcement(stack, started, as_json=as_json)))


def down(data_dir: DataDir = DEFAULT_DATA_DIR, as_json: AsJson = False) -> None:
    """Stop what `loopai up` runs for the same data directory."""
    with failures(as_json=as_json):
        stopped = data_dirs.stop_running(data_dir, timeout_seconds=_LONGEST_STOP_SECONDS)
    if as_json:
        print_json({"stopped": stopped is not None, "pid": stopped.pid if stopped else None})
    else:
        out.print(f"Stopped {stopped.url}." if stopped else f"Nothing runs for {escape(str(data_dir))}.")


def report_line(event: Event) -> None:
    """One short line for people."""
    line = f"  {event.process:<16} {event.kind:<8} {event.seconds:.1f} s"
    if event.kind == "ended":
        line = f"  {event.process:<16} {event.detail}; starting it again in {event.seconds:.1f} s"
    with suppress(OSError):  # the terminal may be gone, and stopping must go on
        out.print(escape(line))


def _report_json(event: Event) -> None:
    with suppress(OSError):
        print_json({"event": event.kind, **{k: v for k, v in asdict(event).items() if k != "kind"}})


def _announcement(stack: Stack, started: float, *, as_json: bool) -> Callable[[], None]:
    def announce() -> None:
        seconds = time.monotonic() - started
        with suppress(OSError):
            if as_json:
                up = {"url": stack.url, "swagger": f"{stack.url}/swagger", "logs": str(stack.logs)}
                print_json({"event": "up", "seconds": seconds, **up})
            else:
                out.print(escape(first_steps(stack.url, stack.logs, seconds, with_key=stack.has_keys)))

    return announce
