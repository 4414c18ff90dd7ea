"""`loopai demo`: with the real product, and against a server whose program is not good enough."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from loopai_client.local.nats_server import free_port
from tests.support.api_bodies import ARTIFACT, EXECUTION, READINESS, TASK
from tests.support.stub_http import Answer, StubHttpServer

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("LOOPAI_")}
DEMO_TASK = {**TASK, "name": "spam-demo-x"}
HAM = {**EXECUTION, "output": "ham"}
RULE = {**ARTIFACT, "size_bytes": 2048, "synthesis_strategy": "rule"}
PATH = f"/api/v1/tasks/{TASK['id']}"
SCRIPT: Mapping[str, Answer | list[Answer]] = {
    "GET /health/ready": Answer(READINESS),
    "POST /api/v1/tasks": Answer(DEMO_TASK, 201),
    f"POST {PATH}/execute": Answer(HAM),
    f"GET {PATH}/artifacts/active": Answer(RULE),
    f"GET {PATH}/artifacts/active/code": Answer("def run(input):\n    return 'ham'\n"),
}


def demo(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Runs the command."""
    command = [sys.executable, "-m", "loopai_client.cli.main", "demo", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=ENVIRONMENT)


def test_real_product_learns_a_good_filter_and_leaves_nothing(tmp_path: Path) -> None:
    before = set(Path(tempfile.gettempdir()).glob("loopai-demo-*"))
    done = demo("--json", "--url", f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["scores"]["accuracy"] >= 0.975
    assert outcome["scores"]["failed"] == 0
    assert outcome["artifact"]["status"] == "active"
    assert set(Path(tempfile.gettempdir()).glob("loopai-demo-*")) <= before


def test_running_product_is_used_and_a_bad_program_exits_1_with_its_figures() -> None:
    with StubHttpServer(SCRIPT) as api:
        done = demo("--url", api.url)
    assert done.returncode == 1
    assert "accuracy 87.5% is below 97.5%" in done.stderr
    assert "spam-demo-x version 1, made from 2,909 messages" in done.stdout
    assert "2 KB of Python (rule)" in done.stdout
    assert "    return 'ham'" in done.stdout
    assert "accuracy    87.5%" in done.stdout
    assert "spam        precision 0.0%, recall 0.0% (89 messages)" in done.stdout
    assert f"curl -s {api.url}/api/v1/tasks/spam-demo-x/execute" in done.stdout
    sent = [asked.body["input"]["text"] for asked in api.asked if asked.path.endswith("/execute")]
    shown = {
        example["input"]["text"]
        for asked in api.asked
        if asked.path.endswith("/tasks")
        for example in asked.body["examples"]
    }
    assert len(sent) == len(set(sent)) == 710
    assert not shown & set(sent)


def test_task_that_fails_is_said_with_its_reason() -> None:
    failed = {**DEMO_TASK, "status": "failed", "status_reason": "no generator answered", "active_version": None}
    with StubHttpServer({**SCRIPT, "POST /api/v1/tasks": Answer(failed, 201)}) as api:
        done = demo("--url", api.url)
    assert done.returncode == 1
    assert "no generator answered" in done.stderr


def test_product_that_is_there_but_not_ready_is_not_replaced() -> None:
    checks = {"executor": {"status": "unhealthy", "detail": "no executor is running"}}
    with StubHttpServer({"GET /health/ready": Answer({"status": "unhealthy", "checks": checks}, 503)}) as api:
        done = demo("--url", api.url)
    assert done.returncode == 1
    assert "it cannot work: executor: no executor is running" in done.stderr
