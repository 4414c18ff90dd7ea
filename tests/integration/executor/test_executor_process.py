"""The executor as a process: how it starts, refuses to, and stops."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from loopai_client.local.nats_server import NatsServer, free_port
from loopai_common.contracts import subjects
from tests.support.bus import new_bus, running
from tests.support.processes import alive, descendants, wait_until_gone
from tests.support.sandbox import PATIENCE_SECONDS
from tests.support.stub_store import StubStore

_ROOT = Path(__file__).parents[3]
_COMMAND = [sys.executable, "-m", "loopai_executor.main"]


class Executor:
    """A process of the executor."""

    def __init__(self, nats_url: str, command: list[str], environment: dict[str, str]) -> None:
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        self.started_at = time.monotonic()
        self.process = subprocess.Popen(
            command,
            cwd=_ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={
                **os.environ,
                "LOOPAI_NATS_URL": nats_url,
                "LOOPAI_EXECUTOR_PORT": str(port),
                "LOOPAI_LOG_FORMAT": "json",
                **environment,
            },
        )

    async def ready(self) -> dict[str, object]:
        """Waits until it is ready, and returns what it says."""
        async with httpx.AsyncClient() as http, asyncio.timeout(PATIENCE_SECONDS):
            while True:
                assert self.process.poll() is None, "it ended"
                try:
                    response = await http.get(f"{self.url}/health/ready")
                    if response.status_code == 200:
                        body: dict[str, object] = response.json()
                        return body
                except httpx.TransportError:
                    await asyncio.sleep(0.02)

    def output(self) -> str:
        """What it logged; waits for its end."""
        return self.process.communicate(timeout=PATIENCE_SECONDS)[0]


@contextmanager
def executor(nats_url: str, *, command: list[str] = _COMMAND, **environment: str) -> Iterator[Executor]:
    started = Executor(nats_url, command, environment)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.process.kill()
        started.process.communicate()


def _memory_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_executor_is_soon_ready_small_and_leaves_nothing(nats_server: NatsServer) -> None:
    with executor(nats_server.url) as running_executor:
        body = await running_executor.ready()
        assert body["status"] == "healthy"
        below = descendants(running_executor.process.pid)
        assert len(below) >= 3, "launcher, zygote and spares"
        policies = [os.sched_getscheduler(pid) for pid in below]
        assert policies.count(os.SCHED_BATCH) >= 3, "a zygote and spares that interrupt nobody when they wake up"
        assert _memory_bytes(running_executor.process.pid) < 100 * 1024 * 1024
        running_executor.process.send_signal(signal.SIGTERM)
        running_executor.output()
        assert running_executor.process.returncode == 0
        wait_until_gone(below)


async def test_accepted_executions_are_answered_before_it_stops(nats_server: NatsServer) -> None:
    store = StubStore()
    store.add("slow", "def run(x):\n    for _ in range(10 ** 5): pass\n    return x\n")
    with executor(nats_server.url) as running_executor:
        async with running(new_bus("tests", nats_server.url)) as bus, store.serving(nats_server.url):
            await running_executor.ready()

            async def execute(value: int) -> int:
                body = json.dumps({"executions": [{"input": value}] * 20}).encode()
                reply = await bus.client.request(subjects.execute("slow", None), body, timeout=PATIENCE_SECONDS)
                return sum(r["output"] == value for r in json.loads(reply.data)["results"])

            assert await execute(0) == 20
            under_way = [asyncio.create_task(execute(n)) for n in range(20)]
            await asyncio.sleep(0.05)
            await bus.client.flush()
            running_executor.process.send_signal(signal.SIGTERM)
            assert await asyncio.gather(*under_way) == [20] * 20
        await asyncio.to_thread(running_executor.output)
        assert running_executor.process.returncode == 0


async def test_nothing_survives_a_killed_executor(nats_server: NatsServer) -> None:
    with executor(nats_server.url) as running_executor:
        await running_executor.ready()
        below = descendants(running_executor.process.pid)
        assert all(map(alive, below))
        running_executor.process.kill()
        wait_until_gone(below)


def test_missing_kernel_feature_refuses_the_start(nats_server: NatsServer) -> None:
    masked = [sys.executable, "-m", "tests.support.masked", *_COMMAND]
    with executor(nats_server.url, command=masked) as refused:
        output = refused.output()
        assert refused.process.returncode == 2
        assert "the kernel lacks Landlock" in output
        assert "LOOPAI_EXECUTOR_SANDBOX=degraded" in output


async def test_degraded_sandbox_runs_and_says_so(nats_server: NatsServer) -> None:
    masked = [sys.executable, "-m", "tests.support.masked", *_COMMAND]
    store = StubStore()
    store.add("echo", "def run(x):\n    return x\n")
    lacks = "Landlock (Linux 5.13 with landlock among the enabled LSMs)"
    with executor(nats_server.url, command=masked, LOOPAI_EXECUTOR_SANDBOX="degraded") as degraded:
        async with running(new_bus("tests", nats_server.url)) as bus, store.serving(nats_server.url):
            body = await degraded.ready()
            assert body["status"] == "degraded"
            checks = body["checks"]
            assert isinstance(checks, dict)
            assert checks["nats"]["status"] == "healthy"
            assert (checks["sandbox"]["status"], checks["sandbox"]["detail"]) == ("degraded", f"degraded: {lacks}")
            subject = subjects.execute("echo", None)
            reply = await bus.client.request(subject, b'{"input": 7}', timeout=PATIENCE_SECONDS)
            assert json.loads(reply.data)["output"] == 7
            pong = await bus.client.request(subjects.ping("executor"), b"{}", timeout=PATIENCE_SECONDS)
            told = json.loads(pong.data)
            assert (told["status"], told["detail"]) == ("degraded", f"sandbox: degraded: {lacks}")
        async with httpx.AsyncClient() as http:
            metrics = (await http.get(f"{degraded.url}/metrics")).text
        assert "loopai_sandbox_degraded 1.0" in metrics
        degraded.process.send_signal(signal.SIGTERM)
        records = [json.loads(line) for line in degraded.output().splitlines() if line.startswith("{")]
    logged = [record for record in records if record["event"] == "sandbox_degraded"]
    assert [(record["level"], record["missing"]) for record in logged] == [("warning", [lacks])]


async def test_whole_sandbox_is_not_called_degraded(nats_server: NatsServer) -> None:
    with executor(nats_server.url) as whole:
        checks = (await whole.ready())["checks"]
        assert isinstance(checks, dict)
        assert (checks["sandbox"]["status"], checks["sandbox"]["detail"]) == ("healthy", None)
        async with httpx.AsyncClient() as http:
            metrics = (await http.get(f"{whole.url}/metrics")).text
        assert "loopai_sandbox_degraded 0.0" in metrics
        whole.process.send_signal(signal.SIGTERM)
        assert "sandbox_degraded" not in whole.output()


def test_unknown_setting_is_one_sentence(nats_server: NatsServer) -> None:
    with executor(nats_server.url, LOOPAI_EXECUTOR_SANDBOXX="off") as refused:
        assert "unknown setting LOOPAI_EXECUTOR_SANDBOXX" in refused.output()
        assert refused.process.returncode == 2


@pytest.mark.parametrize("metric", ["loopai_executions_total", "loopai_worker_spawns_total", "loopai_warm_programs"])
async def test_metrics_are_shown(nats_server: NatsServer, metric: str) -> None:
    with executor(nats_server.url) as running_executor:
        await running_executor.ready()
        async with httpx.AsyncClient() as http:
            assert metric in (await http.get(f"{running_executor.url}/metrics")).text
