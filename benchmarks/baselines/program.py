"""The program that the baselines run, loaded into their own process."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

VARIABLE = "BENCH_PROGRAM"


def load(source: Path) -> Callable[[Any], Any]:
    """The ``run`` of the program in the file. Trusted: the benchmark got it from its own stack."""
    scope: dict[str, Any] = {"__name__": "program"}
    exec(compile(source.read_text(encoding="utf-8"), "program.py", "exec"), scope)
    run: Callable[[Any], Any] = scope["run"]
    return run


def load_from_environment() -> Callable[[Any], Any]:
    """The ``run`` of the program in the file that ``BENCH_PROGRAM`` names."""
    return load(Path(os.environ[VARIABLE]))
