"""An outside system: it has a program made and runs it, with nothing but a NATS client (``pip install nats-py``).

    python examples/outside_system.py nats://127.0.0.1:4222

`make up` says in `.loopai/nats/nats-server.conf` where its server listens. What is sent and answered here is JSON; the
subjects are the whole interface.
"""

import asyncio
import json
import sys
from typing import Any
from uuid import uuid4

import nats
from nats.aio.client import Client
from nats.aio.subscription import Subscription

LONGEST_SECONDS = 120


def definition(name: str) -> dict[str, Any]:
    """The task: the same body as that of ``POST /tasks``."""
    return {
        "name": name,
        "description": "The mood of a message.",
        "input_schema": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
        "output_schema": {"enum": ["happy", "angry"]},
        "examples": [
            {"input": {"text": "what a lovely day"}, "output": "happy"},
            {"input": {"text": "this is the worst"}, "output": "angry"},
            {"input": {"text": "thank you so much, I love it"}, "output": "happy"},
            {"input": {"text": "I hate waiting, terrible service"}, "output": "angry"},
        ],
    }


async def command(client: Client, subject: str, body: dict[str, Any]) -> None:
    """Publishes a command; returns when JetStream has stored it. The same message id is one command, sent twice."""
    headers = {"Nats-Msg-Id": str(uuid4())}
    await client.jetstream().publish(subject, json.dumps(body).encode(), headers=headers)


async def until_ready(events: Subscription, name: str) -> None:
    """Follows the events of the task to its first program; exits when there will be none."""
    async for message in events.messages:
        event = json.loads(message.data)
        if name not in (event.get("name"), event.get("task_name")):
            continue
        kind = message.subject.removeprefix("loopai.evt.v1.")
        print(f"event      {kind}")
        if kind == "artifact.activated":
            return
        if kind == "task.failed":
            sys.exit(f"no program: {event['reason']}")


async def execute(client: Client, name: str, text: str) -> Any:
    """Runs the program on one input and waits for the output; the answer of a failure says so in its headers."""
    subject = f"loopai.rpc.v1.execute.{name}.active"
    reply = await client.request(subject, json.dumps({"input": {"text": text}}).encode(), timeout=10)
    answer = json.loads(reply.data)
    if reply.headers and "Nats-Service-Error-Code" in reply.headers:
        sys.exit(f"{answer['code']}: {answer['message']}")
    return answer["output"] if answer["status"] == "success" else sys.exit(answer["error_message"])


async def execute_later(client: Client, events: Subscription, name: str, text: str) -> Any:
    """Queues an execution durably, and hears of its end by an event; meanwhile everything may restart."""
    execution_id = str(uuid4())
    body = {"task": name, "input": {"text": text}, "execution_id": execution_id}
    await command(client, "loopai.cmd.v1.execute", body)
    async for message in events.messages:
        record = json.loads(message.data)
        if message.subject == "loopai.evt.v1.execution.completed" and record["id"] == execution_id:
            return record["output"] if record["status"] == "success" else sys.exit(record["error_message"])


async def main(url: str) -> None:
    """The whole conversation."""
    name = f"outside-{uuid4().hex[:8]}"
    client = await nats.connect(url)
    try:
        # Whoever must not miss an event reads the streams LOOPAI_EVENTS and LOOPAI_EXECUTIONS with a durable consumer.
        events = await client.subscribe("loopai.evt.v1.>")
        await client.flush()
        async with asyncio.timeout(LONGEST_SECONDS):
            await command(client, "loopai.cmd.v1.task.create", definition(name))
            await until_ready(events, name)
            print(f"executed   {await execute(client, name, 'I love this lovely place')}")
            print(f"completed  {await execute_later(client, events, name, 'the worst, I hate it')}")
    finally:
        await client.close()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    asyncio.run(main(sys.argv[1]))
