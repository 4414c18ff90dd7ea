"""The same product with nothing but a NATS client."""

import asyncio
import json
from typing import Any
from uuid import uuid4

import nats
from nats.aio.msg import Msg

from tests.support.builders import definition_body
from tests.support.bus import jetstream_of
from tests.support.product import ECHO, Product, eventually
from tests.support.stack import LocalStack


async def test_one_input(product: Product) -> None:
    task = await product.create(name=f"spam-{uuid4().hex[:8]}", examples=[])
    subject = f"loopai.rpc.v1.execute.{task['name']}.active"
    reply = await product.request(subject, b'{"input":{"text":"free entry"}}')
    answer = json.loads(reply.data)
    assert answer["status"] == "success"
    assert answer["output"] in {"spam", "ham"}
    assert answer["task_id"] == task["id"]


async def test_a_batch_keeps_its_order_and_refuses_items_one_by_one(product: Product) -> None:
    task = await product.program(ECHO, input_schema={"type": "integer"})
    items: list[dict[str, Any]] = [{"input": i} for i in range(100)]
    items[50] = {"input": "not a number"}
    subject = f"loopai.rpc.v1.execute.{task['id']}.active"
    reply = await product.request(subject, json.dumps({"executions": items}).encode())
    results = json.loads(reply.data)["results"]
    assert [r.get("output") for r in results[:50]] == list(range(50))
    assert results[50]["code"] == "input_schema_violation"
    assert [r.get("output") for r in results[51:]] == list(range(51, 100))


async def test_errors_are_typed(product: Product) -> None:
    reply = await product.request("loopai.rpc.v1.execute.nobody.active", b'{"input":1}')
    assert (reply.headers or {})["Nats-Service-Error-Code"] == "task_not_found"
    assert json.loads(reply.data)["code"] == "task_not_found"


async def test_a_command_creates_a_task_and_events_tell_its_life(stack: LocalStack, product: Product) -> None:
    name = f"cmd-{uuid4().hex[:8]}"
    outside = await nats.connect(stack.nats_url)
    heard: list[tuple[str, dict[str, str], dict[str, object]]] = []

    async def on_event(message: Msg) -> None:
        data = json.loads(message.data)
        if name in (data.get("name"), data.get("task_name")):
            heard.append((message.subject, dict(message.headers or {}), data))

    try:
        await outside.subscribe("loopai.evt.v1.>", cb=on_event)
        await outside.flush()
        body = json.dumps(definition_body(name=name)).encode()
        await jetstream_of(outside).publish(
            "loopai.cmd.v1.task.create", body, headers={"X-Correlation-ID": "outside-1", "Nats-Msg-Id": name}
        )
        await eventually(lambda: any(s.endswith("artifact.activated") for s, _, _ in heard))
    finally:
        await outside.close()
    kinds = [s.removeprefix("loopai.evt.v1.") for s, _, _ in heard]
    assert kinds == ["task.created", "artifact.published", "artifact.activated"]
    headers = heard[0][1]
    assert headers["ce-type"] == "loopai.task.created.v1"
    assert headers["ce-id"] == headers["Nats-Msg-Id"]
    assert headers["ce-specversion"] == "1.0"
    assert headers["X-Correlation-ID"] == "outside-1"


async def test_a_command_that_can_never_succeed_becomes_a_dead_letter(product: Product) -> None:
    marker = uuid4().hex
    await jetstream_of(product.nats).publish("loopai.cmd.v1.task.create", json.dumps({"name": marker}).encode())

    async def letter() -> bool:
        try:
            message = await jetstream_of(product.nats).get_last_msg(
                "LOOPAI_DEAD_LETTERS", "loopai.dlq.v1.cmd.v1.task.create"
            )
        except nats.js.errors.NotFoundError:
            return False
        return marker.encode() in (message.data or b"")

    async with asyncio.timeout(30):
        while not await letter():
            await asyncio.sleep(0.05)
