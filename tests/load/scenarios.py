"""The scenarios of ``scenarios.json``, which k6 reads too (``k6/common.js``)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from benchmarks.schedule import Stage

FILE = Path(__file__).with_name("scenarios.json")
FEWEST_CONNECTIONS = 16


@dataclass(frozen=True, slots=True)
class NamedStage:
    """A part of a scenario. Limits do not hold under ``overload``; ``memory`` is watched where it is asked for."""

    name: str
    load: Stage
    overload: bool
    memory: bool


@dataclass(frozen=True, slots=True)
class Limits:
    """``errors`` is a share; ``p99_ms`` is of what was answered; a process grows by ``growth_mb`` while watched."""

    errors: float
    p99_ms: float
    growth_mb: float


@dataclass(frozen=True, slots=True)
class Scenario:
    """What load to make, with which program, and what has to hold."""

    name: str
    stages: Sequence[NamedStage]
    connections: int
    limits: Limits
    task: dict[str, Any]
    program: str
    inputs: Sequence[Any]


def names() -> list[str]:
    """Every scenario's name."""
    return list(json.loads(FILE.read_text())["scenarios"])


def scenario(name: str, scale: float) -> Scenario:
    """The scenario with its rates, its durations and its connections multiplied by ``scale``."""
    content = json.loads(FILE.read_text())
    stages = [
        NamedStage(
            part["name"],
            Stage(part["seconds"] * scale, part["from"] * scale, part["to"] * scale),
            part.get("overload", False),
            part.get("memory", False),
        )
        for part in content["scenarios"][name]
    ]
    connections = max(FEWEST_CONNECTIONS, ceil(content["connections"] * scale))
    limits = Limits(**content["limits"])
    return Scenario(name, stages, connections, limits, content["task"], content["program"], content["inputs"])
