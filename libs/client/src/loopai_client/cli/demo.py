"""``loopai demo``: from real messages to a running spam filter, with the figures that tell how good it is."""

import asyncio
import shlex
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.status import Status
from rich.syntax import Syntax

from loopai_client import demo as demonstration
from loopai_client.cli.options import DEFAULT_URL, AsJson, Url
from loopai_client.cli.output import Failed, err, failures, out, print_json
from loopai_client.cli.stack import report_line
from loopai_client.client import AsyncLoopaiClient, LoopaiClient
from loopai_client.demo import ACCURACY_BAR, CONNECTIONS, NoProgram, Scores
from loopai_client.errors import ApiError, Unreachable
from loopai_client.local.nats_server import free_port
from loopai_client.local.stack import Stack, StackSettings
from loopai_client.local.supervisor import Event, stop_signals, unless
from loopai_client.models import Artifact, Task


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that the demonstration found out."""

    url: str
    task: Task
    artifact: Artifact
    code: str
    learned: int
    learning_seconds: float
    scores: Scores


def demo(url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Learn a spam filter from real messages and run it, on the API that runs, or else on a stack of its own."""
    with failures(as_json=as_json):
        outcome = asyncio.run(_run(url, quiet=as_json))
        if as_json:
            print_json(_as_json(outcome))
        if outcome.scores.accuracy < ACCURACY_BAR:
            raise Failed(f"accuracy {outcome.scores.accuracy:.1%} is below {ACCURACY_BAR:.1%}")


async def _run(url: str, *, quiet: bool) -> Outcome:
    outcome: list[Outcome] = []

    async def work() -> None:
        async with _api(url, quiet=quiet) as (found, own), AsyncLoopaiClient(found) as client:
            outcome.append(await _demonstrate(client, quiet=quiet))
            if not quiet:
                _print_outcome(outcome[0], own=own)

    with stop_signals() as stopped:
        await unless(stopped, work())
    if not outcome:
        raise Failed("stopped")
    return outcome[0]


@asynccontextmanager
async def _api(url: str, *, quiet: bool) -> AsyncIterator[tuple[str, bool]]:
    """The URL to use, and whether its stack is our own, which then lives as long as the context."""
    if _answers(url):
        yield url, False
        return
    with tempfile.TemporaryDirectory(prefix="loopai-demo-") as directory:
        stack = Stack(StackSettings(Path(directory), port=free_port()), _ignore if quiet else report_line)
        if not quiet:
            out.print("Nothing runs yet, so this starts a stack for the time being:")
        try:
            await stack.supervisor.start()
            yield stack.url, True
        finally:
            await stack.supervisor.stop()


def _answers(url: str) -> bool:
    """Whether Loopai is there and ready; raises :class:`Failed` when it is there and not ready."""
    try:
        with LoopaiClient(url) as client:
            readiness = client.readiness()
    except (Unreachable, ApiError):
        return False
    if not readiness.ready:
        raise Failed(f"Loopai runs at {url}, but it cannot work: {readiness.missing}")
    return True


async def _demonstrate(client: AsyncLoopaiClient, *, quiet: bool) -> Outcome:
    learned, kept_aside = demonstration.split(demonstration.messages())
    say = err if quiet else out
    text = f"Making a program from {len(learned):,} labelled messages ..."
    if not say.is_terminal and not quiet:
        say.print(text)
    started = time.perf_counter()
    try:
        with Status(text, console=say):
            task = await demonstration.create(client, learned)
    except NoProgram as error:
        raise Failed(str(error)) from error
    learning_seconds = time.perf_counter() - started
    columns = (TextColumn("Running it"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=say, transient=True, disable=quiet or not say.is_terminal) as progress:
        bar = progress.add_task("", total=len(kept_aside))
        answers, seconds = await demonstration.classify(client, task, kept_aside, lambda: progress.advance(bar))
    artifact, code = await demonstration.program(client, task)
    scores = demonstration.score(answers, seconds)
    return Outcome(client.url, task, artifact, code, len(learned), learning_seconds, scores)


def _print_outcome(outcome: Outcome, *, own: bool) -> None:
    scores, artifact = outcome.scores, outcome.artifact
    head, more = demonstration.head(outcome.code)
    out.print(
        f"\n[bold]{escape(outcome.task.name)}[/bold] version {artifact.version}, made from {outcome.learned:,} messages"
        f" in {outcome.learning_seconds:.1f} s: {artifact.size_bytes / 1024:.0f} KB of Python"
        f" ({escape(artifact.synthesis_strategy)})\n"
    )
    out.print(Syntax(head, "python") if out.is_terminal else escape(head))
    if more:
        out.print(f"... {more:,} more lines")
    colour = "green" if scores.accuracy >= ACCURACY_BAR else "red"
    out.print(
        f"\n{scores.messages:,} messages it has not seen, over HTTP, {CONNECTIONS} at a time:\n\n"
        f"  accuracy    [{colour}]{scores.accuracy:.1%}[/{colour}]"
        + (f"  ({scores.failed} failed)" if scores.failed else "")
    )
    for label, of in scores.labels.items():
        out.print(f"  {label:<10}  precision {of.precision:.1%}, recall {of.recall:.1%} ({of.messages} messages)")
    out.print(
        f"  throughput  {scores.requests_per_second:,.0f} a second, all that this client asks for\n"
        f"  latency     p50 {scores.p50_ms:.1f} ms, p95 {scores.p95_ms:.1f} ms, p99 {scores.p99_ms:.1f} ms\n"
        f"  in sandbox  p50 {scores.sandbox_p50_ms * 1000:.0f} µs\n"
    )
    if own:
        out.print("To keep it running, start `loopai up` and run `loopai demo` again.")
    else:
        out.print(f"Call it:\n\n{escape(_curl(outcome))}\n")


def _curl(outcome: Outcome) -> str:
    body = '{"input": {"text": "Free entry! Claim your prize now"}}'
    url = f"{outcome.url}/api/v1/tasks/{outcome.task.name}/execute"
    return f"curl -s {url} -H 'Content-Type: application/json' -d {shlex.quote(body)}"


def _as_json(outcome: Outcome) -> dict[str, object]:
    return {
        "url": outcome.url,
        "task": {"id": str(outcome.task.id), "name": outcome.task.name},
        "artifact": outcome.artifact.model_dump(mode="json", exclude={"code"}),
        "learned": outcome.learned,
        "learning_seconds": outcome.learning_seconds,
        "scores": asdict(outcome.scores),
    }


def _ignore(_: Event) -> None:
    """Nobody is told."""
