"""``loopai executions``: what is recorded of asynchronous and sampled executions."""

from datetime import UTC, datetime
from itertools import islice
from typing import Annotated

import typer

from loopai_client.cli.options import DEFAULT_URL, AsJson, TaskName, Url
from loopai_client.cli.output import facts, failures, out, print_json, table
from loopai_client.cli.run import as_text
from loopai_client.client import LoopaiClient
from loopai_client.models import ExecutionRecord, RecordStatus
from loopai_common.contracts.base import format_timestamp

app = typer.Typer(no_args_is_help=True, help="Look at asynchronous and sampled executions.")


@app.command("list")
def list_executions(
    task: TaskName,
    status: Annotated[RecordStatus | None, typer.Option(help="Only those with this status.")] = None,
    since: Annotated[datetime | None, typer.Option(help="Only those from this time on, in UTC.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 50,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """List the recorded executions of a task, newest first."""
    moment = None if since is None else since.replace(tzinfo=UTC)
    with failures(as_json=as_json), LoopaiClient(url) as client:
        records = list(islice(client.list_executions(task, status=status, since=moment), limit))
    if as_json:
        print_json(records)
    elif not records:
        out.print("None is recorded; see `loopai run --async`.")
    else:
        out.print(table(["id", "status", "version", "ms", "output or error", "at"], [_row(r) for r in records]))


@app.command()
def show(
    execution: Annotated[str, typer.Argument(help="Id of the execution.")],
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it has run.")] = False,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Show the record of an execution."""
    with failures(as_json=as_json), LoopaiClient(url) as client:
        record = client.wait_for_execution(execution) if wait else client.get_execution(execution)
    if as_json:
        print_json(record)
        return
    out.print(
        facts(
            {
                "id": record.id,
                "task": record.task_id,
                "version": record.version,
                "status": record.status,
                "input": as_text(record.input),
                "output": as_text(record.output) if record.status == RecordStatus.SUCCESS else None,
                "error": _error(record),
                "latency": None if record.latency_ms is None else f"{record.latency_ms:.3f} ms",
                "at": format_timestamp(record.executed_at),
            }
        )
    )


def _row(record: ExecutionRecord) -> list[str]:
    latency = "-" if record.latency_ms is None else f"{record.latency_ms:.3f}"
    version = "-" if record.version is None else str(record.version)
    outcome = as_text(record.output) if record.status == RecordStatus.SUCCESS else _error(record) or ""
    return [str(record.id), record.status, version, latency, outcome, format_timestamp(record.executed_at)]


def _error(record: ExecutionRecord) -> str | None:
    return None if record.error_code is None else f"{record.error_code}: {record.error_message or ''}"
