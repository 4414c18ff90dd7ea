"""The Python clients against a server that stands for the API: what is tried again, counted where it arrives."""

import itertools
import socket
import time
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from loopai_client import AsyncLoopaiClient, BatchItem, LoopaiClient
from loopai_client.errors import ApiError, LoopaiError, TimedOut, Unavailable, UnexpectedAnswer, Unreachable
from loopai_client.framing import encode_json
from loopai_client.local.nats_server import free_port
from tests.support.api_bodies import ARTIFACT, EXECUTION, READINESS, TASK, batch_line, error_body
from tests.support.stub_http import Answer, StubHttpServer

Script = Mapping[str, Answer | list[Answer]]

PATH = "/api/v1/tasks/x"
BUSY = Answer(error_body("overloaded"), 503, {"Retry-After": "0"})
STORE_AWAY = Answer(error_body("store_unavailable"), 503, {"Retry-After": "0"})
HANGS_UP = Answer("", cut_off="before")


def lines(*bodies: Any) -> str:
    """Newline-delimited JSON."""
    return "".join(encode_json(body).decode() + "\n" for body in bodies)


def test_newer_fields_are_no_obstacle_and_names_are_quoted() -> None:
    script: Script = {"GET /api/v1/tasks/a%20task": Answer({**TASK, "new": 1})}
    with StubHttpServer(script) as api, LoopaiClient(f"{api.url}/") as client:
        assert client.get_task("a task").name == "mood"


@pytest.mark.parametrize("first", [BUSY, STORE_AWAY, HANGS_UP, Answer("", cut_off="after")])
async def test_execution_is_tried_again_after_whatever_befalls_it(first: Answer) -> None:
    script: Script = {f"POST {PATH}/execute": [first, Answer(EXECUTION), first, Answer(EXECUTION)]}
    with StubHttpServer(script) as api:
        with LoopaiClient(api.url) as client:
            assert client.execute("x", 1).output == "happy"
        async with AsyncLoopaiClient(api.url) as other:
            assert (await other.execute("x", 1)).output == "happy"
        assert len(api.asked) == 4


def test_refusals_are_raised_after_four_attempts() -> None:
    with StubHttpServer({f"POST {PATH}/execute": BUSY}) as api, LoopaiClient(api.url) as client:
        with pytest.raises(Unavailable) as error:
            client.execute("x", 1)
        assert (error.value.code, error.value.retryable, error.value.trace_id) == ("overloaded", True, "t-1")
        assert len(api.asked) == 4


def test_creation_is_tried_again_under_one_key() -> None:
    script: Script = {"POST /api/v1/tasks": [HANGS_UP, STORE_AWAY, Answer(TASK, 201)]}
    with StubHttpServer(script) as api, LoopaiClient(api.url) as client:
        client.create_task({"name": "n"})
        client.create_task({"name": "n"}, idempotency_key="mine")
        keys = [asked.headers["Idempotency-Key"] for asked in api.asked]
    assert keys[0] == keys[1] == keys[2] != keys[3]
    assert keys[3] == "mine"


@pytest.mark.parametrize(
    ("first", "asked"),
    [(HANGS_UP, 1), (STORE_AWAY, 1), (BUSY, 2)],
    ids=["may-have-been-done", "may-have-been-done-behind", "was-not-begun"],
)
def test_change_that_may_have_been_made_is_not_made_again(first: Answer, asked: int) -> None:
    with StubHttpServer({f"PATCH {PATH}": [first, Answer(TASK)]}) as api, LoopaiClient(api.url) as client:
        if asked == 1:
            with pytest.raises(LoopaiError):
                client.update_task("x", description="d", expected_revision=2)
        else:
            client.update_task("x", description="d", expected_revision=2)
        assert len(api.asked) == asked
        assert (api.asked[0].body, api.asked[0].headers["If-Match"]) == ({"description": "d"}, '"2"')


def test_generation_is_asked_for_again_under_one_key() -> None:
    started = {"task_id": TASK["id"], "generation_id": TASK["id"], "status": "generating"}
    script: Script = {f"POST {PATH}/generate": [HANGS_UP, STORE_AWAY, Answer(started, 202)]}
    with StubHttpServer(script) as api, LoopaiClient(api.url) as client:
        client.generate("x")
        client.generate("x", idempotency_key="mine")
        keys = [asked.headers["Idempotency-Key"] for asked in api.asked]
    assert keys[0] == keys[1] == keys[2] != keys[3]
    assert keys[3] == "mine"


def test_activation_and_queued_execution_are_sent_once() -> None:
    script: Script = {f"POST {PATH}/artifacts/1/activate": HANGS_UP, f"POST {PATH}/execute": HANGS_UP}
    with StubHttpServer(script) as api, LoopaiClient(api.url) as client:
        with pytest.raises(Unreachable):
            client.activate("x", 1)
        with pytest.raises(Unreachable):
            client.execute_async("x", 1)
        assert len(api.asked) == 2


async def test_deadline_holds_against_a_server_that_drips() -> None:
    with StubHttpServer({f"GET {PATH}": Answer("", drip_seconds=0.05)}) as api:
        started = time.monotonic()
        with LoopaiClient(api.url, timeout_seconds=0.5) as client, pytest.raises(TimedOut):
            client.get_task("x")
        async with AsyncLoopaiClient(api.url, timeout_seconds=0.5) as other:
            with pytest.raises(TimedOut):
                await other.get_task("x")
        assert time.monotonic() - started < 10


async def test_stream_goes_on_where_it_broke_off() -> None:
    broken = Answer(lines(batch_line(1), batch_line(2)), cut_off="after")
    whole = Answer(lines(batch_line(1)))
    script: Script = {f"POST {PATH}/execute/batch": [broken, BUSY, whole, broken, HANGS_UP, whole]}
    items = [BatchItem("a"), BatchItem("b\u2028"), BatchItem("c")]
    with StubHttpServer(script) as api:
        with LoopaiClient(api.url) as client:
            blocking = list(client.batch_stream("x", items))
        async with AsyncLoopaiClient(api.url) as other:
            awaited = [result async for result in other.batch_stream("x", items)]
        sent = [asked.body for asked in api.asked]
    assert [result.line for result in blocking] == [1, 2, 3]
    assert awaited == blocking
    assert sent[1:3] == [{"id": "3", "input": "c"}] * 2
    assert sent[4:6] == sent[1:3]


async def test_events_go_on_after_the_last_one_that_came() -> None:
    first = (
        "retry: 10\n: ping\n\nid: 1\nevent: task\ndata: {}\n\nid: 2\nevent: task.failed\ndata: {}\n\nid: 3\nevent: cut"
    )
    second = 'event: task\ndata: {"status": "ready"}\n\n'
    script: Script = {f"GET {PATH}/events": [Answer(first), Answer(second), Answer(first), Answer(second)]}
    with StubHttpServer(script) as api:
        with LoopaiClient(api.url) as client:
            blocking = [event.kind for event in itertools.islice(client.events("x"), 3)]
        async with AsyncLoopaiClient(api.url) as other:
            awaited = []
            async for event in other.events("x", last_event_id="0"):
                awaited.append(event.kind)
                if len(awaited) == 3:
                    break
        seen = [asked.headers.get("Last-Event-ID") for asked in api.asked]
    assert blocking == awaited == ["task", "task.failed", "task"]
    assert seen == [None, "3", "0", "3"]


@pytest.mark.parametrize(
    "last", ["id: 9\nevent: task.archived\ndata: {}\n\n", 'event: task\ndata: {"status": "archived"}\n\n', None]
)
async def test_events_end_with_the_task(last: str | None) -> None:
    with StubHttpServer({f"GET {PATH}/events": Answer("", 204) if last is None else Answer(last)}) as api:
        with LoopaiClient(api.url) as client:
            assert len(list(client.events("x", last_event_id="9"))) == (last is not None)
        async with AsyncLoopaiClient(api.url) as other:
            assert len([event async for event in other.events("x")]) == (last is not None)
        assert [asked.headers.get("Last-Event-ID") for asked in api.asked] == ["9", None]


def test_events_of_a_foreign_server_end() -> None:
    with StubHttpServer({f"GET {PATH}/events": Answer("retry: 1\n<html>\n")}) as api, LoopaiClient(api.url) as client:
        with pytest.raises(Unreachable, match="ended before its end"):
            next(client.events("x"))
        assert len(api.asked) == 4


def test_pages_are_followed() -> None:
    script: Script = {
        f"GET {PATH}/artifacts?limit=200&include=code": Answer({"items": [ARTIFACT], "next_cursor": "c"}),
        f"GET {PATH}/artifacts?limit=200&cursor=c&include=code": Answer({"items": [ARTIFACT], "next_cursor": None}),
    }
    with StubHttpServer(script) as api, LoopaiClient(api.url) as client:
        assert len(list(client.list_artifacts("x", include_code=True))) == 2


def test_waiting_polls_until_it_is_over_or_too_late() -> None:
    generating = Answer({**TASK, "status": "generating"})
    script: Script = {f"GET {PATH}": [generating, generating, Answer(TASK)]}
    with StubHttpServer(script) as api, LoopaiClient(api.url) as client:
        assert client.wait_for_task("x").status == "ready"
        assert len(api.asked) == 3
    late = pytest.raises(TimedOut, match=r"generation takes longer than 0\.2 s")
    with StubHttpServer({f"GET {PATH}": generating}) as api, LoopaiClient(api.url) as client, late:
        client.wait_for_task("x", seconds=0.2)


@pytest.mark.parametrize("body", ["<html>", "[1]", "{}"])
def test_foreign_server_is_told_from_loopai(body: str) -> None:
    script: Script = {"GET /api/v1/tasks/x": Answer(body), "GET /health/ready": Answer(body, 503)}
    with StubHttpServer(script) as api, LoopaiClient(api.url) as client:
        with pytest.raises(UnexpectedAnswer, match="is the URL right"):
            client.get_task("x")
        with pytest.raises(UnexpectedAnswer, match="HTTP 503"):
            client.readiness()


def test_readiness_that_fails_says_what_is_missing() -> None:
    checks = {**READINESS["checks"], "executor": {"status": "unhealthy", "detail": "no executor is running"}}
    body = {"status": "unhealthy", "checks": checks}
    with StubHttpServer({"GET /health/ready": Answer(body, 503)}) as api, LoopaiClient(api.url) as client:
        found = client.readiness()
    assert (found.ready, found.missing) == (False, "executor: no executor is running")


def test_nobody_listening_and_bad_urls_are_unreachable() -> None:
    with LoopaiClient(f"http://127.0.0.1:{free_port()}") as client, pytest.raises(Unreachable, match="loopai up"):
        client.generate("x")
    for url in ("http://x:port", "127.0.0.1:80", "ftp://x", "http://"):
        with pytest.raises(Unreachable, match="is no URL"):
            LoopaiClient(url)


def test_server_that_is_gone_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = LoopaiClient(f"http://127.0.0.1:{server.getsockname()[1]}")
        server.close()
        with client, pytest.raises(Unreachable):
            client.get_task("x")


def test_key_is_sent_from_the_argument_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOPAI_API_KEY", "lk_env_1 \n")
    with StubHttpServer({f"GET {PATH}": Answer(TASK)}) as api:
        for key in (None, "lk_own_2", ""):
            with LoopaiClient(api.url, api_key=key) as client:
                client.get_task("x")
        assert [a.headers.get("Authorization") for a in api.asked] == ["Bearer lk_env_1", "Bearer lk_own_2", None]
    with pytest.raises(LoopaiError) as error:
        LoopaiClient(api_key="lk_\u00e9_secret")
    assert "secret" not in str(error.value)
    assert not isinstance(error.value, ApiError)


def test_proxy_of_the_environment_is_not_used_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    with StubHttpServer({"GET /health/ready": Answer(READINESS)}) as api:
        with LoopaiClient(api.url) as client:
            assert client.readiness().ready
        with httpx.Client() as other, pytest.raises(httpx.ConnectError):  # the variables do have an effect
            other.get("http://example.invalid/")
