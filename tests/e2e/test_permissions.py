"""The product on a bus where each service has a user of its own, as in our deployments."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client

from loopai_client.local.nats_server import NatsServer
from loopai_common.contracts import subjects
from loopai_common.contracts.channels import CHANNELS
from loopai_common.permissions import SERVICES, USERS, inbox_prefix, nats_authorization
from tests.support.product import Product
from tests.support.stack import LocalStack

DENIED = {
    "api": [subjects.ARTIFACTS_PUBLISH, subjects.TASKS_FAIL, subjects.PROGRAMS_FETCH, subjects.ARTIFACT_ACTIVATED],
    "executor": [subjects.TASKS_CREATE, subjects.TASKS_GET, subjects.ARTIFACTS_PUBLISH, subjects.TASK_CREATE_COMMAND],
    "generator-proxy": [subjects.TASKS_CREATE, subjects.ARTIFACTS_ACTIVATE, subjects.FRAMES, subjects.TASK_CREATED],
    "artifact-store": [
        subjects.FRAMES,
        subjects.PROGRAMS_SUBMIT,
        subjects.EXECUTION_COMPLETED,
        "$JS.API.STREAM.DELETE.LOOPAI_EVENTS",
    ],
    "client": [
        subjects.ARTIFACTS_PUBLISH,
        subjects.TASKS_FAIL,
        subjects.ARTIFACT_ACTIVATED,
        f"{subjects.PING}.executor",
    ],
}
"""What each may least of all say."""

UNHEARD = {
    "api": [subjects.FRAMES, subjects.TASKS_GET, f"{inbox_prefix('executor')}.>", "loopai.>"],
    "executor": [subjects.TASKS_CREATE, subjects.ARTIFACTS_PUBLISH, f"{inbox_prefix('api')}.>", ">"],
    "generator-proxy": [subjects.FRAMES, f"{subjects.EXECUTE}.*.*", f"{inbox_prefix('artifact-store')}.>"],
    "artifact-store": [subjects.FRAMES, subjects.PROGRAMS_SUBMIT, f"{inbox_prefix('api')}.>"],
    "client": [subjects.FRAMES, subjects.TASKS_GET, f"{inbox_prefix('api')}.>", subjects.COMMANDS_ALL],
}
"""What each may least of all hear."""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A server that knows the users; each one's password is its name."""
    server = NatsServer(tmp_path_factory.mktemp("guarded"), more=nats_authorization(json.dumps))
    server.start()
    yield server
    server.stop()


def url_of(server: NatsServer, user: str) -> str:
    return f"nats://{user}:{user}@{server.host}:{server.port}"


async def violations(server: NatsServer, user: str, publish: list[str], subscribe: list[str]) -> list[str]:
    """What the server complained of when ``user`` did all this."""
    heard: list[str] = []

    async def on_error(error: Exception) -> None:
        heard.append(str(error))

    client: Client = await nats.connect(url_of(server, user), error_cb=on_error, inbox_prefix=inbox_prefix(user))
    try:
        for subject in publish:
            await client.publish(subject, b"{}")
        for subject in subscribe:
            await client.subscribe(subject)
        await client.flush()
        await asyncio.sleep(0)
        await client.flush()
    finally:
        await client.close()
    return heard


@pytest.mark.parametrize("user", DENIED)
async def test_nobody_says_or_hears_what_is_not_theirs(guarded: NatsServer, user: str) -> None:
    heard = await violations(guarded, user, DENIED[user], UNHEARD[user])
    for subject in (*DENIED[user], *UNHEARD[user]):
        assert any(f'"{subject.lower()}"' in line.lower() for line in heard), (subject, heard)
    assert len(heard) == len(DENIED[user]) + len(UNHEARD[user]), heard


def test_every_request_has_somebody_who_may_send_it() -> None:
    sendable = {subject for permissions in USERS.values() for subject in permissions.publish}
    for channel in CHANNELS:
        pattern = ".".join("*" if token.startswith("{") else token for token in channel.address.split("."))
        assert pattern in sendable, channel.address


async def test_a_whole_task_needs_no_more_than_what_the_services_may(
    guarded: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for service in SERVICES:
        prefix = f"LOOPAI_{service.replace('-', '_').upper()}"
        monkeypatch.setenv(f"{prefix}_NATS_URL", url_of(guarded, service))
    with LocalStack(tmp_path, nats_url=url_of(guarded, "operator")) as stack:
        async with Product.connect(stack) as product:
            task = await product.create()
            task_id = task["id"]
            answer = await product.execute(task_id, {"text": "free entry"})
            assert answer.json()["status"] == "success", answer.text
            headers = {"Prefer": "respond-async"}
            accepted = await product.http.post(
                f"/api/v1/tasks/{task_id}/execute", json={"input": {"text": "a"}}, headers=headers
            )
            assert accepted.status_code == 202, accepted.text
            location = accepted.headers["Location"]
            async with asyncio.timeout(30):
                while (await product.http.get(location)).json()["status"] == "accepted":
                    await asyncio.sleep(0.05)
            more = await product.http.post(f"/api/v1/tasks/{task_id}/generate", json={})
            assert more.status_code == 202, more.text
            body = {
                "code": "def run(input):\n    return 'spam'\n",
                "activate": True,
            }
            put = await product.http.post(f"/api/v1/tasks/{task_id}/artifacts", json=body)
            assert put.status_code == 201, put.text
            await product.http.delete(f"/api/v1/tasks/{task_id}")
        logs = {path.name: path.read_text() for path in stack.logs.glob("*.log")}
    refused = [line for log in logs.values() for line in log.splitlines() if "ermissions Violation" in line]
    assert refused == []
