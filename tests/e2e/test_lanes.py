"""Both lanes answer the same bytes, in the order of the requests, however these arrive."""

import asyncio
import json
import random
import re
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.e2e.test_bad_requests import NOBODY, NOT_JSON
from tests.support.product import ECHO, V1, V2, Product

# Any preference sends a request through the ordinary lane; this one is unknown, and so means nothing.
ORDINARY = {"Prefer": "the-ordinary-lane"}
JSON = {"Content-Type": "application/json"}
_VARYING = re.compile(
    rb'("(?:execution_id|trace_id|correlation_id|executed_at|timestamp)":"[^"]*"|"latency_ms":[0-9.e-]+)'
)

BODIES: list[bytes] = [
    *NOT_JSON,
    b'{"input": 1}',
    b'{"input":null}',
    b'{ "input" : {"b": 1.50, "a":  [1]} , "timeout_ms": 60000}',
    '{"input": "ümläut 😀 \\u00e9"}'.encode(),
    b'{"input": 1, "version": 99}',
    b'{"input": 1, "version": 0}',
    b'{"input": 1, "timeout_ms": true, "unknown": 1}',
    b'{"input": 1, "force_validation": true}',
    b'{"input": 1, "task_id": "01938f5e-3a6b-7c4d-9e1f-2a3b4c5d6e7f"}',
    b'{"version": 1}',
    b'{"input": "raise"}',
    b'{"input": "loop", "timeout_ms": 50}',
    b'{"input": "' + b"x" * 500_000 + b'"}',
    b" " * ((1 << 20) + 1),
]

FICKLE = """
def run(input):
    if input == "raise":
        raise ValueError("asked to")
    while input == "loop":
        pass
    return input
"""


def without_what_varies(response: httpx.Response) -> tuple[int, list[tuple[str, str]], bytes]:
    headers = [
        (k, "" if k == "server-timing" else v)
        for k, v in response.headers.items()
        if k not in {"x-correlation-id", "content-length"}
    ]
    return response.status_code, headers, _VARYING.sub(b"", response.content)


async def compare(product: Product, path: str, body: bytes, headers: dict[str, str]) -> None:
    hot = await product.http.post(path, content=body, headers=headers)
    ordinary = await product.http.post(path, content=body, headers={**headers, **ORDINARY})
    assert without_what_varies(hot) == without_what_varies(ordinary)


@pytest.fixture(params=[V1, V2])
def version(request: pytest.FixtureRequest) -> str:
    prefix: str = request.param
    return prefix


@pytest.fixture
async def echo(product: Product) -> str:
    task: str = (await product.program(FICKLE, sampling_rate=0))["id"]
    return task


async def test_every_body_is_answered_alike(product: Product, echo: str, version: str) -> None:
    for body in BODIES:
        await compare(product, f"{version}/tasks/{echo}/execute", body, JSON)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/json; charset=utf-8"},
        {**JSON, "Content-Encoding": "gzip"},
        {**JSON, "X-Correlation-ID": "mine-1"},
        {**JSON, "X-Correlation-ID": "not mine"},
        {**JSON, "X-Correlation-ID": "x" * 129},
    ],
)
async def test_every_header_is_taken_alike(product: Product, echo: str, version: str, headers: dict[str, str]) -> None:
    await compare(product, f"{version}/tasks/{echo}/execute", b'{"input": 1}', headers)


@pytest.mark.parametrize("task", ["nobody", "*", "a%20b", "..", "x" * 300, NOBODY])
async def test_every_path_is_taken_alike(product: Product, version: str, task: str) -> None:
    await compare(product, f"{version}/tasks/{task}/execute", b'{"input": 1}', JSON)


async def test_without_a_correlation_id_the_executions_id_is_it(product: Product, echo: str) -> None:
    for headers in ({}, ORDINARY):
        response = await product.http.post(f"{V1}/tasks/{echo}/execute", json={"input": 1}, headers=headers)
        answer = response.json()
        assert answer["execution_id"] == answer["correlation_id"] == response.headers["x-correlation-id"]


def request(task: str, value: Any, *, ordinary: bool = False) -> bytes:
    body = json.dumps({"input": value}).encode()
    head = (
        f"POST {V1}/tasks/{task}/execute HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"{'Prefer: x' if ordinary else 'X-Nothing: x'}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def outputs_of(reader: asyncio.StreamReader, count: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(count):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"content-length: (\d+)", head)[1])  # type: ignore[index]  # every answer has one
        found.append(json.loads(await reader.readexactly(length))["output"])
    return found


@pytest.mark.parametrize("seed", range(5))
async def test_pipelined_requests_of_both_lanes_in_any_pieces_are_answered_in_order(
    product: Product, echo: str, seed: int
) -> None:
    dice = random.Random(seed)
    slow = await product.program("def run(input):\n    for _ in range(200000): pass\n    return input\n")
    parts = urlsplit(product.base_url)
    for _ in range(5):
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        values = [dice.randrange(1000) for _ in range(20)]
        data = b"".join(request(dice.choice([echo, slow["id"]]), v, ordinary=dice.random() < 0.3) for v in values)
        answers = asyncio.create_task(outputs_of(reader, len(values)))
        position = 0
        while position < len(data):
            size = dice.choice([1, 7, 60, 500, 5000])
            writer.write(data[position : position + size])
            await writer.drain()
            position += size
            if dice.random() < 0.2:
                await asyncio.sleep(0)
        async with asyncio.timeout(60):
            assert await answers == values
        writer.close()


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
@pytest.mark.parametrize("ordinary", [[False, False], [True, False], [False, True], [True, True]])
async def test_a_broken_request_behind_pipelined_ones_is_refused_when_it_is_its_turn(
    product: Product, echo: str, ordinary: list[bool], version: str
) -> None:
    slow = await product.program("def run(input):\n    for _ in range(200000): pass\n    return input\n")
    broken = f"POST {V1}/tasks/{echo}/execute {version}\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n"
    parts = urlsplit(product.base_url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    tasks = [slow["id"], echo]
    good = [request(task, n, ordinary=o) for n, (task, o) in enumerate(zip(tasks, ordinary, strict=True))]
    writer.write(b"".join(good) + broken.encode())
    async with asyncio.timeout(60):
        assert await outputs_of(reader, 2) == [0, 1]
        rest = await reader.read()
    writer.close()
    assert rest.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"\r\nconnection: close\r\n" in rest
    assert json.loads(rest.partition(b"\r\n\r\n")[2])["code"] == "validation_error"


@pytest.mark.parametrize(
    "more",
    [
        b"Content-Type: text/plain",
        b"X-Correlation-ID: first",
        b"traceparent: 00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01",
    ],
)
async def test_a_header_that_is_there_twice_is_read_alike_by_both_lanes(
    product: Product, echo: str, more: bytes
) -> None:
    parts = urlsplit(product.base_url)
    found = []
    for ordinary in (False, True):
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        again = more.partition(b":")[0] + b": application/json"
        line, _, rest = request(echo, 1, ordinary=ordinary).partition(b"\r\n")
        writer.write(line + b"\r\n" + more + b"\r\n" + again + b"\r\n" + rest)
        async with asyncio.timeout(60):
            head = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        correlation_id = re.search(rb"x-correlation-id: (\S+)", head)
        assert correlation_id is not None
        found.append((head.partition(b"\r\n")[0], b"first" in correlation_id[1]))
    assert found[0] == found[1]


async def test_a_client_that_leaves_harms_nobody(product: Product) -> None:
    slow = await product.program("def run(input):\n    for _ in range(300000): pass\n    return input\n")
    good = await product.program(ECHO)
    parts = urlsplit(product.base_url)
    for _ in range(20):
        _, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(request(slow["id"], 1))
        await writer.drain()
        writer.transport.abort()
    assert await product.output(good["id"], 5) == 5
