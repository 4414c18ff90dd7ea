"""The Python clients against a real HTTP server that stands for the API: both send and understand the same."""

import socket
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from loopai_client.client import ApiError, AsyncLoopaiClient, Detail, LoopaiClient, Unreachable
from loopai_client.local.nats_server import free_port
from tests.support.stub_http import Answer, StubHttpServer

TASK = {"id": "t1", "name": "a task", "status": "ready", "active_version": 2, "status_reason": None, "new_field": 1}
EXECUTION = {"status": "success", "output": [1, "é"], "error_message": None, "version": 2, "latency_ms": 1}
ARTIFACT = {
    "version": 2,
    "status": "active",
    "size_bytes": 10,
    "digest": "sha256:00",
    "synthesis_strategy": "rule",
    "confidence_score": 0.5,
}
SCRIPT: Mapping[str, Answer | list[Answer]] = {
    "POST /api/v1/tasks": Answer(TASK, 201),
    "GET /api/v1/tasks/a%20task": Answer(TASK),
    "POST /api/v1/tasks/a%20task/execute": Answer(EXECUTION),
    "GET /api/v1/tasks/a%20task/artifacts/active": Answer(ARTIFACT),
    "GET /api/v1/tasks/a%20task/artifacts/1": Answer({**ARTIFACT, "version": 1}),
    "GET /api/v1/tasks/a%20task/artifacts/active/code": Answer("def run(input): ...\n"),
}


async def test_both_clients_send_the_same_and_understand_the_same() -> None:
    with StubHttpServer(SCRIPT) as api:
        with LoopaiClient(api.url) as client:
            blocking: list[Any] = [
                client.create_task({"name": "a task"}, wait_seconds=7),
                client.get_task("a task"),
                client.execute("a task", [1, "é"], version=2),
                client.get_artifact("a task"),
                client.get_artifact("a task", 1),
                client.get_code("a task"),
            ]
        sent = [(a.method, a.path, a.body, a.headers.get("Prefer")) for a in api.asked]
        api.asked.clear()
        async with AsyncLoopaiClient(f"{api.url}/") as other:
            awaited: list[Any] = [
                await other.create_task({"name": "a task"}, wait_seconds=7),
                await other.get_task("a task"),
                await other.execute("a task", [1, "é"], version=2),
                await other.get_artifact("a task"),
                await other.get_artifact("a task", 1),
                await other.get_code("a task"),
            ]
        assert [(a.method, a.path, a.body, a.headers.get("Prefer")) for a in api.asked] == sent
    assert awaited == blocking
    assert sent[0] == ("POST", "/api/v1/tasks", {"name": "a task"}, "wait=7")
    assert sent[2][2] == {"input": [1, "é"], "version": 2}
    task, _, execution, artifact, first, code = blocking
    assert (task.id, task.active_version, task.body["new_field"]) == ("t1", 2, 1)
    assert (execution.output, execution.latency_ms) == ([1, "é"], 1.0)
    assert (artifact.version, first.version) == (2, 1)
    assert code == "def run(input): ...\n"


def test_error_body_becomes_a_typed_error() -> None:
    body = {"code": "c", "message": "m", "details": [{"field": "f", "message": "do", "code": "r"}, "odd"]}
    script = {"GET /api/v1/tasks/x": Answer(body, 409)}
    with StubHttpServer(script) as api, LoopaiClient(api.url) as client, pytest.raises(ApiError) as error:
        client.get_task("x")
    assert (error.value.status, error.value.code, error.value.message) == (409, "c", "m")
    assert error.value.details == (Detail("f", "do", "r"),)


@pytest.mark.parametrize("body", ["<html>bad gateway</html>", "[1]", "{}"])
def test_error_of_a_foreign_server_is_told_by_its_status(body: str) -> None:
    script = {"GET /api/v1/tasks/x": Answer(body, 502)}
    with StubHttpServer(script) as api, LoopaiClient(api.url) as client, pytest.raises(ApiError) as error:
        client.get_task("x")
    assert error.value.message == "HTTP 502 Bad Gateway"
    assert error.value.code == "unexpected_answer"


def test_readiness_that_fails_says_what_is_missing() -> None:
    checks = {
        "nats": {"status": "healthy", "detail": None},
        "executor": {"status": "unhealthy", "detail": "no executor is running"},
    }
    script = {"GET /health/ready": Answer({"status": "unhealthy", "checks": checks}, 503)}
    with StubHttpServer(script) as api, LoopaiClient(api.url) as client, pytest.raises(ApiError) as error:
        client.ready()
    assert (error.value.code, error.value.message) == ("not_ready", "executor: no executor is running")


def test_nobody_listening_and_bad_urls_are_unreachable() -> None:
    with LoopaiClient(f"http://127.0.0.1:{free_port()}") as client, pytest.raises(Unreachable, match="loopai up"):
        client.ready()
    with pytest.raises(Unreachable, match="is no URL"):
        LoopaiClient("http://x:port")
    with LoopaiClient("127.0.0.1:80") as client, pytest.raises(Unreachable):
        client.ready()


def test_server_that_hangs_up_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = LoopaiClient(f"http://127.0.0.1:{server.getsockname()[1]}")
        server.close()
        with client, pytest.raises(Unreachable):
            client.get_task("x")


def test_proxy_of_the_environment_is_not_used_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    with StubHttpServer({"GET /health/ready": Answer({"checks": {"nats": {}}})}) as api:
        with LoopaiClient(api.url) as client:
            assert client.ready()
        with httpx.Client() as other, pytest.raises(httpx.ConnectError):  # the variables do have an effect
            other.get("http://example.invalid/")
