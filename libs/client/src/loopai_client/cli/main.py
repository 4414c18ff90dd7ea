"""The ``loopai`` command."""

import typer

from loopai_client.cli import demo, execute, keys, stack, tasks

app = typer.Typer(
    name="loopai",
    help="A description of a task becomes a small program once; the program then runs millions of times.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("up")(stack.up)
app.command("down")(stack.down)
app.command("demo")(demo.demo)
app.command("execute")(execute.execute)
app.add_typer(tasks.app, name="task")
app.add_typer(keys.app, name="keys")


def run() -> None:
    """Entry point of the command."""
    app()


if __name__ == "__main__":
    run()
