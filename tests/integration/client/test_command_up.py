"""`loopai up` and `loopai down` with the real services, as a person uses them."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.processes import alive, descendants, wait_until_gone

SERVICES = {"nats-server", "artifact-store", "generator", "executor", "generator-proxy", "api"}
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("LOOPAI_")}


def loopai(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Runs the command to its end."""
    command = [sys.executable, "-m", "loopai_client.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=ENVIRONMENT)


@contextmanager
def up(data_dir: Path) -> Iterator[tuple["subprocess.Popen[str]", list[dict[str, Any]]]]:
    """`loopai up --json` on a free port: the process, once it is up, and what it said by then."""
    command = [sys.executable, "-m", "loopai_client.cli.main", "up", "--json", "--port", "0"]
    command += ["--data-dir", str(data_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        try:
            assert process.stdout is not None
            events: list[dict[str, Any]] = []
            for line in process.stdout:
                events.append(json.loads(line))
                if events[-1]["event"] == "up":
                    break
            else:
                pytest.fail(f"it did not come up: {events}")
            yield process, events
        finally:
            process.kill()


def test_up_brings_every_service_and_down_leaves_nothing(tmp_path: Path) -> None:
    with up(tmp_path) as (process, events):
        assert {e["process"] for e in events if e["event"] == "ready"} == SERVICES
        address = events[-1]
        assert httpx.get(f"{address['url']}/health/ready").status_code == 200
        assert {path.stem for path in Path(address["logs"]).glob("*.log")} == SERVICES

        again = loopai("up", "--port", "0", "--data-dir", str(tmp_path))
        assert again.returncode == 1
        assert f"{address['url']} (process {process.pid})" in again.stderr

        started = descendants(process.pid)
        assert len(started) >= len(SERVICES)
        down = loopai("down", "--data-dir", str(tmp_path))
        assert (down.returncode, down.stdout) == (0, f"Stopped {address['url']}.\n")
        assert process.wait(60) == 0
        assert not any(alive(pid) for pid in started)
        assert process.stdout is not None
        last = [json.loads(line) for line in process.stdout]
        assert last[0]["process"] == "api"
        assert {e["event"] for e in last} == {"stopped"}


@pytest.mark.skipif(sys.platform != "linux", reason="not on this platform: needs PR_SET_PDEATHSIG")
def test_nothing_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    with up(tmp_path) as (process, _):
        started = descendants(process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        wait_until_gone(started)


def test_taken_port_is_one_sentence_and_nothing_is_started(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = loopai("up", "--port", str(port), "--data-dir", str(tmp_path))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"loopai: port {port} on 127.0.0.1 is taken")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "logs").exists()


def test_data_directory_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "nats").write_text("a file where the directory of the streams should be")
    done = loopai("up", "--port", "0", "--data-dir", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == f"loopai: {tmp_path}/nats: File exists\n"


def test_down_without_a_stack_says_so(tmp_path: Path) -> None:
    done = loopai("down", "--data-dir", str(tmp_path))
    assert done.returncode == 0
    assert done.stdout.startswith("Nothing runs for ")


@pytest.mark.skipif(shutil.which("curl") is None, reason="not on this platform: no curl")
def test_what_up_says_to_paste_works_and_after_a_restart_only_the_call_is_shown(tmp_path: Path) -> None:
    with up_for_people(tmp_path) as first:
        assert f"Logs     {tmp_path / 'logs'}" in first
        created, executed = pasted(first)
        assert json.loads(created)["status"] == "ready"
        assert json.loads(executed)["output"] == "happy"
    with up_for_people(tmp_path) as second:
        [executed] = pasted(second)
        assert json.loads(executed)["output"] == "happy"


@contextmanager
def up_for_people(data_dir: Path) -> Iterator[str]:
    """`loopai up` as it is read on a terminal: what it said once it was up. Stopped by Ctrl-C."""
    command = [sys.executable, "-m", "loopai_client.cli.main", "up", "--port", "0", "--data-dir", str(data_dir)]
    environment = {**ENVIRONMENT, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            said = []
            for line in process.stdout:
                said.append(line)
                if line.startswith("Ctrl-C"):
                    break
            else:
                pytest.fail(f"it did not come up: {said}")
            yield "".join(said)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        finally:
            process.kill()


def pasted(said: str) -> list[str]:
    """What the shell prints when the commands that are shown are pasted into it: a line for each."""
    commands = said[said.index("\ncurl ") : said.index("\nCtrl-C")]
    done = subprocess.run(["bash", "-c", commands], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout.splitlines()
