"""The load scenarios at a tiny scale: that they find what there is, not what that is, for the machine is shared."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from loopai_client.local.key_file import changed_keys
from loopai_common.keys import Scope, new_key
from tests.load import scenarios
from tests.support.documentation import ROOT

SERVICES = {"api", "artifact-store", "executor", "generator", "generator-proxy", "nats-server"}
SCALES = {"constant": 0.01, "ramp": 0.003, "spike": 0.01, "soak": 0.0015}


@dataclass(frozen=True)
class Local:
    """A stack of `loopai up` that wants a key, and the environment that leads to it."""

    url: str
    environment: dict[str, str]

    def load(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs `python -m tests.load` as a person would."""
        command = [sys.executable, "-m", "tests.load", *arguments]
        env = {**os.environ, **self.environment, **environment}
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    directory = tmp_path_factory.mktemp("load")
    keys, data = directory / "keys.json", directory / "data"
    key, known = new_key(scopes=[Scope.TASKS_READ, Scope.TASKS_WRITE, Scope.EXECUTE])
    with changed_keys(keys) as file:
        file[known.id] = known
    loopai = Path(sys.executable).with_name("loopai")
    command = [str(loopai), "up", "--json", "--port", "0", "--data-dir", str(data), "--keys", str(keys)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            events = map(json.loads, process.stdout)
            url = next(str(event["url"]) for event in events if event["event"] == "up")
            yield Local(url, {"LOOPAI_API_KEY": key, "LOOPAI_DATA_DIR": str(data)})
        finally:
            process.terminate()
            process.wait(60)


def report_of(local: Local, name: str, file: Path, *arguments: str, **environment: str) -> dict[str, Any]:
    done = local.load(name, "--scale", str(SCALES[name]), "--json", str(file), *arguments, **environment)
    assert file.exists(), done.stderr
    report: dict[str, Any] = json.loads(file.read_text())
    assert done.returncode == (1 if report["broken_limits"] else 0), done.stdout
    return report


@pytest.fixture(scope="module")
def reports(local: Local, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The report of each scenario, by its name."""
    directory = tmp_path_factory.mktemp("reports")
    return {name: report_of(local, name, directory / f"{name}.json") for name in scenarios.names()}


@pytest.mark.parametrize("name", scenarios.names())
def test_what_became_of_every_request_of_a_scenario_is_reported(name: str, reports: dict[str, dict[str, Any]]) -> None:
    report = reports[name]
    wanted = scenarios.scenario(name, SCALES[name])
    due = int(sum(stage.load.requests for stage in wanted.stages))
    assert due > 10
    assert sum(report["ends"].values()) == sum(stage["requests"] for stage in report["stages"]) == due
    # A shared machine may stand still for more than the second that a request waits to be sent.
    assert {"200"} <= set(report["ends"]) <= {"200", "dropped"}
    assert [stage["name"] for stage in report["stages"]] == [stage.name for stage in wanted.stages]
    assert 0 < report["p50_ms"] <= report["p95_ms"] <= report["p99_ms"]
    assert report["answered_per_second"] > 0


def test_memory_of_every_process_of_a_local_stack_is_watched(reports: dict[str, dict[str, Any]]) -> None:
    memory = reports["soak"]["memory"]
    assert {growth["process"] for growth in memory} == SERVICES
    assert all(growth["kind"] == "PSS" and growth["samples"] > 1 and growth["last_mb"] > 1 for growth in memory)


def test_memory_of_what_runs_elsewhere_is_read_from_its_metrics(local: Local, tmp_path: Path) -> None:
    metrics = {"LOAD_METRICS": f"api={local.url}/metrics", "LOOPAI_DATA_DIR": str(tmp_path)}
    report = report_of(local, "soak", tmp_path / "report.json", "--url", local.url, **metrics)
    assert [(growth["process"], growth["kind"]) for growth in report["memory"]] == [("api", "RSS")]


@pytest.mark.usefixtures("reports")
def test_tasks_of_the_load_are_archived_at_its_end(local: Local) -> None:
    headers = {"Authorization": f"Bearer {local.environment['LOOPAI_API_KEY']}"}
    tasks = httpx.get(f"{local.url}/api/v1/tasks", params={"name_prefix": "load-"}, headers=headers).json()["items"]
    assert len(tasks) >= len(SCALES)
    assert {task["status"] for task in tasks} == {"archived"}


def test_an_api_that_refuses_the_key_is_told_in_a_sentence(local: Local) -> None:
    done = local.load("constant", LOOPAI_API_KEY="wrong")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.strip()
