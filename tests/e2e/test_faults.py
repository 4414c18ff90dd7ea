"""What breaks harms nobody else, and nothing acknowledged is lost."""

import asyncio
import os
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.support.builders import definition_body
from tests.support.product import ECHO, V1, Product, eventually
from tests.support.stack import LocalStack

LOOP = "def run(input):\n    while True: pass\n"
MEMORY = "def run(input):\n    held = []\n    while True: held.append(bytearray(1 << 20))\n"
CRASH = "def run(input):\n    import os\n    os._exit(3)\n"
RAISES = "def run(input):\n    raise ValueError('no such colour')\n"


@pytest.mark.parametrize(
    ("code", "status", "error_code"),
    [
        (LOOP, "timeout", "limit_time"),
        (MEMORY, "error", "limit_memory"),
        (CRASH, "error", "crashed"),
        (RAISES, "error", "program_raised"),
        ("def run(input):\n    return open('/etc/passwd').read()\n", "error", "program_raised"),
        ("def run(input):\n    return {1, object()}\n", "error", "output_not_json"),
        ("def run(input):\n    return 'x' * 3_000_000\n", "error", "limit_output"),
    ],
)
async def test_a_bad_program_fails_alone(product: Product, code: str, status: str, error_code: str) -> None:
    bad, good = await product.program(code), await product.program(ECHO)
    neighbours = [product.execute(good["id"], i) for i in range(20)]
    timeout_ms = 200 if code == LOOP else 20_000  # the others end by themselves, on a busy machine not soon
    outcome, *others = await asyncio.gather(product.execute(bad["id"], 1, timeout_ms=timeout_ms), *neighbours)
    answer = outcome.json()
    assert outcome.status_code == 200
    assert (answer["status"], answer["error_code"], answer["output"]) == (status, error_code, None)
    assert answer["error_message"]
    assert [r.json()["output"] for r in others] == list(range(20))


async def test_a_slow_program_does_not_hold_others_back(product: Product) -> None:
    slow, quick = await product.program(LOOP), await product.program(ECHO)
    looping = [asyncio.create_task(product.execute(slow["id"], 1, timeout_ms=3000)) for _ in range(8)]
    await asyncio.sleep(0.1)
    started = time.perf_counter()
    for i in range(20):
        assert await product.output(quick["id"], i) == i
    took = time.perf_counter() - started
    assert not all(task.done() for task in looping), "the slow ones must still be running to prove anything"
    assert took < 2.9
    for response in await asyncio.gather(*looping):
        assert response.status_code in {200, 503, 504}


async def test_an_executor_that_is_killed_answers_nobody_forever(own_product: Product) -> None:
    stack, product = own_product.stack, own_product
    task = await product.program(ECHO)

    async def one(i: int) -> tuple[int, Any]:
        response = await product.execute(task["id"], i)
        return response.status_code, response.json()

    calls = [asyncio.create_task(one(i)) for i in range(200)]
    await asyncio.sleep(0.01)
    await asyncio.to_thread(stack.kill, "executor")
    outcomes = await asyncio.gather(*calls)
    for i, (status, body) in enumerate(outcomes):
        assert status in {200, 503, 504}
        if status == 200:
            assert body["output"] == i
        else:
            assert body["code"] in {"no_executor", "deadline_exceeded"}
    started = time.perf_counter()
    status, body = await one(1)
    assert (status, body["code"]) == (503, "no_executor")
    assert time.perf_counter() - started < 1.0
    ready = await product.http.get("/health/ready")
    assert ready.status_code == 503
    assert ready.json()["checks"]["executor"]["status"] == "unhealthy"
    await asyncio.to_thread(stack.restart, "executor")
    await eventually(lambda: _answers(product, task["id"]))


async def test_a_frozen_executor_is_a_typed_timeout(own_product: Product) -> None:
    stack, product = own_product.stack, own_product
    task = await product.program(ECHO)
    stack.pause("executor")
    try:
        response = await product.execute(task["id"], 1, timeout_ms=100)
    finally:
        stack.resume("executor")
    assert (response.status_code, response.json()["code"]) == (504, "deadline_exceeded")
    await eventually(lambda: _answers(product, task["id"]))


async def test_a_store_that_is_killed_loses_nothing_acknowledged(own_product: Product) -> None:
    stack, product = own_product.stack, own_product
    running = await product.program(ECHO)
    acknowledged: set[str] = set()
    stop = asyncio.Event()

    async def create() -> None:
        while not stop.is_set():
            body = definition_body(name=f"kept-{uuid4().hex}", examples=[])
            try:
                response = await product.http.post(f"{V1}/tasks", json=body)
            except httpx.HTTPError:
                continue
            if response.status_code == 201:
                acknowledged.add(response.json()["id"])
                await asyncio.sleep(0.1)  # each of them is generated at the end
            else:
                assert response.json()["code"] in {"store_unavailable", "deadline_exceeded"}
                await asyncio.sleep(0.02)

    creating = [asyncio.create_task(create()) for _ in range(4)]
    await eventually(lambda: len(acknowledged) >= 10)
    await asyncio.to_thread(stack.kill, "artifact-store")
    unavailable = await product.http.get(f"{V1}/tasks")
    assert (unavailable.status_code, unavailable.json()["code"]) == (503, "store_unavailable")
    assert unavailable.headers["retry-after"]
    assert await product.output(running["id"], 5) == 5, "what is warm runs without the store"
    await asyncio.to_thread(stack.restart, "artifact-store")
    before = len(acknowledged)
    await eventually(lambda: len(acknowledged) >= before + 5)
    stop.set()
    await asyncio.gather(*creating)
    for task_id in acknowledged:
        assert (await product.http.get(f"{V1}/tasks/{task_id}")).status_code == 200

    async def all_generated() -> bool:
        tasks = [(await product.http.get(f"{V1}/tasks/{task_id}")).json() for task_id in acknowledged]
        return all(t["status"] == "ready" for t in tasks)

    await eventually(all_generated, seconds=120)


async def test_nats_away_is_told_at_once_and_heals_by_itself(own_product: Product) -> None:
    stack, product = own_product.stack, own_product
    task = await product.program(ECHO)
    await asyncio.to_thread(stack.kill, "nats-server")

    async def refused() -> bool:
        response = await product.execute(task["id"], 1)
        return response.status_code == 503 and response.json()["code"] == "bus_unavailable"

    await eventually(refused)
    assert (await product.http.get("/health/live")).status_code == 200
    ready = await product.http.get("/health/ready")
    assert ready.json()["checks"]["nats"]["status"] == "unhealthy"
    await asyncio.to_thread(stack.restart, "nats-server")
    await eventually(lambda: _answers(product, task["id"]), seconds=60)
    created = await product.create()
    assert created["status"] == "ready"


@pytest.mark.parametrize("service", ["api", "executor", "artifact-store", "generator-proxy", "generator"])
async def test_sigterm_under_load_finishes_what_was_taken_and_exits(own_product: Product, service: str) -> None:
    stack, product = own_product.stack, own_product
    task = await product.program(ECHO)
    statuses: list[int] = []
    stop = asyncio.Event()

    async def load() -> None:
        while not stop.is_set():
            try:
                statuses.append((await product.execute(task["id"], 1)).status_code)
            except httpx.HTTPError:
                await asyncio.sleep(0.01)  # a refused connection: nothing was accepted

    loading = [asyncio.create_task(load()) for _ in range(8)]
    await eventually(lambda: len(statuses) > 50)
    ended = await asyncio.to_thread(stack.terminate, service)
    stop.set()
    await asyncio.gather(*loading)
    assert ended, f"{service} did not end by itself"
    assert set(statuses) <= {200, 503}


def test_nothing_is_left_when_the_stack_stops(tmp_path: Path) -> None:
    with LocalStack(tmp_path / "stack") as stack:
        pids = list(stack.pids.values())
        children = [c for pid in pids for c in _descendants(pid)]
    assert len(pids) == 6
    left = [pid for pid in {*pids, *children} if _alive(pid)]
    assert left == []


async def _answers(product: Product, task: str) -> bool:
    response = await product.execute(task, 7)
    return response.status_code == 200 and response.json()["output"] == 7


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            if parent == pid:
                found += [int(entry.name), *_descendants(int(entry.name))]
    return found


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
