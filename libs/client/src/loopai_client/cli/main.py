"""The ``loopai`` command."""

import os
import sys
from pathlib import Path

import typer

from loopai_client.cli import (
    artifacts,
    batch,
    demo,
    deployment,
    dlq,
    executions,
    health,
    keys,
    run,
    stack,
    store,
    tasks,
)

app = typer.Typer(
    name="loopai",
    help="A description of a task becomes a small program once; the program then runs millions of times.",
    epilog=(
        "Exit codes: 0 done, 1 the request failed, 2 wrong usage, 3 the program failed (or, of a batch, any item), "
        "4 nobody answers."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("up")(stack.up)
app.command("down")(stack.down)
app.command("demo")(demo.demo)
app.add_typer(tasks.app, name="tasks")
app.add_typer(tasks.app, name="task", hidden=True)  # as it was called at first
app.command("run")(run.run)
app.command("execute", hidden=True)(run.run)  # as it was called at first
app.command("batch")(batch.batch)
app.add_typer(artifacts.app, name="artifacts")
app.add_typer(executions.app, name="executions")
app.command("health")(health.health)
app.add_typer(dlq.app, name="dlq")
app.add_typer(keys.app, name="keys")
app.command("export")(store.export)
app.command("import")(store.import_)
app.add_typer(store.app, name="store")
app.command("secrets")(deployment.make)


_SECRETS = ("LOOPAI_API_KEY", "LOOPAI_NATS_URL")


def main() -> None:
    """Entry point of the command. As for services, a variable that ends with ``_FILE`` names a file of the value."""
    for name in _SECRETS:
        path = os.environ.get(f"{name}_FILE")
        if path is not None and name not in os.environ:
            try:
                os.environ[name] = Path(path).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                sys.exit(f"loopai: the file of {name}_FILE cannot be read: {error}")
    app()


if __name__ == "__main__":
    main()
