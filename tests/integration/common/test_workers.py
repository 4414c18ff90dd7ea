"""Several worker processes under one parent: kept running, stopped together, and counted as one."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from loopai_client.local.nats_server import free_port
from tests.support.processes import alive, descendants, wait_for, wait_until_gone

PROGRAM = Path(__file__).with_name("workers_service.py")
NAMES = ("asked_total", "loopai_workers_missing")


class Service:
    """The running program."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, directory: Path) -> None:
        self.process = process
        self.port = port
        self.directory = directory

    @property
    def workers(self) -> list[int]:
        return [pid for pid in descendants(self.process.pid) if alive(pid)]

    def get(self, path: str) -> httpx.Response:
        """Over a connection of its own, so that any worker may answer."""
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=30, trust_env=False)

    def who(self) -> dict[str, Any]:
        """Who answers a request; one that met a worker's death is made again."""
        while True:
            with suppress(httpx.TransportError):
                answer: dict[str, Any] = self.get("/who").json()
                return answer

    def all_seats(self, seats: int) -> dict[int, dict[str, Any]]:
        """Asks until each seat has answered."""
        seen: dict[int, dict[str, Any]] = {}

        def complete() -> bool:
            answer = self.who()
            seen[answer["seat"]] = answer
            return len(seen) == seats

        wait_for(complete, f"{seats} workers to answer")
        return seen

    def metrics(self) -> dict[str, float]:
        lines = [line.split() for line in self.get("/metrics").text.splitlines() if line.startswith(NAMES)]
        return {name: float(value) for name, value in lines}


def command(workers: int, port: int, behaviour: str = "well") -> list[str]:
    return [sys.executable, str(PROGRAM), str(workers), str(port), behaviour]


@contextmanager
def service(workers: int, tmp_path: Path) -> Iterator[Service]:
    """The program, once it answers. Its private directory is made in a short path: a socket's name has 107 bytes."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="w-") as directory, (tmp_path / "log").open("wb") as log:
        environment = {**os.environ, "TMPDIR": directory}
        with subprocess.Popen(command(workers, port), stdout=log, stderr=log, env=environment) as process:
            running = Service(process, port, Path(directory))
            try:
                wait_for(lambda: answers(running), "the service to answer")
                yield running
            finally:
                process.kill()


def answers(running: Service) -> bool:
    with suppress(httpx.TransportError):
        return running.get("/health/live").is_success
    return False


def test_workers_share_the_port_and_no_ids(tmp_path: Path) -> None:
    with service(3, tmp_path) as running:
        seen = running.all_seats(3)
        assert {answer["pid"] for answer in seen.values()} == set(running.workers)
        assert len({answer["id"] for answer in seen.values()}) == 3, "fork must not copy the state of the generator"


def test_one_worker_has_no_parent(tmp_path: Path) -> None:
    with service(1, tmp_path) as running:
        assert running.who() | {"id": ""} == {"pid": running.process.pid, "seat": None, "id": ""}
        assert running.workers == []
        assert "loopai_workers_missing" not in running.get("/metrics").text
        assert list(running.directory.iterdir()) == []
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(60) == 0


def test_a_killed_worker_is_replaced_and_what_it_told_stays_counted(tmp_path: Path) -> None:
    with service(2, tmp_path) as running:
        before = running.all_seats(2)
        told = running.metrics()
        assert told["loopai_workers_missing"] == 0
        os.kill(before[0]["pid"], signal.SIGKILL)
        wait_for(lambda: running.who()["seat"] == 1, "the other worker to answer")
        while_it_is_away = running.metrics()
        assert while_it_is_away["asked_total"] >= told["asked_total"]
        after = running.all_seats(2)
        wait_for(lambda: running.all_seats(2)[0]["pid"] != before[0]["pid"], "the seat to be taken again")
        assert after[1]["pid"] == before[1]["pid"]
        wait_for(lambda: running.metrics()["loopai_workers_missing"] == 0, "every worker to tell its metrics")
        assert running.metrics()["asked_total"] >= while_it_is_away["asked_total"]


def test_a_frozen_sibling_is_counted_as_missing_and_holds_nobody_up(tmp_path: Path) -> None:
    with service(2, tmp_path) as running:
        seats = running.all_seats(2)
        asked = running.metrics()["asked_total"]
        frozen = seats[0]["pid"]
        with httpx.Client(base_url=f"http://127.0.0.1:{running.port}", timeout=30, trust_env=False) as kept:

            def holds_a_connection_to_the_other() -> bool:
                if kept.get("/who").json()["seat"] == 1:
                    return True
                kept.get("/who", headers={"Connection": "close"})
                return False

            wait_for(holds_a_connection_to_the_other, "a connection to the worker that stays")
            os.kill(frozen, signal.SIGSTOP)
            try:
                text = kept.get("/metrics").text
            finally:
                os.kill(frozen, signal.SIGCONT)
        assert "loopai_workers_missing 1.0" in text
        told = next(float(line.split()[1]) for line in text.splitlines() if line.startswith("asked_total"))
        assert told >= asked


def test_sums_are_exact_whoever_is_asked(tmp_path: Path) -> None:
    with service(3, tmp_path) as running:
        running.all_seats(3)
        before = running.metrics()["asked_total"]
        with ThreadPoolExecutor(8) as pool:
            seats = {answer["seat"] for answer in pool.map(lambda _: running.who(), range(200))}
        assert seats == {0, 1, 2}
        assert [running.metrics()["asked_total"] for _ in range(10)] == [before + 200] * 10


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_lets_every_worker_finish_and_exits_0(tmp_path: Path, number: signal.Signals) -> None:
    with service(2, tmp_path) as running:
        running.all_seats(2)
        workers = running.workers
        before = running.metrics()["asked_total"]
        with ThreadPoolExecutor(16) as pool:
            slow = [pool.submit(running.get, "/slow") for _ in range(16)]
            wait_for(lambda: running.metrics()["asked_total"] >= before + 16, "the requests to be taken")
            running.process.send_signal(number)
            assert [request.result().status_code for request in slow] == [200] * 16
        assert running.process.wait(60) == 0
        assert not any(alive(pid) for pid in workers)
        assert list(running.directory.iterdir()) == []
        assert not answers(running)


@pytest.mark.skipif(sys.platform != "linux", reason="not on this platform: needs PR_SET_PDEATHSIG")
def test_nothing_outlives_a_killed_parent(tmp_path: Path) -> None:
    with service(2, tmp_path) as running:
        running.all_seats(2)
        workers = running.workers
        running.process.kill()
        wait_until_gone(workers)


def test_a_worker_that_is_told_to_stop_alone_is_replaced(tmp_path: Path) -> None:
    with service(2, tmp_path) as running:
        before = running.all_seats(2)
        asked = running.metrics()["asked_total"]
        os.kill(before[1]["pid"], signal.SIGTERM)
        wait_for(lambda: running.all_seats(2)[1]["pid"] != before[1]["pid"], "the seat to be taken again")
        assert running.metrics()["asked_total"] > asked
        assert running.process.poll() is None


@pytest.mark.parametrize(("behaviour", "code"), [("refuse", 2), ("crash", 1)])
def test_workers_that_cannot_start_end_the_parent_with_their_code(behaviour: str, code: int) -> None:
    done = subprocess.run(command(2, free_port(), behaviour), capture_output=True, timeout=120)
    assert done.returncode == code
    assert b"it was told to" in done.stdout + done.stderr


def test_a_port_that_other_workers_listen_on_is_refused(tmp_path: Path) -> None:
    with service(2, tmp_path) as running:
        done = subprocess.run(command(2, running.port), capture_output=True, timeout=120)
        assert done.returncode == 3
        assert b"start_failed" in done.stdout
        assert {running.who()["pid"] for _ in range(20)} <= set(running.workers)
