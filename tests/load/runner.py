"""Puts a scenario's load on a running API, and tells what came of it."""

import json
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

from benchmarks import load
from benchmarks.load import Request, Target
from benchmarks.tally import Tally
from loopai_client.client import MAX_WAIT_SECONDS, LoopaiClient
from loopai_client.errors import ApiError
from tests.load.memory import Growth, Source, Watch
from tests.load.scenarios import NamedStage, Scenario

_ACTIVE_SECONDS = 30.0
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class StageReport:
    """One stage. ``ends`` counts answers by their status, and requests without one by a word."""

    name: str
    seconds: float
    overload: bool
    requests: int
    answered_per_second: float
    errors: int
    ends: dict[str, int]
    p50_ms: float
    p95_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a scenario; ``broken_limits`` says in words which of its limits did not hold."""

    scenario: str
    scale: float
    load_generator: str
    generator_late_ms: float
    seconds: float
    answered_per_second: float
    ends: dict[str, int]
    p50_ms: float
    p95_ms: float
    p99_ms: float
    stages: Sequence[StageReport]
    memory: Sequence[Growth]
    broken_limits: Sequence[str]

    def as_json(self) -> dict[str, Any]:
        """The report as it is written to files; k6's summary has the same fields."""
        return asdict(self)


def run(scenario: Scenario, scale: float, url: str, api_key: str, memory: Source | None) -> Report:
    """Makes a task with the scenario's program, puts the load on it, archives it; raises what the client does.

    ``memory`` is read in stages that ask for it.
    """
    watched = _watch(scenario.stages, memory)
    with LoopaiClient(url, api_key=api_key) as client, _task(client, scenario) as path:
        bodies = [json.dumps({"input": value}).encode() for value in scenario.inputs]
        target = _target(url, api_key, [Request(path, body) for body in bodies])
        with watched or nullcontext():
            stages = [stage.load for stage in scenario.stages]
            seen = load.run_stages(target, connections=scenario.connections, stages=stages)
    reports = [_stage(stage, tally) for stage, tally in zip(scenario.stages, seen.stages, strict=True)]
    growths = watched.growth() if watched else []
    whole = Tally.of(tally.as_json() for tally in seen.stages)
    return Report(
        scenario.name,
        scale,
        "benchmarks.load_client",
        seen.late_ms,
        seen.seconds,
        whole.successes / seen.seconds,
        dict(whole.ends),
        *_percentiles(whole),
        reports,
        growths,
        list(_broken(scenario, reports, growths)),
    )


@contextmanager
def _task(client: LoopaiClient, scenario: Scenario) -> Iterator[str]:
    """The path to run a task's program at; the task is archived at the end.

    Its generation is waited for, whatever comes of it, so that no generated version takes over later.
    """
    name = f"load-{scenario.name}-{uuid.uuid4().hex[:12]}"
    task = client.create_task({**scenario.task, "name": name}, wait_seconds=MAX_WAIT_SECONDS)
    try:
        version = client.upload_artifact(task.id, scenario.program).version
        _wait_until_active(client, str(task.id), version, scenario.inputs[0])
        yield f"/api/v1/tasks/{task.id}/execute"
    finally:
        client.archive_task(task.id)


def _wait_until_active(client: LoopaiClient, task: str, version: int, value: Any) -> None:
    """Executors learn of a version by an event. Raises the last :class:`ApiError` after half a minute."""
    deadline = time.monotonic() + _ACTIVE_SECONDS
    while True:
        try:
            if client.execute(task, value).version == version:
                return
        except ApiError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def _target(url: str, api_key: str, requests: Sequence[Request]) -> Target:
    parts = urlsplit(url)
    port = parts.port or _PORTS[parts.scheme]
    authorization = f"Bearer {api_key}" if api_key else ""
    return Target(parts.hostname or "", port, requests, tls=parts.scheme == "https", authorization=authorization)


def _watch(stages: Sequence[NamedStage], memory: Source | None) -> Watch | None:
    """The watch over the stage that asks for it; ``None`` where none does, or nothing can be read."""
    for number, stage in enumerate(stages):
        if stage.memory and memory:
            return Watch(memory, sum(before.load.seconds for before in stages[:number]), stage.load.seconds)
    return None


def _stage(stage: NamedStage, tally: Tally) -> StageReport:
    seconds = stage.load.seconds
    return StageReport(
        stage.name,
        seconds,
        stage.overload,
        tally.ends.total(),
        tally.successes / seconds,
        tally.errors,
        dict(tally.ends),
        *_percentiles(tally),
    )


def _percentiles(tally: Tally) -> tuple[float, float, float]:
    return tally.percentile_ms(0.50), tally.percentile_ms(0.95), tally.percentile_ms(0.99)


def _broken(scenario: Scenario, stages: Sequence[StageReport], growths: Sequence[Growth]) -> Iterator[str]:
    limits = scenario.limits
    for stage in (stage for stage in stages if not stage.overload):
        if stage.errors > limits.errors * stage.requests:
            yield f"{stage.name}: {stage.errors} errors of {stage.requests}, allowed is a share of {limits.errors}"
        if stage.p99_ms > limits.p99_ms:
            yield f"{stage.name}: p99 is {stage.p99_ms:.1f} ms, allowed are {limits.p99_ms}"
    for growth in growths:
        if growth.growth_mb > limits.growth_mb:
            yield f"{growth.process} grew by {growth.growth_mb:.1f} MB, allowed are {limits.growth_mb}"
