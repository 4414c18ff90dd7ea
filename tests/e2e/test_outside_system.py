"""The example of a system that speaks nothing but NATS, as its reader would run it."""

import ast
import subprocess
import sys
from pathlib import Path

from tests.support.stack import LocalStack

EXAMPLE = Path(__file__).parents[2] / "examples" / "outside_system.py"


def test_it_gets_a_program_made_and_runs_it(stack: LocalStack) -> None:
    done = subprocess.run([sys.executable, EXAMPLE, stack.nats_url], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "event      task.created",
        "event      artifact.published",
        "event      artifact.activated",
        "executed   happy",
        "completed  angry",
    ]


def test_it_needs_a_nats_client_and_nothing_else() -> None:
    tree = ast.parse(EXAMPLE.read_text(encoding="utf-8"))
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported - sys.stdlib_module_names == {"nats"}


def test_without_an_address_it_says_how_it_is_called() -> None:
    done = subprocess.run([sys.executable, EXAMPLE], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "nats://127.0.0.1:4222" in done.stderr
