"""Following a task: server-sent events in order, resumed where they broke off, and gone when nobody listens."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.support.builders import definition_body
from tests.support.product import ECHO, V1, V2, Product, eventually
from tests.support.service_process import ServiceProcess
from tests.support.stack import LocalStack

pytestmark = pytest.mark.both_lanes

SECONDS = 30.0
UNKNOWN = {
    "text": "x",
    "v4": "4f2a6c1e-95b1-4d0a-8a53-0c1d2e3f4a5b",
    "old": "00000000-0000-7000-8000-000000000000",
    "far": "ffffffff-ffff-7fff-bfff-ffffffffffff",
    "long": "f" * 5_000,
}


class Following:
    """The events of one response, as they come."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()

    async def next(self) -> dict[str, Any] | None:
        """The next event; ``None`` at the end."""
        event: dict[str, Any] = {}
        async with asyncio.timeout(SECONDS):
            async for line in self._lines:
                name, _, value = line.partition(": ")
                if name:
                    event[name] = json.loads(value) if name == "data" else value
                elif event:
                    return event
        assert not event, "it broke off within an event"
        return None

    async def until(self, kind: str) -> list[dict[str, Any]]:
        """The events up to the first of a kind."""
        found: list[dict[str, Any]] = []
        while not found or found[-1]["event"] != kind:
            event = await self.next()
            assert event is not None, found
            found.append(event)
        return found


@asynccontextmanager
async def following(
    http: httpx.AsyncClient, task: str, *, version: str = V1, last_id: str | None = None
) -> AsyncIterator[Following]:
    headers = {} if last_id is None else {"Last-Event-ID": last_id}
    async with http.stream("GET", f"{version}/tasks/{task}/events", headers=headers) as response:
        yield Following(response)


async def create(product: Product) -> dict[str, Any]:
    body = definition_body(name=f"followed.{uuid4().hex[:12]}")
    created = await product.http.post(f"{V1}/tasks", json=body)
    assert created.status_code == 201
    task: dict[str, Any] = created.json()
    return task


async def open_streams(base_url: str) -> float:
    async with httpx.AsyncClient(base_url=base_url) as http:
        lines = (await http.get("/metrics")).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("loopai_http_event_streams"))


@pytest.mark.parametrize("version", [V1, V2])
async def test_a_new_task_is_followed_until_it_runs(product: Product, version: str) -> None:
    task = await create(product)
    async with following(product.http, task["name"], version=version) as stream:
        assert stream.response.status_code == 200
        assert stream.response.headers["content-type"].startswith("text/event-stream")
        assert stream.response.headers["cache-control"] == "no-store"
        assert stream.response.headers["x-correlation-id"]
        first = await stream.next()
        assert first is not None
        assert (first["event"], first["data"]["id"], "id" in first) == ("task", task["id"], False)
        assert first["data"].keys() == task.keys() - {"examples"}
        if first["data"]["status"] == "generating":
            kinds = [event["event"] for event in await stream.until("artifact.activated")]
            assert [kind for kind in kinds if kind != "task.created"] == ["artifact.published", "artifact.activated"]
        await product.publish(task["id"], ECHO)
        await stream.until("artifact.published")
        moved = (await stream.until("artifact.activated"))[-1]
        assert (moved["data"]["task_id"], moved["data"]["version"]) == (task["id"], 2)


async def test_an_end_of_a_generation_that_made_nothing_is_told(product: Product) -> None:
    task = await product.program(ECHO)
    async with following(product.http, task["id"]) as stream:
        assert await stream.next()
        body = {"task_id": task["id"], "generation_id": str(uuid4()), "reason": "nothing better was found"}
        await product.request("loopai.rpc.v1.tasks.fail", json.dumps(body).encode())
        failed = (await stream.until("task.failed"))[-1]
        assert failed["data"]["reason"] == "nothing better was found"
    assert (await product.http.get(f"{V1}/tasks/{task['id']}")).json()["status"] == "ready"


async def test_it_ends_with_the_task_and_there_is_nothing_behind_the_end(product: Product) -> None:
    task = await product.program(ECHO)
    async with following(product.http, task["id"]) as stream:
        assert await stream.next()
        assert (await product.http.delete(f"{V1}/tasks/{task['id']}")).status_code == 204
        archived = (await stream.until("task.archived"))[-1]
        assert await stream.next() is None
    async with following(product.http, task["id"], last_id=archived["id"]) as stream:
        assert stream.response.status_code == 204
    async with following(product.http, task["id"]) as stream:
        first = await stream.next()
        assert first is not None
        assert first["data"]["status"] == "archived"
        assert await stream.next() is None


async def test_it_goes_on_behind_the_last_event(product: Product) -> None:
    task = await product.program(ECHO)
    async with following(product.http, task["id"]) as stream:
        assert await stream.next()
        await product.publish(task["id"], ECHO + "# a second\n")
        last = (await stream.until("artifact.published"))[-1]
    await product.publish(task["id"], ECHO + "# a third\n")
    async with following(product.http, task["id"], last_id=last["id"]) as stream:
        missed = await stream.until("artifact.activated")
        missed += await stream.until("artifact.activated")
        await product.publish(task["id"], ECHO + "# another\n")
        missed += await stream.until("artifact.activated")
    assert [(event["event"], event["data"]["version"]) for event in missed] == [
        ("artifact.activated", last["data"]["version"]),
        *((kind, last["data"]["version"] + n) for n in (1, 2) for kind in ("artifact.published", "artifact.activated")),
    ]
    assert len({event["id"] for event in missed}) == len(missed)


@pytest.mark.parametrize("last_id", UNKNOWN.values(), ids=UNKNOWN.keys())
async def test_an_event_that_is_not_known_begins_with_the_present_state(product: Product, last_id: str) -> None:
    task = await product.program(ECHO)
    async with following(product.http, task["id"], last_id=last_id) as stream:
        first = await stream.next()
        assert first is not None
        assert first["event"] == "task"


async def test_nobody_follows_a_task_that_is_not_there(product: Product) -> None:
    for version in (V1, V2):
        for task in ("nobody", "%3E", "*", str(uuid4())):
            response = await product.http.get(f"{version}/tasks/{task}/events")
            assert (response.status_code, response.json()["code"]) == (404, "task_not_found")
    assert await open_streams(product.base_url) == 0


async def test_a_client_that_goes_leaves_nothing_behind(product: Product) -> None:
    task = await product.program(ECHO)
    async with following(product.http, task["id"]) as stream:
        assert await stream.next()
        assert await open_streams(product.base_url) == 1
    await eventually(lambda: _nobody_follows(product.base_url))


async def _nobody_follows(base_url: str) -> bool:
    return await open_streams(base_url) == 0


@pytest.mark.one_lane
async def test_each_instance_tells_and_one_that_stops_lets_its_clients_go_on_elsewhere(
    product: Product, stack: LocalStack, tmp_path: Path
) -> None:
    task = await product.program(ECHO)
    environment = {
        "LOOPAI_NATS_URL": stack.nats_url,
        "LOOPAI_API_MAX_EVENT_STREAMS": "1",
        "LOOPAI_API_RECEIVE_TIMEOUT_SECONDS": "0.5",
    }
    with ServiceProcess("loopai_api.main", "LOOPAI_API_", tmp_path / "log", environment) as api:
        async with (
            httpx.AsyncClient(base_url=api.url, timeout=SECONDS) as other,
            following(product.http, task["id"]) as here,
            following(other, task["id"]) as there,
        ):
            assert await here.next()
            assert await there.next()
            busy = await other.get(f"{V1}/tasks/{task['id']}/events")
            assert (busy.status_code, busy.json()["code"]) == (503, "overloaded")
            assert busy.headers["retry-after"]
            await asyncio.sleep(1.2)  # longer than a request may take to be sent
            await product.publish(task["id"], ECHO + "# a second\n")
            told = await there.until("artifact.activated")
            assert await here.until("artifact.activated") == told
            assert await asyncio.to_thread(api.stop) == 0
            assert await there.next() is None
        await product.publish(task["id"], ECHO + "# a third\n")
        async with following(product.http, task["id"], last_id=told[-1]["id"]) as stream:
            assert [e["data"]["version"] for e in await stream.until("artifact.activated")] == [3, 3]
    assert "Traceback" not in api.log


@pytest.mark.one_lane
async def test_what_was_missed_while_the_bus_was_away_is_asked_for_again(own_product: Product) -> None:
    product, stack = own_product, own_product.stack
    task = await product.program(ECHO)
    async with following(product.http, task["id"]) as stream:
        assert await stream.next()
        await product.publish(task["id"], ECHO + "# a second\n")
        last = (await stream.until("artifact.activated"))[-1]
        await asyncio.to_thread(stack.restart, "nats-server")
        assert await stream.next() is None
    await eventually(lambda: _served(product, task["id"]), seconds=60)
    await product.publish(task["id"], ECHO + "# a third\n")
    async with following(product.http, task["id"], last_id=last["id"]) as stream:
        assert [event["data"]["version"] for event in await stream.until("artifact.activated")] == [3, 3]


async def _served(product: Product, task: str) -> bool:
    return (await product.execute(task, 1)).status_code == 200
