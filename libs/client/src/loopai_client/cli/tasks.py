"""``loopai tasks``: create them, look at them, change them, follow them."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from loopai_client.cli.artifacts import COLUMNS, row
from loopai_client.cli.inputs import examples_from, json_or_file
from loopai_client.cli.options import DEFAULT_URL, AsJson, TaskName, Url
from loopai_client.cli.output import Failed, facts, failures, out, print_json, table
from loopai_client.client import MAX_WAIT_SECONDS, LoopaiClient
from loopai_client.examples import TEXT_SCHEMA, labels_schema
from loopai_client.models import Comparison, Isolation, SynthesisStrategy, TaskEvent, TaskStatus, TaskSummary
from loopai_common.contracts.base import format_timestamp

app = typer.Typer(no_args_is_help=True, help="Create tasks, look at them, change them, and follow what happens.")

_LONGEST_GENERATION_SECONDS = 1800.0
_TOLD = ("status", "version", "previous_version", "active_version", "percentage", "reason", "status_reason")

Examples = Annotated[
    Path | None,
    typer.Option(help='.jsonl or .json of {"input", "output"}, or .tsv with a label and a text on each line.'),
]
AccuracyTarget = Annotated[float | None, typer.Option(min=0, max=1, help="Share of the examples to get right.")]
LatencyTarget = Annotated[int | None, typer.Option(min=1, max=60_000, help="Milliseconds to aim for.")]
SamplingRate = Annotated[float | None, typer.Option(min=0, max=1, help="Share of the executions to record.")]
IsolationMode = Annotated[Isolation | None, typer.Option(help="What executions may share.")]
ComparisonMode = Annotated[Comparison | None, typer.Option(help="When an output counts as right.")]
ComparisonThreshold = Annotated[
    float | None, typer.Option(min=0, max=1, help="How near an output must be, unless the comparison is exact.")
]


@app.command()
def create(
    name: Annotated[str, typer.Option(help="Letters, digits, and _ . -")],
    description: Annotated[str, typer.Option(help="What the program shall do.")],
    input_schema: Annotated[
        str | None, typer.Option(help='JSON Schema of the input, or @file. Without it: {"text": "…"}.')
    ] = None,
    output_schema: Annotated[
        str | None, typer.Option(help="JSON Schema of the output, or @file. Without it: the labels of the examples.")
    ] = None,
    examples: Examples = None,
    accuracy_target: AccuracyTarget = None,
    latency_target_ms: LatencyTarget = None,
    sampling_rate: SamplingRate = None,
    isolation: IsolationMode = None,
    comparison: ComparisonMode = None,
    comparison_threshold: ComparisonThreshold = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the program is ready.")] = False,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Create a task; a program for it is then generated."""
    shown = examples_from(examples, "--examples") if examples else []
    output = json_or_file(output_schema, "--output-schema") if output_schema else labels_schema(shown)
    if output is None:
        raise typer.BadParameter("needed, since the examples use no labels", param_hint="--output-schema")
    given: dict[str, Any] = {
        "accuracy_target": accuracy_target,
        "latency_target_ms": latency_target_ms,
        "sampling_rate": sampling_rate,
        "isolation": isolation,
        "comparison": comparison,
        "comparison_threshold": comparison_threshold,
    }
    definition: dict[str, Any] = {
        "name": name,
        "description": description,
        "input_schema": json_or_file(input_schema, "--input-schema") if input_schema else TEXT_SCHEMA,
        "output_schema": output,
        "examples": shown,
        **{field: value for field, value in given.items() if value is not None},
    }
    with failures(as_json=as_json), LoopaiClient(url) as client:
        task = client.create_task(definition, wait_seconds=MAX_WAIT_SECONDS if wait else 0)
        if wait and task.status == TaskStatus.GENERATING:
            task = client.wait_for_task(task.id, seconds=_LONGEST_GENERATION_SECONDS)
        _print_state(task, as_json=as_json)
        if task.status == TaskStatus.FAILED:
            raise Failed(f"no program: {task.status_reason or 'no reason given'}")


@app.command("list")
def list_tasks(
    status: Annotated[TaskStatus | None, typer.Option(help="Only those with this status.")] = None,
    name_prefix: Annotated[str | None, typer.Option(help="Only those whose name begins like this.")] = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """List the tasks in the order of their creation."""
    with failures(as_json=as_json), LoopaiClient(url) as client:
        tasks = list(client.list_tasks(status=status, name_prefix=name_prefix))
    if as_json:
        print_json(tasks)
    elif not tasks:
        out.print("No tasks; make one with `loopai tasks create`.")
    else:
        out.print(table(["name", "status", "active", "versions", "created"], [_row(task) for task in tasks]))


@app.command()
@app.command("show", hidden=True)  # as it was called at first
def get(task: TaskName, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Show a task and its versions."""
    with failures(as_json=as_json), LoopaiClient(url) as client:
        found = client.get_task(task)
        artifacts = list(client.list_artifacts(task))
    if as_json:
        print_json({"task": found, "artifacts": artifacts})
        return
    rollout = found.rollout
    out.print(
        facts(
            {
                "name": found.name,
                "id": found.id,
                "status": f"{found.status}{f': {found.status_reason}' if found.status_reason else ''}",
                "description": found.description,
                "examples": found.total_examples,
                "accuracy target": found.accuracy_target,
                "active version": found.active_version,
                "rollout": rollout and f"version {rollout.version} with {rollout.percentage:g} %",
                "revision": found.revision,
            }
        )
    )
    if artifacts:
        out.print(table(COLUMNS, [row(artifact) for artifact in artifacts]))


@app.command()
def update(
    task: TaskName,
    description: Annotated[str | None, typer.Option(help="What the program shall do.")] = None,
    examples: Examples = None,
    accuracy_target: AccuracyTarget = None,
    latency_target_ms: LatencyTarget = None,
    sampling_rate: SamplingRate = None,
    isolation: IsolationMode = None,
    comparison: ComparisonMode = None,
    comparison_threshold: ComparisonThreshold = None,
    expected_revision: Annotated[
        int | None, typer.Option(min=1, help="Only while the task has this revision (see `loopai tasks get`).")
    ] = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Change what is given; examples are added to those there are."""
    added = examples_from(examples, "--examples") if examples else []
    with failures(as_json=as_json), LoopaiClient(url) as client:
        changed = client.update_task(
            task,
            expected_revision=expected_revision,
            description=description,
            accuracy_target=accuracy_target,
            latency_target_ms=latency_target_ms,
            sampling_rate=sampling_rate,
            isolation=isolation,
            comparison=comparison,
            comparison_threshold=comparison_threshold,
            examples=added,
        )
        _print_state(changed, as_json=as_json)


@app.command()
def archive(task: TaskName, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """End a task: it runs no more, and its name stays taken."""
    with failures(as_json=as_json), LoopaiClient(url) as client:
        client.archive_task(task)
        _print_state(client.get_task(task), as_json=as_json)


@app.command()
def generate(
    task: TaskName,
    constraints: Annotated[str | None, typer.Option(help="What the program shall keep to.")] = None,
    strategy: Annotated[SynthesisStrategy | None, typer.Option(help="How it shall be made.")] = None,
    examples: Examples = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Have another version made; it takes over when it is not worse. See `loopai tasks watch`."""
    added = examples_from(examples, "--examples") if examples else []
    with failures(as_json=as_json), LoopaiClient(url) as client:
        started = client.generate(task, constraints=constraints, strategy=strategy, examples=added)
    if as_json:
        print_json(started)
    else:
        out.print(f"Under way: generation {started.generation_id}")


@app.command()
def watch(task: TaskName, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Print what happens to a task, as it happens, until it is archived or Ctrl-C."""
    with failures(as_json=as_json), LoopaiClient(url) as client:
        try:
            for event in client.events(task):
                _print_event(event, as_json=as_json)
        except KeyboardInterrupt:
            return


def _print_state(task: TaskSummary, *, as_json: bool) -> None:
    if as_json:
        print_json(task)
    else:
        out.print(f"{escape(task.name)} [bold]{task.status}[/bold] ({task.id})")


def _print_event(event: TaskEvent, *, as_json: bool) -> None:
    if as_json:
        print_json({"id": event.id, "event": event.kind, "data": event.data})
        return
    told = [f"{field.replace('_', ' ')} {event.data[field]}" for field in _TOLD if event.data.get(field) is not None]
    out.print(f"[bold]{escape(event.kind)}[/bold]  {escape(', '.join(told))}")


def _row(task: TaskSummary) -> list[str]:
    active = "-" if task.active_version is None else str(task.active_version)
    return [task.name, task.status, active, str(task.total_versions), format_timestamp(task.created_at)]
