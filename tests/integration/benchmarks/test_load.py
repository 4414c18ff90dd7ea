"""The load client against servers that stall, refuse, and hang up."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from urllib.parse import urlsplit

import pytest

from benchmarks import load
from benchmarks.load import Request, Target
from benchmarks.schedule import Stage
from tests.support.stub_http import Answer, StubHttpServer

PATH = "/execute"
STAGES = [Stage(0.5, 100.0, 100.0), Stage(0.5, 0.0, 200.0)]


def target(url: str) -> Target:
    parts = urlsplit(url)
    return Target(parts.hostname or "", parts.port or 0, [Request(PATH, b'{"input": "one"}'), Request(PATH, b'"two"')])


@asynccontextmanager
async def stalling(seconds: float) -> AsyncIterator[Target]:
    """A server that lets the first request wait that long and answers all others at once."""
    stalled: list[float] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            if not stalled:
                stalled.append(seconds)
                await asyncio.sleep(seconds)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        yield target(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert stalled


async def staged(target: Target, stages: list[Stage], connections: int) -> load.Staged:
    return await asyncio.to_thread(load.run_stages, target, connections=connections, stages=stages)


async def test_a_stall_is_in_the_latency_of_every_request_that_was_due_meanwhile() -> None:
    async with stalling(0.8) as server:
        seen = await staged(server, [Stage(1.0, 100.0, 100.0)], connections=1)
    (tally,) = seen.stages
    assert tally.ends.total() == 100
    # Counted from the sending, one latency of a hundred would be long; from when they were due, most are.
    assert tally.percentile_ms(0.5) > 100


async def test_what_nobody_could_send_within_a_second_is_dropped() -> None:
    async with stalling(2.5) as server:
        seen = await staged(server, [Stage(1.0, 100.0, 100.0)], connections=1)
    (tally,) = seen.stages
    assert tally.ends["dropped"] > 90
    assert tally.ends.total() == 100


def test_ends_are_counted_by_status_and_stage() -> None:
    with StubHttpServer({f"POST {PATH}": [*[Answer("no", 503)] * 10, Answer("yes")]}) as server:
        seen = load.run_stages(target(server.url), connections=16, stages=STAGES)
    first, second = seen.stages
    assert first.ends["503"] + second.ends["503"] == 10
    assert first.ends["503"] > 0
    assert second.ends["200"] > 0
    assert [first.ends.total(), second.ends.total()] == [50, 50]
    assert seen.seconds > 0.9  # the last request is due just before the end
    assert [asked.body for asked in server.asked[:1]] in ([{"input": "one"}], ["two"])


@pytest.mark.parametrize(
    ("answer", "end"),
    [(Answer("bye", headers={"Connection": "close"}), "200"), (Answer("", cut_off="before"), "broken")],
)
def test_a_connection_that_the_server_ends_is_made_again(answer: Answer, end: str) -> None:
    with StubHttpServer({f"POST {PATH}": answer}) as server:
        seen = load.run_stages(target(server.url), connections=4, stages=[Stage(0.5, 40.0, 40.0)])
    (tally,) = seen.stages
    assert tally.ends[end] > 4
    assert tally.ends.total() == 20


async def test_what_a_server_says_to_an_idle_connection_before_it_closes_it_is_no_answer() -> None:
    closed = 0

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal closed
        try:
            while await asyncio.wait_for(reader.read(65536), 0.1):
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        except TimeoutError:
            closed += 1
            writer.write(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        seen = await staged(target(url), [Stage(1.0, 10.0, 10.0)], connections=4)
    (tally,) = seen.stages
    assert closed > 4
    assert tally.ends.total() == 10
    assert tally.ends["408"] < closed


@pytest.mark.parametrize(("authorization", "sent"), [("Bearer key", "Bearer key"), ("", None)])
def test_every_request_has_the_key(authorization: str, sent: str | None) -> None:
    with StubHttpServer({f"POST {PATH}": Answer("yes")}) as server:
        load.run_stages(replace(target(server.url), authorization=authorization), connections=16, stages=STAGES)
    assert {asked.headers.get("Authorization") for asked in server.asked} == {sent}


def test_a_rate_is_made_by_as_many_processes_as_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "_RATE_OF_A_CLIENT", 50)
    with StubHttpServer({f"POST {PATH}": Answer("yes")}) as server:
        seen = load.run_stages(target(server.url), connections=4, stages=[Stage(0.5, 100.0, 100.0)])
    assert [tally.ends.total() for tally in seen.stages] == [50]


async def test_a_closed_loop_sends_as_fast_as_answers_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "generator", lambda: "benchmarks.load_client")
    async with stalling(0.0) as server:
        seen = await asyncio.to_thread(load.run, server, connections=2, seconds=0.3)
    assert seen.requests > 20
    assert seen.errors == 0
    assert 0 < seen.p50_ms <= seen.p99_ms
