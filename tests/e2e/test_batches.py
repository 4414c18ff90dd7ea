"""Batches over HTTP: as one JSON object, and as a stream of lines that is answered while it is sent."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.e2e.test_bad_requests import is_error
from tests.support.product import ECHO, V1, Product, eventually

pytestmark = pytest.mark.both_lanes

NDJSON = {"Content-Type": "application/x-ndjson"}
RESULT_KEYS = [
    "id",
    "status",
    "output",
    "error_code",
    "error_message",
    "latency_ms",
    "execution_id",
    "sampled_for_validation",
]
FICKLE = """
def run(input):
    if input == "raise":
        raise ValueError("asked to")
    while input == "loop":
        pass
    return input
"""
NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def path_of(task: str) -> str:
    return f"{V1}/tasks/{task}/execute/batch"


def items(*inputs: Any) -> list[dict[str, Any]]:
    return [{"id": f"i-{number}", "input": value} for number, value in enumerate(inputs)]


def lines(*values: Any) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def answers(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


@pytest.fixture
async def fickle(product: Product) -> str:
    task: str = (await product.program(FICKLE, sampling_rate=0))["id"]
    return task


async def test_a_batch_is_answered_in_the_order_of_its_items(product: Product) -> None:
    task = await product.program(ECHO, sampling_rate=0)
    body = {"items": items(*range(1000))}
    body["items"][7]["force_validation"] = True
    response = await product.http.post(path_of(task["name"]), json=body)
    assert response.status_code == 200, response.text
    answer = response.json()
    results = answer.pop("results")
    assert [r["id"] for r in results] == [f"i-{n}" for n in range(1000)]
    assert [r["output"] for r in results] == list(range(1000))
    assert {tuple(r) for r in results} == {tuple(RESULT_KEYS)}
    assert [r["id"] for r in results if r["sampled_for_validation"]] == ["i-7"]
    assert len({r["execution_id"] for r in results}) == 1000
    assert (answer["task_id"], answer["version"]) == (task["id"], 1)
    assert (answer["total_items"], answer["success_count"], answer["failure_count"]) == (1000, 1000, 0)
    assert 0 < answer["avg_latency_ms"] < answer["total_duration_ms"]
    assert answer["started_at"] <= answer["completed_at"]
    assert answer.keys() == {
        *("batch_id", "task_id", "version", "total_items", "success_count", "failure_count"),
        *("total_duration_ms", "avg_latency_ms", "started_at", "completed_at"),
    }


async def test_an_item_that_fails_fails_alone(product: Product, fickle: str) -> None:
    body = {"items": items(1, "raise", "loop", 2), "timeout_ms": 200}
    answer = (await product.http.post(path_of(fickle), json=body)).json()
    assert [r["status"] for r in answer["results"]] == ["success", "error", "timeout", "success"]
    assert [r["error_code"] for r in answer["results"]] == [None, "program_raised", "limit_time", None]
    assert (answer["success_count"], answer["failure_count"]) == (2, 2)


@pytest.mark.parametrize("bad_first", [False, True])
async def test_an_input_that_breaks_the_schema_fails_alone(product: Product, bad_first: bool) -> None:
    task = await product.program("def run(input):\n    return input['n']\n", input_schema=NUMBER)
    good, bad = {"n": 1}, {"n": "canary"}
    inputs = [bad, good] if bad_first else [good, bad, good]
    response = await product.http.post(path_of(task["id"]), json={"items": items(*inputs)})
    assert response.status_code == 200, response.text
    for value, result in zip(inputs, response.json()["results"], strict=True):
        if value is good:
            assert (result["status"], result["output"]) == ("success", 1)
        else:
            assert (result["status"], result["error_code"]) == ("error", "input_schema_violation")
            assert result["output"] is result["latency_ms"] is result["execution_id"] is None
            assert "input/n must be of type integer (type)" in result["error_message"]
    assert "canary" not in response.text
    assert response.json()["version"] == 1


async def test_a_batch_stops_on_the_first_error_when_asked_to(product: Product, fickle: str) -> None:
    body = {"items": items(0, "raise", *range(2, 50)), "stop_on_first_error": True, "max_concurrency": 1}
    answer = (await product.http.post(path_of(fickle), json=body)).json()
    assert [r["error_code"] for r in answer["results"]] == [None, "program_raised", *["not_run"] * 48]
    assert (answer["success_count"], answer["failure_count"]) == (1, 49)


async def test_a_batch_runs_the_version_that_it_names(product: Product) -> None:
    task = await product.program("def run(input):\n    return 'one'\n")
    await product.publish(task["id"], "def run(input):\n    return 'two'\n")
    for version, said in ((None, "two"), (1, "one"), (2, "two")):
        response = await product.http.post(path_of(task["id"]), json={"items": items(0, 0), "version": version})
        assert [r["output"] for r in response.json()["results"]] == [said, said]
        assert response.json()["version"] == (version or 2)
        query = {} if version is None else {"version": version}
        response = await product.http.post(
            path_of(task["id"]), params=query, content=lines(*items(0, 0)), headers=NDJSON
        )
        assert [a["output"] for a in answers(response)] == [said, said]


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"items"}),
        ({"items": []}, {"items"}),
        ({"items": items(*range(10_001))}, {"items"}),
        ({"items": items(1) * 2}, {"items/1/id"}),
        ({"items": [{"id": "", "input": 1}, {"id": "x" * 201, "input": 1}]}, {"items/0/id", "items/1/id"}),
        ({"items": [{"id": 1, "input": 1}, {"id": "b"}]}, {"items/0/id", "items/1/input"}),
        ({"items": items("x" * (1 << 20))}, {"items/0/input"}),
        (
            {"items": items(1) * 2, "version": 0, "max_concurrency": 101, "timeout_ms": 0, "unknown": 1},
            {"items/1/id", "version", "max_concurrency", "timeout_ms", "unknown"},
        ),
        (
            {"items": items(1), "max_concurrency": 0, "stop_on_first_error": 1},
            {"max_concurrency", "stop_on_first_error"},
        ),
    ],
    ids=range(9),
)
async def test_every_broken_rule_of_a_batch_is_told(http: httpx.AsyncClient, body: Any, fields: set[str]) -> None:
    told = is_error(await http.post(path_of("nobody"), json=body), 400, "validation_error")
    assert {d["field"] for d in told["details"]} == fields


async def test_a_batch_that_is_no_json_or_too_large_or_of_another_type(http: httpx.AsyncClient) -> None:
    json_type = {"Content-Type": "application/json"}
    for body in (b"", b'{"items": [', b'{"items": [{"id": "a", "input": {"k": 1, "k": 2}}]}', b"[]", b"[" * 100_000):
        is_error(await http.post(path_of("nobody"), content=body, headers=json_type), 400, "malformed_json")
    large = b" " * (16 * 1024 * 1024 + 1)
    is_error(await http.post(path_of("nobody"), content=large, headers=json_type), 413, "body_too_large")
    other = {"Content-Type": "text/plain"}
    is_error(await http.post(path_of("nobody"), content=b"x", headers=other), 415, "unsupported_media_type")
    packed = {**NDJSON, "Content-Encoding": "gzip"}
    is_error(await http.post(path_of("nobody"), content=b"x", headers=packed), 415, "unsupported_media_type")


async def test_what_keeps_the_program_from_running_is_an_error_of_the_request(product: Product) -> None:
    task = await product.program(ECHO)
    body = {"items": items(1, 2)}
    is_error(await product.http.post(path_of("nobody"), json=body), 404, "task_not_found")
    is_error(await product.http.post(path_of(task["id"]), json={**body, "version": 9}), 404, "artifact_not_found")
    streamed: dict[str, Any] = {"content": lines(*items(1, 2)), "headers": NDJSON}
    is_error(await product.http.post(path_of("nobody"), **streamed), 404, "task_not_found")
    is_error(await product.http.post(path_of(task["id"]), params={"version": 9}, **streamed), 404, "artifact_not_found")


async def test_options_are_refused_where_they_do_not_belong(http: httpx.AsyncClient) -> None:
    body = is_error(await http.post(path_of("nobody"), params={"version": 1}, json={"items": items(1)}), 400)
    assert [d["field"] for d in body["details"]] == ["version"]
    wrong: dict[str, str | int] = {"version": 0, "timeout_ms": "x", "max_concurrency": 101, "unknown": 1}
    body = is_error(await http.post(path_of("nobody"), params=wrong, content=lines(*items(1)), headers=NDJSON), 400)
    assert {d["field"] for d in body["details"]} == wrong.keys()


async def test_a_stream_of_many_lines_is_answered_in_order(product: Product, fickle: str) -> None:
    async def sent() -> AsyncIterator[bytes]:
        for start in range(0, 20_000, 500):
            yield lines(*({"id": str(n), "input": n} for n in range(start, start + 500)))

    found = answers(await product.http.post(path_of(fickle), content=sent(), headers=NDJSON))
    assert [(a["id"], a["output"], a["line"]) for a in found] == [(str(n), n, n + 1) for n in range(20_000)]
    assert list(found[0]) == [*RESULT_KEYS, "line"]


async def test_a_broken_line_fails_alone(product: Product, fickle: str) -> None:
    sent = [
        b'{"id": "a", "input": 1}',
        b'{"id": "b", "input": ',
        b"",
        b'{"id": "c", "input": 1, "unknown": 1}\r',
        b'{"id": 5, "input": 1}',
        b'{"id": "d", "input": {"k": 1, "k": 2}}',
        b'{"id": "e", "input": "' + b"x" * (1 << 20) + b'"}',
        b'["f"]',
        b'{"id": "\xff", "input": 1}',
        b'{"id": "raise", "input": "raise"}',
        b'{"id": "z", "input": 2}',  # the last line may lack its end
    ]
    response = await product.http.post(path_of(fickle), content=b"\n".join(sent), headers=NDJSON)
    assert [(a["line"], a["id"], a["status"], a["error_code"]) for a in answers(response)] == [
        (1, "a", "success", None),
        (2, None, "error", "malformed_json"),
        (4, "c", "error", "validation_error"),
        (5, None, "error", "validation_error"),
        (6, None, "error", "malformed_json"),
        (7, None, "error", "body_too_large"),
        (8, None, "error", "malformed_json"),
        (9, None, "error", "malformed_json"),
        (10, "raise", "error", "program_raised"),
        (11, "z", "success", None),
    ]
    assert "unknown" in answers(response)[2]["error_message"]


async def test_a_stream_without_lines_is_refused(product: Product, fickle: str) -> None:
    is_error(await product.http.post(path_of(fickle), content=b"\n \n", headers=NDJSON), 400, "validation_error")


class Conversation:
    """A streamed batch over a bare connection, so that both directions are the test's own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def begin(cls, product: Product, task: str, query: str = "") -> "Conversation":
        parts = urlsplit(product.base_url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        head = f"POST {path_of(task)}{query} HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\n"
        writer.write(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        return cls(reader, writer)

    def say(self, data: bytes) -> None:
        self.writer.write(b"%x\r\n%b\r\n" % (len(data), data))

    async def hear_head(self) -> None:
        async with asyncio.timeout(30):
            head = await self.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head

    async def hear(self) -> bytes:
        """One chunk; empty at the end."""
        async with asyncio.timeout(60):
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            return (await self.reader.readexactly(size + 2))[:-2]


async def test_each_line_is_answered_before_the_next_one_is_sent(product: Product, fickle: str) -> None:
    talk = await Conversation.begin(product, fickle)
    for number in range(5):
        talk.say(lines({"id": str(number), "input": number}))
        if number == 0:
            await talk.hear_head()
        assert json.loads(await talk.hear())["output"] == number
    talk.writer.write(b"0\r\n\r\n")
    assert await talk.hear() == b""
    talk.writer.close()


@pytest.mark.one_lane
async def test_a_stream_may_last_longer_than_a_request_but_not_be_silent_for_as_long(
    product: Product, fickle: str
) -> None:
    talk = await Conversation.begin(product, fickle)
    loop = asyncio.get_running_loop()
    started = loop.time()
    number = 0
    while loop.time() - started < 14:  # a request has 10 seconds
        talk.say(lines({"id": str(number), "input": number}))
        if number == 0:
            await talk.hear_head()
        assert json.loads(await talk.hear())["output"] == number
        number += 1
        await asyncio.sleep(2)
    async with asyncio.timeout(60):
        assert await talk.reader.read() == b"", "the silent connection must be closed, with nothing more said"
    assert loop.time() - started < 60
    talk.writer.close()


@pytest.mark.one_lane
async def test_a_client_that_does_not_read_is_not_read_from(product: Product, fickle: str) -> None:
    talk = await Conversation.begin(product, fickle)
    line = lines({"id": "x", "input": "y" * 100_000})
    written = 0

    async def fill() -> None:
        nonlocal written
        while True:
            talk.say(line)
            await talk.writer.drain()
            written += 1

    filling = asyncio.create_task(fill())
    seen = -1
    async with asyncio.timeout(60):
        while written != seen:  # until nothing went through for a while
            seen = written
            await asyncio.sleep(2)
    assert 0 < written < 1000, "100 MB went into a stream that nobody reads"
    assert await product.output(fickle, 5) == 5
    filling.cancel()
    await asyncio.gather(filling, return_exceptions=True)
    talk.writer.transport.abort()


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_client_that_leaves_ends_the_work(product: Product, fickle: str, streamed: bool) -> None:
    async def ended() -> float:
        text = (await product.http.get("/metrics")).text
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("loopai_batch_items_total"))

    count = 400
    looping = [{"id": str(n), "input": "loop"} for n in range(count)]
    before = await ended()
    parts = urlsplit(product.base_url)
    if streamed:
        talk = await Conversation.begin(product, fickle, "?timeout_ms=100&max_concurrency=2")
        talk.say(lines(*looping))
        writer = talk.writer
    else:
        body = json.dumps({"items": looping, "timeout_ms": 100, "max_concurrency": 2}).encode()
        _, writer = await asyncio.open_connection(parts.hostname, parts.port)
        head = f"POST {path_of(fickle)} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    await writer.drain()

    async def begun() -> bool:
        return await ended() >= before + 2

    await eventually(begun, 60)
    writer.transport.abort()
    seen = -1.0
    async with asyncio.timeout(60):
        while (now := await ended()) != seen:
            seen = now
            await asyncio.sleep(2)
    assert seen < before + count / 2, "the items went on without anybody to tell"


async def test_batches_are_documented(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    operation = document["paths"]["/api/v1/tasks/{task}/execute/batch"]["post"]
    assert operation["requestBody"]["content"].keys() == {"application/json", "application/x-ndjson"}
    assert operation["responses"]["200"]["content"].keys() == {"application/json", "application/x-ndjson"}
    for name in ("ExecuteBatchRequest", "ExecuteBatchResponse", "BatchItemRequest", "BatchLineResponse"):
        assert document["components"]["schemas"][name]["examples"], name
