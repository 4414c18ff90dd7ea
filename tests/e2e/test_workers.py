"""The api and the executor in several processes each: deaths go unnoticed, stops lose nothing, figures are sums."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.processes import alive, descendants, wait_for, wait_until_gone
from tests.support.product import ECHO, V1, Product, eventually
from tests.support.stack import LocalStack

WORKERS = 2
SERVICES = ("api", "executor")
EXECUTE = 'loopai_http_requests_total{method="POST",route="/api/v1/tasks/{task}/execute",status="200"}'
MISSING = "loopai_workers_missing"


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[LocalStack]:
    """A stack of the test's own with two workers of each kind."""
    with LocalStack(tmp_path / "stack", api_workers=WORKERS, executor_workers=WORKERS) as running:
        yield running


@pytest.fixture
async def product(stack: LocalStack) -> AsyncIterator[Product]:
    """That stack over HTTP and NATS."""
    async with Product.connect(stack) as connected:
        yield connected


def workers(stack: LocalStack, service: str) -> list[int]:
    """The worker processes; what an executor's workers started is theirs."""
    pid = stack.pids[service]
    return [each for each in descendants(pid) if parent_of(each) == pid and alive(each)]


def parent_of(pid: int) -> int:
    try:
        return int(Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


async def metrics(product: Product) -> dict[str, float]:
    """Every sample of the api, by its name and labels."""
    lines = (await product.http.get("/metrics")).text.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines) if name[:1] != "#"}


async def test_metrics_are_the_sums_over_all_workers(product: Product) -> None:
    task = await product.program(ECHO)
    await eventually(lambda: _all_tell(product))
    before = (await metrics(product)).get(EXECUTE, 0)
    limits = httpx.Limits(max_connections=32)
    async with httpx.AsyncClient(base_url=product.stack.base_url, timeout=60, limits=limits) as http:
        calls = [http.post(f"{V1}/tasks/{task['id']}/execute", json={"input": i}) for i in range(500)]
        answers = [response.json() for response in await asyncio.gather(*calls)]
    assert [answer["output"] for answer in answers] == list(range(500))
    assert len({answer["execution_id"] for answer in answers}) == 500
    for _ in range(WORKERS * 3):
        async with httpx.AsyncClient(base_url=product.stack.base_url) as another:
            shown = await metrics(Product(product.stack, another, product.nats))
        assert shown[EXECUTE] == before + 500
        assert sum(name.startswith("process_resident_memory_bytes{") for name in shown) == WORKERS


async def _all_tell(product: Product) -> bool:
    return (await metrics(product))[MISSING] == 0


@pytest.mark.parametrize("service", SERVICES)
async def test_a_killed_worker_is_replaced_while_requests_are_answered(product: Product, service: str) -> None:
    task = await product.program(ECHO)
    wait_for(lambda: len(workers(product.stack, service)) == WORKERS, "every worker to run")
    victim, *_ = before = workers(product.stack, service)
    os.kill(victim, signal.SIGKILL)
    answered = 0

    async def replaced() -> bool:
        nonlocal answered
        try:
            async with httpx.AsyncClient(base_url=product.stack.base_url, timeout=60) as http:
                response = await http.post(f"{V1}/tasks/{task['id']}/execute", json={"input": 1})
        except httpx.TransportError:
            return False  # it was connected to the one that died
        assert response.status_code == 200 or service == "executor", response.text
        answered += response.status_code == 200
        now = workers(product.stack, service)
        return answered >= 50 and victim not in now and len(now) == WORKERS

    await eventually(replaced, seconds=60)
    assert set(before) - {victim} <= set(workers(product.stack, service))
    await eventually(lambda: _all_tell(product))


@pytest.mark.parametrize("service", SERVICES)
async def test_a_killed_parent_leaves_nothing_running(stack: LocalStack, service: str) -> None:
    wait_for(lambda: len(workers(stack, service)) == WORKERS, "every worker to run")
    parent = stack.pids[service]
    started = descendants(parent)
    os.kill(parent, signal.SIGKILL)
    wait_until_gone([parent, *started])


@pytest.mark.parametrize("service", SERVICES)
async def test_sigterm_under_load_loses_nothing_that_was_accepted(product: Product, service: str) -> None:
    stack = product.stack
    task = await product.program("def run(input):\n    return sum(range(20000)) * 0 + input\n")
    statuses: list[int] = []
    stop = asyncio.Event()

    async def load(number: int) -> None:
        async with httpx.AsyncClient(base_url=stack.base_url, timeout=60) as http:
            while not stop.is_set():
                try:
                    response = await http.post(f"{V1}/tasks/{task['id']}/execute", json={"input": number})
                except httpx.TransportError:
                    await asyncio.sleep(0.01)  # the connection was refused or idle: nothing was accepted
                    continue
                statuses.append(response.status_code)
                assert response.status_code != 200 or response.json()["output"] == number

    loading = [asyncio.create_task(load(number)) for number in range(16)]
    await eventually(lambda: len(statuses) > 100)
    started = [stack.pids[service], *descendants(stack.pids[service])]
    assert await asyncio.to_thread(stack.terminate, service), f"{service} did not end by itself"
    assert stack.ending(service) == "ended with exit code 0"
    stop.set()
    await asyncio.gather(*loading)
    assert set(statuses) <= {200, 503}
    assert not any(alive(pid) for pid in started)


@pytest.mark.parametrize(
    ("options", "environment"),
    [
        (["--api-workers", "2", "--executor-workers", "3"], {}),
        ([], {"LOOPAI_API_WORKERS": "2", "LOOPAI_EXECUTOR_WORKERS": "3"}),
    ],
    ids=["options", "environment"],
)
def test_up_takes_the_numbers_of_workers(tmp_path: Path, options: list[str], environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "loopai_client.cli.main", "up", "--json", "--port", "0"]
    command += ["--data-dir", str(tmp_path), *options]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LOOPAI_")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**clean, **environment}) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if json.loads(line)["event"] == "up":
                    break
            else:
                pytest.fail("it did not come up")
            wait_for(lambda: counted(tmp_path, "api") == 2, "two workers of the api")
            wait_for(lambda: counted(tmp_path, "executor") == 3, "three workers of the executor")
            process.send_signal(signal.SIGINT)
            assert process.wait(120) == 0
        finally:
            process.kill()


def counted(data_dir: Path, service: str) -> int:
    """Workers that the service's log says it started."""
    lines = (data_dir / "logs" / f"{service}.log").read_text().splitlines()
    return sum('"worker_started"' in line for line in lines)
