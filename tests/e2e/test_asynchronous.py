"""Executions that nobody waits for: accepted over HTTP or NATS, run later, shown by their records."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from nats.aio.msg import Msg

from tests.support.product import ECHO, V1, Product, eventually

ASYNC = {"Prefer": "respond-async"}
RECORD_FIELDS = {
    "id",
    "task_id",
    "program_id",
    "version",
    "input",
    "output",
    "status",
    "error_code",
    "error_message",
    "latency_ms",
    "memory_usage_mb",
    "sampled_for_validation",
    "validation_id",
    "executed_at",
    "correlation_id",
}


async def execute_later(product: Product, task: str, value: Any, **headers: str) -> httpx.Response:
    return await product.http.post(f"{V1}/tasks/{task}/execute", json={"input": value}, headers={**ASYNC, **headers})


async def outcome(product: Product, location: str) -> dict[str, Any]:
    """Polls as a client does: from the first answer on the execution is there."""
    async with asyncio.timeout(60):
        while True:
            response = await product.http.get(location)
            assert response.status_code == 200, response.text
            record: dict[str, Any] = response.json()
            if record["status"] != "accepted":
                return record
            await asyncio.sleep(0.02)


async def listed(product: Product, task: str, **query: Any) -> list[dict[str, Any]]:
    response = await product.http.get(f"{V1}/tasks/{task}/executions", params=query)
    assert response.status_code == 200, response.text
    items: list[dict[str, Any]] = response.json()["items"]
    return items


@pytest.fixture
async def echo(product: Product) -> dict[str, Any]:
    return await product.program(ECHO, sampling_rate=0)


async def test_an_execution_is_accepted_runs_and_is_found_where_location_says(
    product: Product, echo: dict[str, Any]
) -> None:
    heard: list[Msg] = []

    async def on_event(message: Msg) -> None:
        heard.append(message)

    subscription = await product.nats.subscribe("loopai.evt.v1.execution.completed", cb=on_event)
    await product.nats.flush()
    response = await execute_later(product, echo["name"], {"n": [1, None]}, **{"X-Correlation-ID": f"order-{uuid4()}"})
    assert response.status_code == 202
    accepted = response.json()
    assert accepted.keys() == {"execution_id", "task_id", "version", "status", "accepted_at", "correlation_id"}
    assert (accepted["status"], accepted["task_id"], accepted["version"]) == ("accepted", echo["id"], None)
    assert response.headers["preference-applied"] == "respond-async"
    assert response.headers["location"] == f"{V1}/executions/{accepted['execution_id']}"
    assert accepted["correlation_id"] == response.headers["x-correlation-id"]

    record = await outcome(product, response.headers["location"])
    assert record.keys() == RECORD_FIELDS
    assert (record["id"], record["correlation_id"]) == (accepted["execution_id"], accepted["correlation_id"])
    assert (record["status"], record["input"], record["output"]) == ("success", {"n": [1, None]}, {"n": [1, None]})
    assert record["latency_ms"] > 0
    assert record["executed_at"] >= accepted["accepted_at"]
    assert record in await listed(product, echo["name"])

    def mine() -> list[Msg]:
        return [m for m in heard if (m.headers or {}).get("ce-id") == accepted["execution_id"]]

    await eventually(mine)
    (event,) = mine()
    assert (event.headers or {})["X-Correlation-ID"] == accepted["correlation_id"]
    assert json.loads(event.data) == record
    await subscription.unsubscribe()


async def test_everyone_who_was_told_202_finds_the_execution_at_once_and_all_end(
    product: Product, echo: dict[str, Any]
) -> None:
    async def one(n: int) -> Any:
        response = await execute_later(product, echo["id"], n)
        assert response.status_code == 202, response.text
        return (await outcome(product, response.headers["location"]))["output"]

    assert await asyncio.gather(*(one(n) for n in range(100))) == list(range(100))


@pytest.mark.parametrize("prefer", ["Respond-Async", "wait=5, respond-async", "respond-async;x=1"])
async def test_the_preference_may_be_written_as_the_rfc_allows(
    product: Product, echo: dict[str, Any], prefer: str
) -> None:
    assert (await execute_later(product, echo["id"], 1, Prefer=prefer)).status_code == 202


@pytest.mark.parametrize("prefer", ["respond-async-please", "x=respond-async", "wait=5"])
async def test_other_preferences_are_answered_at_once(product: Product, echo: dict[str, Any], prefer: str) -> None:
    response = await execute_later(product, echo["id"], 1, Prefer=prefer)
    assert (response.status_code, response.json()["output"]) == (200, 1)


async def test_what_cannot_run_is_refused_at_once(product: Product, echo: dict[str, Any]) -> None:
    assert (await execute_later(product, "nobody", 1)).json()["code"] == "task_not_found"
    path = f"{V1}/tasks/{echo['id']}/execute"
    for body, status, code in [
        (b'{"input": 1, "version": 99}', 404, "artifact_not_found"),
        (b'{"input": 1, "version": 0}', 400, "validation_error"),
        (b'{"input": NaN}', 400, "malformed_json"),
        (b'{"input": 1, "input": 2}', 400, "malformed_json"),
        (b"{}", 400, "validation_error"),
    ]:
        response = await product.http.post(path, content=body, headers={"Content-Type": "application/json", **ASYNC})
        assert (response.status_code, response.json()["code"]) == (status, code)
    assert await listed(product, echo["id"]) == []


async def test_an_input_against_the_schema_ends_in_its_record(product: Product) -> None:
    task = await product.program(ECHO, input_schema={"type": "integer"}, sampling_rate=0)
    response = await execute_later(product, task["id"], "no number")
    assert response.status_code == 202
    record = await outcome(product, response.headers["location"])
    assert (record["status"], record["error_code"]) == ("error", "input_schema_violation")
    assert "must be of type integer" in record["error_message"]
    assert (record["task_id"], record["input"]) == (task["id"], "no number")


async def test_forced_executions_of_every_kind_are_listed_newest_first(product: Product, echo: dict[str, Any]) -> None:
    started = datetime.now(UTC) - timedelta(seconds=1)
    answer = (await product.execute(echo["id"], 1, force_validation=True)).json()
    assert answer["sampled_for_validation"]
    items = [{"id": "a", "input": 2, "force_validation": True}, {"id": "b", "input": 3}]
    await product.http.post(f"{V1}/tasks/{echo['id']}/execute/batch", json={"items": items})
    await product.request(f"loopai.rpc.v1.execute.{echo['id']}.active", b'{"input": 4, "force_validation": true}')
    await product.execute(echo["id"], 5)

    async def all_there() -> bool:
        return len(await listed(product, echo["id"])) == 3

    await eventually(all_there)
    records = await listed(product, echo["name"], status="success", since=started.isoformat())
    assert [record["output"] for record in records] == [4, 2, 1]
    assert all(record["sampled_for_validation"] for record in records)
    by_id = (await product.http.get(f"{V1}/executions/{answer['execution_id']}")).json()
    assert by_id == records[2]
    assert await listed(product, echo["id"], status="error") == []
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    assert await listed(product, echo["id"], since=later) == []


async def test_pages_follow_each_other(product: Product, echo: dict[str, Any]) -> None:
    locations = [(await execute_later(product, echo["id"], n)).headers["location"] for n in range(5)]
    for location in locations:
        await outcome(product, location)
    path, seen, cursor = f"{V1}/tasks/{echo['id']}/executions", [], None
    for _ in range(5):
        page = (await product.http.get(path, params={"limit": 2, **({"cursor": cursor} if cursor else {})})).json()
        seen += [record["output"] for record in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert sorted(seen) == list(range(5))


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/executions/01938f5e-3a6b-7c4d-9e1f-2a3b4c5d6e7f", 404, "execution_not_found"),
        ("/executions/01938F5E-3A6B-7C4D-9E1F-2A3B4C5D6E7F", 404, "execution_not_found"),
        ("/executions/mine", 404, "execution_not_found"),
        ("/tasks/nobody/executions", 404, "task_not_found"),
        ("/tasks/nobody/executions?limit=0", 400, "validation_error"),
        ("/tasks/nobody/executions?limit=201", 400, "validation_error"),
        ("/tasks/nobody/executions?status=done", 400, "validation_error"),
        ("/tasks/nobody/executions?since=yesterday", 400, "validation_error"),
        ("/tasks/nobody/executions?since=2026-01-05T09:00:00", 400, "validation_error"),
        ("/tasks/nobody/executions?since=0001-01-01T00:00:00%2B14:00", 400, "validation_error"),
    ],
    ids=range(10),
)
async def test_bad_questions_get_typed_errors(product: Product, path: str, status: int, code: str) -> None:
    response = await product.http.get(f"{V1}{path}")
    assert (response.status_code, response.json()["code"]) == (status, code)


async def test_another_system_needs_nothing_but_a_publish(product: Product, echo: dict[str, Any]) -> None:
    correlation = f"outside-{uuid4()}"
    body = json.dumps({"task": echo["name"], "input": {"from": "outside"}}).encode()
    await product.nats.publish("loopai.cmd.v1.execute", body, headers={"X-Correlation-ID": correlation})

    async def recorded() -> bool:
        return any(record["correlation_id"] == correlation for record in await listed(product, echo["id"]))

    await eventually(recorded)
    (record,) = await listed(product, echo["id"])
    assert (record["status"], record["output"]) == ("success", {"from": "outside"})


async def test_a_killed_executor_costs_no_accepted_execution(own_product: Product) -> None:
    product, stack = own_product, own_product.stack
    task = await product.program(ECHO, sampling_rate=0)
    await asyncio.to_thread(stack.kill, "executor")
    responses = await asyncio.gather(*(execute_later(product, task["id"], n) for n in range(20)))
    assert {response.status_code for response in responses} == {202}
    waiting = (await product.http.get(responses[0].headers["location"])).json()
    assert (waiting["status"], waiting["task_id"], waiting["output"]) == ("accepted", task["id"], None)
    await asyncio.to_thread(stack.restart, "executor")
    outcomes = [await outcome(product, response.headers["location"]) for response in responses]
    assert [record["output"] for record in outcomes] == list(range(20))
    assert len(await listed(product, task["id"])) == 20
