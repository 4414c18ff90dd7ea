"""Two versions of the API on the same use cases: what differs between them, and how an old one says that it is old."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.support.builders import definition_body
from tests.support.product import V1, V2, Product
from tests.support.service_process import ServiceProcess
from tests.support.stack import LocalStack
from tests.support.wire import exchange

pytestmark = pytest.mark.both_lanes

FICKLE = """
def run(input):
    if input == "raise":
        raise ValueError("asked to")
    while input == "loop":
        pass
    return input
"""
JSON = {"Content-Type": "application/json"}
PROBLEM_KEYS = ["type", "title", "status", "detail", "instance", "code", "trace_id", "errors"]


def is_problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    body: dict[str, Any] = response.json()
    assert (response.status_code, body["status"], body["code"]) == (status, status, code), response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert [key for key in body if key != "execution"] == PROBLEM_KEYS
    assert body["type"] == f"/docs/errors#{code}"
    assert body["instance"] == response.request.url.raw_path.decode().partition("?")[0]
    assert body["trace_id"] == response.headers["x-correlation-id"]
    return body


@pytest.fixture
async def fickle(product: Product) -> str:
    task: str = (await product.program(FICKLE, sampling_rate=0))["id"]
    return task


async def test_a_program_that_fails_is_an_outcome_in_v1_and_a_problem_in_v2(product: Product, fickle: str) -> None:
    for value, status, code, reason in (
        ("raise", 422, "program_error", "error"),
        ("loop", 504, "program_timeout", "timeout"),
    ):
        sent = {"input": value, "timeout_ms": 100}
        old = await product.http.post(f"{V1}/tasks/{fickle}/execute", json=sent)
        assert (old.status_code, old.json()["status"]) == (200, reason)
        new = is_problem(await product.http.post(f"{V2}/tasks/{fickle}/execute", json=sent), status, code)
        assert new["execution"].keys() == old.json().keys()
        assert new["execution"]["error_code"] == old.json()["error_code"]
        assert new["detail"] == new["execution"]["error_message"] == old.json()["error_message"]


async def test_success_is_the_same_in_both(product: Product, fickle: str) -> None:
    for version in (V1, V2):
        response = await product.http.post(f"{version}/tasks/{fickle}/execute", json={"input": [1]})
        assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
        assert (response.json()["status"], response.json()["output"]) == ("success", [1])


async def test_v2_takes_no_task_id(product: Product, fickle: str) -> None:
    response = await product.http.post(f"{V2}/tasks/{fickle}/execute", json={"input": 1, "task_id": fickle})
    assert [e["field"] for e in is_problem(response, 400, "validation_error")["errors"]] == ["task_id"]
    assert (await product.execute(fickle, 1, task_id=fickle)).status_code == 200


async def test_a_batch_of_v2_keeps_the_status_of_each_item(product: Product, fickle: str) -> None:
    body = {"items": [{"id": "a", "input": 1}, {"id": "b", "input": "raise"}]}
    response = await product.http.post(f"{V2}/tasks/{fickle}/execute/batch", json=body)
    assert [r["status"] for r in response.json()["results"]] == ["success", "error"]
    is_problem(await product.http.post(f"{V2}/tasks/nobody/execute/batch", json=body), 404, "task_not_found")
    lines: dict[str, Any] = {
        "content": b'{"id": "a", "input": 1}\n',
        "headers": {"Content-Type": "application/x-ndjson"},
    }
    is_problem(await product.http.post(f"{V2}/tasks/nobody/execute/batch", **lines), 404, "task_not_found")


@pytest.mark.parametrize(
    ("method", "path", "sent", "status", "code"),
    [
        ("POST", "/tasks", {"content": b"{", "headers": JSON}, 400, "malformed_json"),
        ("POST", "/tasks", {"json": {}}, 400, "validation_error"),
        ("POST", "/tasks/a/execute", {"content": b"{", "headers": JSON}, 400, "malformed_json"),
        ("POST", "/tasks/a/execute", {"content": b"1"}, 415, "unsupported_media_type"),
        ("POST", "/tasks/a/execute", {"content": b" " * 1048577, "headers": JSON}, 413, "body_too_large"),
        ("POST", "/tasks/nobody/execute", {"json": {"input": 1}}, 404, "task_not_found"),
        ("GET", "/tasks", {"params": {"limit": "0"}}, 400, "validation_error"),
        ("GET", "/tasks/nobody", {}, 404, "task_not_found"),
        ("GET", "/nothing", {}, 404, "not_found"),
        ("GET", "/tasks/a/execute", {}, 405, "method_not_allowed"),
    ],
    ids=range(10),
)  # fmt: skip
async def test_every_error_of_v2_is_a_problem(
    product: Product, method: str, path: str, sent: dict[str, Any], status: int, code: str
) -> None:
    problem = is_problem(await product.http.request(method, f"{V2}{path}", **sent), status, code)
    assert bool(problem["errors"]) == (code == "validation_error")


@pytest.mark.parametrize(
    ("head", "status", "code"),
    [
        (b"Host: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400, b"validation_error"),
        (b"".join(b"X-%d: y\r\n" % i for i in range(500)) + b"\r\n", 431, b"headers_too_large"),
    ],
    ids=range(2),
)
async def test_what_the_wire_refuses_has_the_form_of_the_version(
    product: Product, head: bytes, status: int, code: bytes
) -> None:
    for path, kind, member in (
        (b"/api/v2/tasks", b"problem+json", b'"status":%d' % status),
        (b"/x", b"json", b'"details":'),
    ):
        answer = await exchange(product.base_url, b"POST %b HTTP/1.1\r\n%b" % (path, head))
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert b"content-type: application/%b\r\n" % kind in answer
        assert b'"code":"%b"' % code in answer
        assert member in answer


async def test_a_version_that_is_not_there_is_told_so_in_the_first_form(product: Product) -> None:
    for method in ("GET", "POST"):
        response = await product.http.request(method, "/api/v3/tasks")
        assert (response.status_code, response.json()["code"]) == (404, "unsupported_api_version")
        assert "v1, v2" in response.json()["message"]


async def test_locations_stay_in_the_version(product: Product) -> None:
    task = await product.create()
    headers = {"Idempotency-Key": task["id"]}
    body = {k: task[k] for k in ("description", "input_schema", "output_schema")}
    response = await product.http.post(f"{V2}/tasks", json={**body, "name": f"copy-{task['name']}"}, headers=headers)
    assert response.headers["location"] == f"{V2}/tasks/{response.json()['id']}"


async def test_execute_says_where_the_time_went(product: Product, fickle: str) -> None:
    for version in (V1, V2):
        for value in (1, "raise"):
            response = await product.http.post(f"{version}/tasks/{fickle}/execute", json={"input": value})
            figures = dict(part.split(";dur=") for part in response.headers["server-timing"].split(", "))
            assert figures.keys() == {"queue", "run"}
            assert float(figures["queue"]) > 0
            execution = response.json().get("execution", response.json())
            assert float(figures["run"]) == execution["latency_ms"]


async def test_data_is_kept_by_no_cache_and_taken_for_nothing_else(product: Product, fickle: str) -> None:
    for version in (V1, V2):
        for path in ("/tasks", "/tasks/nobody", f"/tasks/{fickle}/artifacts", "/health"):
            response = await product.http.get(f"{version}{path}")
            assert response.headers["cache-control"] == "no-store", path
            assert response.headers["x-content-type-options"] == "nosniff", path
        response = await product.http.post(f"{version}/tasks/{fickle}/execute", json={"input": 1})
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["x-content-type-options"] == "nosniff"


async def test_the_trace_of_the_caller_goes_on_to_the_events(product: Product) -> None:
    trace = f"00-{uuid4().hex}-{uuid4().hex[:16]}-01"
    heard = await product.nats.subscribe("loopai.evt.v1.task.created")
    await product.nats.flush()
    body = definition_body(name=f"traced-{uuid4().hex[:8]}")
    created = await product.http.post(f"{V2}/tasks", json=body, headers={"traceparent": trace})
    async with asyncio.timeout(30):
        async for message in heard.messages:
            if json.loads(message.data)["task_id"] == created.json()["id"]:
                assert (message.headers or {})["traceparent"] == trace
                break
    await heard.unsubscribe()


async def test_every_type_of_a_problem_is_explained_where_it_points(product: Product) -> None:
    problem = (await product.http.get(f"{V2}/tasks/nobody")).json()
    page, _, anchor = problem["type"].partition("#")
    response = await product.http.get(page)
    assert response.headers["content-type"].startswith("text/html")
    assert f'id="{anchor}"' in response.text
    assert problem["title"] in response.text


@pytest.fixture(scope="module", params=["on", "off"])
def deprecating_api(request: pytest.FixtureRequest, stack: LocalStack, tmp_path_factory: Any) -> Iterator[str]:
    environment = {
        "LOOPAI_NATS_URL": stack.nats_url,
        "LOOPAI_API_FAST_LANE": request.param,
        "LOOPAI_API_DEPRECATED_VERSIONS": json.dumps(
            {"v1": {"since": "2027-01-01T00:00:00Z", "sunset": "2028-07-01T00:00:00Z"}}
        ),
    }
    log: Path = tmp_path_factory.mktemp("deprecating") / "log"
    with ServiceProcess("loopai_api.main", "LOOPAI_API_", log, environment) as api:
        yield api.url


async def test_every_response_of_a_deprecated_version_says_so(deprecating_api: str) -> None:
    expected = {
        "deprecation": "@1798761600",
        "sunset": "Sat, 01 Jul 2028 00:00:00 GMT",
        "link": '</api/v2/openapi.json>; rel="successor-version"',
    }
    async with httpx.AsyncClient(base_url=deprecating_api) as http:
        for path in ("/tasks", "/health", "/nothing", "/openapi.json"):
            old, new = await http.get(V1 + path), await http.get(V2 + path)
            assert {name: old.headers.get(name) for name in expected} == expected
            assert not expected.keys() & new.headers.keys()
        old = await http.post(f"{V1}/tasks/nobody/execute", json={"input": 1})
        assert (old.status_code, {name: old.headers.get(name) for name in expected}) == (404, expected)
        document = (await http.get("/openapi.json")).json()
        flags = {
            path[:8]: {operation.get("deprecated", False) for operation in methods.values()}
            for path, methods in document["paths"].items()
        }
        assert (flags["/api/v1/"], flags["/api/v2/"], flags["/health"]) == ({True}, {False}, {False})
        assert (await http.get(expected["link"].split(">")[0][1:])).status_code == 200
    refused = await exchange(deprecating_api, b"GET /api/v1/tasks HTTP/1.1\r\nHost : x\r\n\r\n")
    assert b"deprecation: @1798761600\r\n" in refused
