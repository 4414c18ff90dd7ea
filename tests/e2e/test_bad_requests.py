"""Bad input for every endpoint there is: a typed error, never 500, and the next request is served.

What is written here for version 1 is sent to version 2 too, where a marker does not say that once is enough.
"""

import asyncio
import gzip
import json
from typing import Any
from uuid import uuid4

import httpx
import nats.errors
import pytest

from tests.support.builders import definition_body
from tests.support.product import ECHO, V1, V2, Product, eventually
from tests.support.wire import exchange

NOBODY = "01938f5e-3a6b-7c4d-9e1f-2a3b4c5d6e7f"
EXECUTE = f"{V1}/tasks/nobody-here/execute"
BODIES = (f"{V1}/tasks", EXECUTE, f"{EXECUTE}/batch", f"{V1}/tasks/nobody-here/artifacts")
JSON = {"Content-Type": "application/json"}

NOT_JSON = [
    b"",
    b'{"input": ',
    b"[1, 2]",
    b'"text"',
    b'{"input": NaN}',
    b'{"input": Infinity}',
    b'{"input": 1e999}',
    b'{"input": 1, "input": 2}',
    b'{"input": {"a": 1, "a": 2}}',
    b'{"input": ' + b"7" * 5_000 + b"}",
    b'{"input": ' + b"[" * 100_000,
    rb'{"input": "\ud800"}',
    '{"input": 1}'.encode("utf-16"),
    b'{"input": "\xff\xfe"}',
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs the tests against both versions, but for those that are marked ``one_lane``."""
    if metafunc.definition.get_closest_marker("one_lane") is None:
        metafunc.parametrize("version", [V1, V2], ids=["v1", "v2"])


@pytest.fixture
def version() -> str:
    """What the paths of the version begin with that is asked."""
    return V1


@pytest.fixture(autouse=True)
def _asked_version(product: Product, version: str) -> None:
    """Sends what is meant for version 1 to the one that is asked."""

    async def redirect(request: httpx.Request) -> None:
        path = request.url.raw_path.replace(V1.encode(), version.encode(), 1)
        request.url = request.url.copy_with(raw_path=path)

    product.http.event_hooks = {"request": [redirect]}


def is_error(response: httpx.Response, status: int, code: str | None = None) -> dict[str, Any]:
    """The body of an error, which must have this status and code and the form of the version that was asked."""
    body: dict[str, Any] = response.json()
    assert response.status_code == status, response.text
    if response.request.url.raw_path.startswith(V2.encode()):
        assert body.keys() == {"type", "title", "status", "detail", "instance", "code", "trace_id", "errors"}
        assert response.headers["content-type"] == "application/problem+json"
        body |= {"details": body["errors"], "message": body["detail"]}
    else:
        assert body.keys() == {"code", "message", "details", "trace_id", "timestamp"}
        assert response.headers["content-type"] == "application/json"
    assert body["trace_id"] == response.headers["x-correlation-id"]
    assert "Traceback" not in response.text
    if code is not None:
        assert body["code"] == code
    return body


@pytest.mark.both_lanes
@pytest.mark.parametrize("body", NOT_JSON, ids=range(len(NOT_JSON)))
async def test_a_body_that_is_no_json_object(http: httpx.AsyncClient, body: bytes) -> None:
    for path in BODIES:
        is_error(await http.post(path, content=body, headers=JSON), 400, "malformed_json")


@pytest.mark.both_lanes
@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "application/xml", ""])
async def test_another_content_type(http: httpx.AsyncClient, content_type: str) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    for path in BODIES:
        is_error(await http.post(path, content=b'{"input": 1}', headers=headers), 415, "unsupported_media_type")


@pytest.mark.both_lanes
async def test_a_compressed_body_is_not_unpacked(http: httpx.AsyncClient) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    for path in BODIES:
        response = await http.post(path, content=bomb, headers={**JSON, "Content-Encoding": "gzip"})
        is_error(response, 415, "unsupported_media_type")


@pytest.mark.both_lanes
@pytest.mark.parametrize(("path", "limit"), [(f"{V1}/tasks", 8 << 20), (EXECUTE, 1 << 20)])
@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_over_the_limit(http: httpx.AsyncClient, path: str, limit: int, declared: bool) -> None:
    body = b" " * (limit + 1)

    async def chunks() -> Any:
        for start in range(0, len(body), 1 << 16):
            yield body[start : start + (1 << 16)]

    response = await http.post(path, content=body if declared else chunks(), headers=JSON)
    is_error(response, 413, "body_too_large")


@pytest.mark.both_lanes
@pytest.mark.parametrize(
    "head",
    [
        b"POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        b"POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"NONSENSE\r\n\r\n",
        b"POST /api/v1/tasks HTTP/1.1\r\nHost : x\r\n\r\n",
    ],
)
async def test_broken_http_is_refused_and_the_connection_closed(product: Product, version: str, head: bytes) -> None:
    answer = await exchange(product.base_url, head.replace(V1.encode(), version.encode()))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"code":"validation_error"' in answer


@pytest.mark.both_lanes
async def test_headers_without_end(product: Product) -> None:
    many = b"".join(b"X-%d: y\r\n" % i for i in range(500))
    answer = await exchange(product.base_url, b"GET /health HTTP/1.1\r\nHost: x\r\n" + many + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 431 ")
    large = b"X: " + b"y" * 200_000 + b"\r\n"
    answer = await exchange(product.base_url, b"GET /health HTTP/1.1\r\nHost: x\r\n" + large + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 431 ")


@pytest.mark.one_lane
@pytest.mark.parametrize(
    "start",
    [
        b"POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\n",
        b"POST /api/v2/tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n",
        b"POST /api/v1/tasks/a/execute HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: 500\r\n\r\n",
    ],
)
async def test_a_request_one_byte_a_second_ends_by_the_deadline(product: Product, start: bytes) -> None:
    answer = await exchange(product.base_url, start, drip=b"x" * 60, seconds_between=1.0)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"request_timeout"' in answer


@pytest.mark.both_lanes
@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", f"{V1}/tasks", "GET, POST"),
        ("GET", EXECUTE, "POST"),
        ("POST", f"{V1}/tasks/a/artifacts/1", "GET"),
        ("DELETE", "/health", "GET"),
        ("POST", "/swagger", "GET, HEAD"),
        ("POST", f"{V1}/openapi.json", "GET, HEAD"),
    ],
)
async def test_a_method_that_is_not_offered(http: httpx.AsyncClient, method: str, path: str, allowed: str) -> None:
    response = await http.request(method, path)
    is_error(response, 405, "method_not_allowed")
    assert response.headers["allow"] == allowed


async def test_paths_that_are_not_there(http: httpx.AsyncClient) -> None:
    is_error(await http.get("/nothing"), 404, "not_found")
    is_error(await http.get("/api/v9/tasks"), 404, "unsupported_api_version")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "has space"),
        ("name", "nul\x00"),
        ("name", NOBODY),
        ("name", "x" * 201),
        ("name", ""),
        ("name", None),
        ("description", " "),
        ("description", "x" * 5001),
        ("accuracy_target", 1.5),
        ("accuracy_target", -0.1),
        ("accuracy_target", True),
        ("latency_target_ms", 0),
        ("latency_target_ms", 60_001),
        ("latency_target_ms", 1.5),
        ("sampling_rate", "0.1"),
        ("sampling_rate", 1.1),
        ("isolation", "shared"),
        ("comparison", "similar"),
        ("comparison_threshold", -0.1),
        ("examples", [{"input": {"text": "a"}, "output": "ham"}] * 10_001),
        ("examples", [{"input": {"text": "a"}}]),
        ("input_schema", {"type": "nonsense"}),
        ("input_schema", {"$ref": "http://127.0.0.1/x"}),
        ("input_schema", {"$ref": "file:///etc/passwd"}),
        ("output_schema", {"pattern": "(a+)+$"}),
        ("examples", [{"input": {"text": 1}, "output": "spam"}]),
        ("examples", [{"input": {"text": "a"}, "output": "neither"}]),
        ("id", NOBODY),
        ("status", "ready"),
        ("active_version", 1),
        ("total_versions", 1),
        ("created_at", "2026-01-05T09:00:00Z"),
    ],
)
async def test_each_rule_of_a_task_broken_alone(http: httpx.AsyncClient, field: str, value: Any) -> None:
    body = is_error(await http.post(f"{V1}/tasks", json=definition_body(**{field: value})), 400, "validation_error")
    assert {d["field"].split("/")[0] for d in body["details"]} == {field}


async def test_all_rules_of_a_task_broken_together(http: httpx.AsyncClient) -> None:
    broken = {"name": "a b", "description": "", "accuracy_target": 2, "latency_target_ms": 0, "status": "ready"}
    body = is_error(await http.post(f"{V1}/tasks", json=broken), 400, "validation_error")
    assert {d["field"] for d in body["details"]} == {*broken, "input_schema", "output_schema"}


@pytest.mark.parametrize("key", ["x" * 10_000, "has space", ""])
async def test_a_bad_idempotency_key(http: httpx.AsyncClient, key: str) -> None:
    headers = {"Idempotency-Key": key}
    is_error(await http.post(f"{V1}/tasks", json=definition_body(), headers=headers), 400, "validation_error")


@pytest.mark.parametrize(
    "task", ["*", "%3E", "a%20b", "..%2f..", "%2e%2e%2f", "%0d%0a", "%00", "x" * 10_000, "nobody", "a.b", NOBODY]
)
async def test_a_task_that_is_not_there(http: httpx.AsyncClient, task: str) -> None:
    for step in ("", "/artifacts", "/artifacts/1", "/artifacts/active/code"):
        is_error(await http.get(f"{V1}/tasks/{task}{step}"), 404)


@pytest.mark.both_lanes
@pytest.mark.parametrize("task", ["*", "%3E", "%2e%2e%2f", "%0d%0a", "x" * 10_000, "nobody", "a.b", NOBODY])
async def test_executing_a_task_that_is_not_there(http: httpx.AsyncClient, task: str) -> None:
    is_error(await http.post(f"{V1}/tasks/{task}/execute", json={"input": 1}), 404)


@pytest.mark.both_lanes
@pytest.mark.parametrize(
    "more",
    [
        *({"timeout_ms": v} for v in (0, -1, 60_001, 10**9, "5", True)),
        *({"version": v} for v in (0, -1, 2**63, 1.5, "1")),
        {"unknown": 1},
    ],
)
async def test_bad_options_of_an_execution(http: httpx.AsyncClient, more: dict[str, Any]) -> None:
    body = is_error(await http.post(EXECUTE, json={"input": 1, **more}), 400, "validation_error")
    assert [d["field"] for d in body["details"]] == list(more)


@pytest.mark.both_lanes
async def test_an_input_that_is_missing_or_breaks_the_schema(product: Product) -> None:
    schema = {
        "type": "object",
        "properties": {"text": {"type": "string"}, "n": {"type": ["null", "integer"]}},
        "required": ["text"],
    }
    task = await product.program(ECHO, input_schema=schema)
    path = f"{V1}/tasks/{task['id']}/execute"
    is_error(await product.http.post(path, json={}), 400, "validation_error")
    body = is_error(await product.execute(task["id"], {"text": "canary-7", "n": "canary-8"}), 400)
    assert body["code"] == "input_schema_violation"
    assert [(d["field"], d["code"]) for d in body["details"]] == [("input/n", "type")]
    assert "canary" not in json.dumps(body)
    is_error(await product.execute(task["id"], None), 400, "input_schema_violation")
    assert await product.output(task["id"], {"text": "x", "n": None}) == {"text": "x", "n": None}


@pytest.mark.both_lanes
async def test_null_is_an_input_where_the_schema_says_so(product: Product) -> None:
    task = await product.program(ECHO, input_schema={"type": "null"})
    assert await product.output(task["id"], None) is None


@pytest.mark.both_lanes
async def test_a_version_that_is_not_there(product: Product) -> None:
    task = await product.program(ECHO)
    is_error(await product.execute(task["id"], 1, version=99), 404, "artifact_not_found")
    for version in ("0", "-1", str(2**63), "1.5", "latest", "99"):
        is_error(await product.http.get(f"{V1}/tasks/{task['id']}/artifacts/{version}"), 404, "artifact_not_found")


@pytest.mark.both_lanes
async def test_a_task_id_that_is_not_the_paths(product: Product, version: str) -> None:
    task = await product.program(ECHO)
    code = "task_id_mismatch" if version == V1 else "validation_error"  # version 2 has no such field
    is_error(await product.execute(task["id"], 1, task_id=str(uuid4())), 400, code)
    assert (await product.execute(task["id"], 1, task_id=task["id"])).is_success == (version == V1)


async def test_nothing_is_published_for_a_task_that_cannot_be(product: Product) -> None:
    requests = [
        *(("GET", step) for step in ("", "/events", "/executions", "/activations", "/artifacts", "/artifacts/1/code")),
        *(
            ("POST", step)
            for step in ("/execute", "/execute/batch", "/generate", "/artifacts", "/artifacts/1/activate")
        ),
        *(("PATCH", ""), ("DELETE", "")),
    ]
    sent = {"input": 1, "items": [{"id": "a", "input": 1}], "code": ECHO}
    subjects = ("tasks.>", "artifacts.>", "executions.>", "programs.>", "execute.>", "frames")
    heard = [await product.nats.subscribe(f"loopai.rpc.v1.{subject}") for subject in subjects]
    await product.nats.flush()
    for method, step in requests:
        fields = {"/execute": ("input",), "/execute/batch": ("items",), "/artifacts": ("code",)}.get(step, ())
        body = {field: sent[field] for field in fields} if method in {"POST", "PATCH"} else None
        for task in ("*", "%3E", "a%20b", "%2e%2e%2f", "%0d%0a", "%00", "x" * 201):
            is_error(await product.http.request(method, f"{V1}/tasks/{task}{step}", json=body), 404)
    await product.nats.flush()
    assert [subscription.pending_msgs for subscription in heard] == [0] * len(heard)
    for subscription in heard:
        await subscription.unsubscribe()


@pytest.mark.both_lanes
async def test_a_task_that_does_not_run_says_why(product: Product) -> None:
    waiting = await product.create(input_schema=True, output_schema=True, examples=[])
    is_error(await product.execute(waiting["id"], 1), 409, "task_not_ready")
    assert (await product.http.delete(f"{V1}/tasks/{waiting['id']}")).status_code == 204

    async def told() -> bool:  # executors learn of it by an event
        return (await product.execute(waiting["id"], 1)).status_code != 409

    await eventually(told)
    is_error(await product.execute(waiting["id"], 1), 410, "task_archived")


@pytest.mark.parametrize("version_named", ["0", "-1", str(2**63), "1.5", "latest", "active"])
async def test_a_version_that_cannot_be_activated(http: httpx.AsyncClient, version_named: str) -> None:
    response = await http.post(f"{V1}/tasks/nobody/artifacts/{version_named}/activate")
    is_error(response, 404, "artifact_not_found")


async def test_a_change_of_what_was_changed_since(product: Product) -> None:
    task = await product.program(ECHO)
    stale = {"If-Match": f'"{task["revision"]}"'}
    response = await product.http.patch(f"{V1}/tasks/{task['id']}", json={"description": "x"}, headers=stale)
    is_error(response, 412, "precondition_failed")


@pytest.mark.parametrize(
    ("code", "status", "error_code"),
    [
        ("", 400, "validation_error"),
        ("#" * (2 << 20), 413, "body_too_large"),
        ("def run(input):\n    return '\x00'\n", 400, "program_rejected"),
        ("def run(:", 400, "program_rejected"),
        ("def other(input): ...", 400, "program_rejected"),
        ("def run(input):\n    return 'neither'\n", 400, "program_rejected"),
    ],
    ids=["empty", "large", "nul", "syntax", "no entry point", "wrong on every example"],
)
async def test_a_program_that_is_no_good(product: Product, code: str, status: int, error_code: str) -> None:
    task = await product.create()
    body = is_error(await product.http.post(f"{V1}/tasks/{task['id']}/artifacts", json={"code": code}), status)
    assert body["code"] == error_code
    assert bool(body["details"]) == (status == 400)


@pytest.mark.parametrize(
    ("items", "field"),
    [
        ([], "items"),
        ([{"id": str(n), "input": n} for n in range(10_001)], "items"),
        ([{"id": "a", "input": 1}] * 2, "items/1/id"),
    ],
    ids=["none", "too many", "twice"],
)
async def test_a_batch_that_is_none(http: httpx.AsyncClient, items: list[Any], field: str) -> None:
    body = is_error(await http.post(f"{EXECUTE}/batch", json={"items": items}), 400, "validation_error")
    assert [d["field"] for d in body["details"]] == [field]


@pytest.mark.parametrize("limit", ["0", "-1", "1000000000", "x"])
async def test_a_limit_that_is_none(http: httpx.AsyncClient, limit: str) -> None:
    for listed in ("", "/nobody/artifacts", "/nobody/executions", "/nobody/activations"):
        body = is_error(await http.get(f"{V1}/tasks{listed}", params={"limit": limit}), 400, "validation_error")
        assert [d["field"] for d in body["details"]] == ["limit"]


async def test_forged_cursors_and_unknown_filters(product: Product) -> None:
    task = (await product.program(ECHO))["id"]
    for listed, query in (
        *((path, "cursor") for path in ("", f"/{task}/artifacts", f"/{task}/executions", f"/{task}/activations")),
        *((path, "status") for path in ("", f"/{task}/executions")),
    ):
        response = await product.http.get(f"{V1}/tasks{listed}", params={query: "forged"})
        assert [d["field"] for d in is_error(response, 400, "validation_error")["details"]] == [query]


@pytest.mark.one_lane
async def test_metrics_stay_bounded_whatever_is_asked_for(http: httpx.AsyncClient) -> None:
    async def series() -> int:
        text = (await http.get("/metrics")).text
        return sum(1 for line in text.splitlines() if line and not line.startswith("#"))

    await http.get("/nothing")
    await http.get(f"{V1}/tasks/one")
    await series()  # the page counts itself from now on
    before = await series()
    for _ in range(10):
        await asyncio.gather(*(http.get(f"/{uuid4().hex}") for _ in range(50)))
        await asyncio.gather(*(http.get(f"{V1}/tasks/{uuid4().hex}") for _ in range(50)))
    assert await series() <= before + 5


@pytest.mark.one_lane
@pytest.mark.parametrize("body", [b"", b"not json", b"[]", b'{"input":', b"\xff", b'{"task": 1}'])
@pytest.mark.parametrize(
    "subject",
    [
        "loopai.rpc.v1.tasks.create",
        "loopai.rpc.v1.tasks.get",
        "loopai.rpc.v1.artifacts.publish",
        "loopai.rpc.v1.programs.check",
        "loopai.rpc.v1.execute.nobody.active",
        "loopai.rpc.v1.execute.nobody.0",
        "loopai.rpc.v1.frames",
    ],
)
async def test_broken_messages_on_the_bus_are_typed_errors(product: Product, subject: str, body: bytes) -> None:
    reply = await product.request(subject, body)
    assert (reply.headers or {}).get("Nats-Service-Error-Code"), reply.data
    assert json.loads(reply.data)["code"] in {"validation_error", "malformed_json", "artifact_not_found"}


@pytest.mark.one_lane
@pytest.mark.parametrize("reply", ["$JS.ACK.forged", "$JS.ACK.a.b.1.1.1.1.1", "loopai.rpc.v1.tasks.get", "_INBOX.*"])
async def test_a_forged_reply_subject_harms_nobody_else(product: Product, reply: str) -> None:
    for subject in ("loopai.rpc.v1.tasks.get", "loopai.rpc.v1.execute.nobody.active", "loopai.rpc.v1.frames"):
        await product.nats.publish(subject, b'{"task": "nobody"}', reply=reply)
    await product.nats.flush()
    for subject in ("loopai.rpc.v1.tasks.get", "loopai.rpc.v1.execute.nobody.active"):
        answer = await product.request(subject, b'{"task": "nobody", "input": 1}')
        assert json.loads(answer.data)["code"] == "task_not_found"


@pytest.mark.one_lane
async def test_a_message_too_large_for_the_bus_ends_no_connection_of_ours(product: Product) -> None:
    with pytest.raises(nats.errors.MaxPayloadError):
        await product.request("loopai.rpc.v1.tasks.get", b" " * ((8 << 20) + 1))
    is_error(await product.http.get(f"{V1}/tasks/nobody"), 404, "task_not_found")


@pytest.mark.parametrize("depth", [50, 300, 900, 990, 5_000])
@pytest.mark.parametrize("field", ["input_schema", "output_schema", "examples"])
async def test_a_definition_nested_deeply_is_a_typed_error(http: httpx.AsyncClient, depth: int, field: str) -> None:
    nested = "[" * depth + "]" * depth
    if field == "examples":
        nested = f'[{{"input": {nested}, "output": {nested}}}]'
    else:
        nested = '{"items": ' * depth + "{}" + "}" * depth if depth > 50 else '{"type": ' + nested + "}"
    body = {k: v for k, v in definition_body().items() if k != field}
    text = json.dumps(body)[:-1] + f', "{field}": {nested}}}'
    response = await http.post(f"{V1}/tasks", content=text.encode(), headers=JSON)
    assert response.json()["code"] in {"validation_error", "malformed_json"}
    assert response.status_code == 400


@pytest.mark.one_lane
@pytest.mark.parametrize("depth", [50, 300, 900, 990])
async def test_an_input_nested_deeply_is_answered(product: Product, depth: int) -> None:
    anything = await product.program("def run(input):\n    return 1\n", sampling_rate=0)
    typed = await product.program("def run(input):\n    return 1\n", input_schema={"type": "object"}, sampling_rate=0)
    body = f'{{"input": {"[" * depth + "]" * depth}}}'.encode()
    for _ in range(10):
        response = await product.http.post(f"{V1}/tasks/{anything['id']}/execute", content=body, headers=JSON)
        assert (response.status_code, response.json().get("output")) == (200, 1) or (
            response.status_code,
            response.json()["code"],
        ) == (400, "malformed_json")
        response = await product.http.post(f"{V1}/tasks/{typed['id']}/execute", content=body, headers=JSON)
        assert response.status_code == 400
    assert await product.output(typed["id"], {}) == 1


@pytest.mark.both_lanes
@pytest.mark.parametrize("accept", ["text/html", "application/json;q=0, text/html"])
async def test_a_client_that_accepts_nothing_of_what_there_is(product: Product, accept: str) -> None:
    headers = {"Accept": accept}
    path = f"{V1}/tasks/nobody-here/execute"
    is_error(await product.http.post(path, json={"input": 1}, headers=headers), 406, "not_acceptable")
    is_error(await product.http.get(f"{V1}/tasks", headers=headers), 406, "not_acceptable")


async def test_a_client_accepts_what_this_operation_does_not_give(http: httpx.AsyncClient) -> None:
    path = f"{V1}/tasks/nobody-here/artifacts/1/code"
    is_error(await http.get(path, headers={"Accept": "application/json"}), 406, "not_acceptable")
    is_error(await http.get(path, headers={"Accept": "text/x-python"}), 404, "task_not_found")
