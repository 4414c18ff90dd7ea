"""The product as its users see it: HTTP and NATS, and nothing of its insides."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import httpx
import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from tests.support.builders import definition_body
from tests.support.stack import LocalStack

V1 = "/api/v1"
V2 = "/api/v2"

ECHO = "def run(input):\n    return input\n"


class Product:
    """A connection to a running stack."""

    def __init__(self, stack: LocalStack, http: httpx.AsyncClient, nats_client: Client) -> None:
        self.stack = stack
        self.http = http
        self.nats = nats_client

    @property
    def base_url(self) -> str:
        """Where this connection's api answers."""
        return str(self.http.base_url).rstrip("/")

    @classmethod
    @asynccontextmanager
    async def connect(cls, stack: LocalStack, base_url: str | None = None) -> AsyncIterator["Product"]:
        """Connects over HTTP (to another api of the stack, if one is named) and NATS."""
        # verify=False: loading the certificates of the world takes longer than most tests do.
        async with httpx.AsyncClient(base_url=base_url or stack.base_url, timeout=60, verify=False) as http:
            client = await nats.connect(stack.nats_url, max_reconnect_attempts=-1, reconnect_time_wait=0.2)
            try:
                yield cls(stack, http, client)
            finally:
                await client.close()

    async def create(self, **changes: Any) -> dict[str, Any]:
        """Creates a task with a name of its own and waits until its generation has ended."""
        body = definition_body(**{"name": f"task-{uuid4().hex[:12]}", **changes})
        response = await self.http.post(f"{V1}/tasks", json=body, headers={"Prefer": "wait=60"})
        assert response.status_code == 201, response.text
        created: dict[str, Any] = response.json()
        return created

    async def program(self, code: str, **changes: Any) -> dict[str, Any]:
        """A task whose active version is ``code``; its schemas take and give anything unless told otherwise."""
        task = await self.create(**{"input_schema": True, "output_schema": True, "examples": [], **changes})
        await self.publish(task["id"], code)
        return task

    async def publish(self, task_id: str, code: str, *, activate: bool = True) -> dict[str, Any]:
        """Publishes ``code`` as the next version over NATS."""
        body = {"task_id": task_id, "generation_id": str(uuid4()), "code": code, "activate": activate}
        reply = await self.nats.request("loopai.rpc.v1.artifacts.publish", json.dumps(body).encode(), timeout=20)
        assert not (reply.headers or {}).get("Nats-Service-Error-Code"), reply.data
        artifact: dict[str, Any] = json.loads(reply.data)
        if activate:
            await self.until_active(task_id, artifact["version"])
        return artifact

    async def until_active(self, task: str, version: int) -> None:
        """Waits until executions of the task run ``version`` (executors learn of it by an event)."""
        async with asyncio.timeout(20):
            while True:
                response = await self.execute(task, None, timeout_ms=200)
                if response.status_code != 200 or response.json()["version"] == version:
                    return
                await asyncio.sleep(0.02)

    async def execute(self, task: str, value: Any, **more: Any) -> httpx.Response:
        """Runs the task's program on one input."""
        return await self.http.post(f"{V1}/tasks/{task}/execute", json={"input": value, **more})

    async def output(self, task: str, value: Any, **more: Any) -> Any:
        """As :meth:`execute`, for an execution that must succeed."""
        response = await self.execute(task, value, **more)
        assert response.status_code == 200, response.text
        answer = response.json()
        assert answer["status"] == "success", answer
        return answer["output"]

    async def request(self, subject: str, body: bytes, *, timeout: float = 20) -> Msg:
        """A plain NATS request."""
        return await self.nats.request(subject, body, timeout=timeout)


async def eventually(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    """Waits until ``condition`` (plain or async) holds."""
    async with asyncio.timeout(seconds):
        while True:
            value = condition()
            if asyncio.iscoroutine(value):
                value = await value
            if value:
                return
            await asyncio.sleep(0.02)
