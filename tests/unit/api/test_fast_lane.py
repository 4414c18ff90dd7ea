"""The fast lane's protocol over a transport that only remembers."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import msgspec
import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from loopai_api.execution.engine import ExecutionEngine
from loopai_api.execution.metrics import ExecutionMetrics, HttpMetrics
from loopai_api.fastlane.lane import FastLane
from loopai_api.fastlane.protocol import FastLaneProtocol
from loopai_api.keyring import KeyRing
from loopai_api.protocol import ConnectionLimits
from loopai_api.security import Guard
from loopai_api.versions import Headers
from loopai_common.contracts.frames import Frame
from loopai_common.errors import TaskNotFound
from loopai_common.keys import Rate, Scope, encode_keys, new_key
from tests.support import frames

TASK = "01938f5e-3a6b-7c4d-9e1f-2a3b4c5d6e7f"


class RememberingTransport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closing = False
        self.aborted = False
        self.reading = True
        self.unsent = 0
        self.asked = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closing
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True

    def get_write_buffer_size(self) -> int:
        self.asked += 1
        return self.unsent

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class RememberingSender:
    connected = True

    def __init__(self) -> None:
        self.frames: dict[int, Frame] = {}

    def send(self, frame_id: int, payload: bytes, deadline: float) -> None:
        self.frames[frame_id] = msgspec.json.decode(payload, type=Frame)


async def _no_task(reference: str) -> tuple[str, str]:
    raise TaskNotFound(reference)


OPEN = Guard(_no_task)


class Connection:
    """One connection to a process whose executor is the test."""

    def __init__(
        self,
        engine: ExecutionEngine,
        metrics: HttpMetrics,
        guard: Guard = OPEN,
        limits: ConnectionLimits = ConnectionLimits(),  # noqa: B008 - frozen
        notices: Mapping[str, Headers] = MappingProxyType({}),
    ) -> None:
        lane = FastLane(engine, metrics, 1000, guard, notices)
        self.streams_stopped = False
        app = SimpleNamespace(
            limits=limits, metrics=metrics, lane=lane, notices=notices, stop_streams=self.stop_streams
        )
        config = Config(app="unused:app", interface="asgi3")
        config.loaded, config.loaded_app = True, app
        config.ws_protocol_class = None
        self.transport = RememberingTransport()
        self.protocol = FastLaneProtocol(config, ServerState(), {})
        self.protocol.connection_made(self.transport)

    def stop_streams(self) -> None:
        self.streams_stopped = True

    def receive(self, data: bytes) -> None:
        self.protocol.data_received(data)


def request(body: bytes, *headers: str) -> bytes:
    extra = "".join(f"{h}\r\n" for h in headers)
    head = (
        f"POST /api/v1/tasks/{TASK}/execute HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{extra}"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def part(value: bytes, index: int = 0) -> bytes:
    return frames.part((index, value), latency_us=1_234, origin=(TASK, TASK, 3))


@pytest.fixture
def sender() -> RememberingSender:
    return RememberingSender()


@pytest.fixture
async def engine(sender: RememberingSender) -> ExecutionEngine:
    engine = ExecutionEngine(sender, ExecutionMetrics(), queue_seconds=0.5, max_pending=100, max_frames=4)
    engine.start()
    return engine


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


async def turn() -> None:
    await asyncio.sleep(0)
    await asyncio.sleep(0)


@pytest.mark.parametrize("size", [1, 3, 50, 10_000])
async def test_a_request_in_any_pieces_is_answered_once(
    engine: ExecutionEngine, sender: RememberingSender, size: int
) -> None:
    connection = Connection(engine, HttpMetrics())
    data = request(b'{"input": {"a": 1.50}}')
    for start in range(0, len(data), size):
        connection.receive(data[start : start + size])
    await turn()
    (frame,) = sender.frames.values()
    assert bytes(frame.groups[0].inputs[0]) == b'{"a": 1.50}'
    assert connection.transport.written == b""
    engine.on_part(0, part(b'{"b":  2}'))
    head, _, body = connection.transport.written.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b'"output":{"b":  2},' in body
    assert b'"latency_ms":1.234,' in body
    assert head.count(b"HTTP/1.1") == 1
    assert not connection.transport.closing


async def test_a_client_that_left_is_not_written_to(engine: ExecutionEngine) -> None:
    connection = Connection(engine, HttpMetrics())
    connection.receive(request(b'{"input": 1}'))
    await turn()
    connection.transport.closing = True
    connection.protocol.connection_lost(None)
    engine.on_part(0, part(b"1"))
    assert connection.transport.written == b""
    assert engine.pending == 0


async def test_shutdown_answers_what_was_taken_and_closes(engine: ExecutionEngine) -> None:
    connection = Connection(engine, HttpMetrics())
    connection.receive(request(b'{"input": 1}'))
    await turn()
    connection.protocol.shutdown()
    assert connection.streams_stopped
    engine.on_part(0, part(b"1"))
    assert connection.transport.written.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"connection: close\r\n" in connection.transport.written
    assert connection.transport.closing


async def test_garbage_behind_a_request_ends_the_connection_after_its_answer(engine: ExecutionEngine) -> None:
    connection = Connection(engine, HttpMetrics())
    connection.receive(request(b'{"input": 1}') + b"NONSENSE\r\n\r\n")
    await turn()
    assert connection.transport.written == b""
    engine.on_part(0, part(b"1"))
    assert connection.transport.written.startswith(b"HTTP/1.1 200 OK\r\n")
    assert connection.transport.written.count(b"HTTP/1.1 ") == 1
    assert connection.transport.closing


async def answers(engine: ExecutionEngine, sender: RememberingSender, connection: Connection) -> list[bytes]:
    """Runs what waits, and returns the bodies of all responses so far; the program returns its input."""
    await turn()
    for frame_id, frame in list(sender.frames.items()):
        for index, _, _, value in frames.asked(frame):
            engine.on_part(frame_id, part(bytes(value), index))
        del sender.frames[frame_id]
        await turn()
    responses = connection.transport.written.split(b"HTTP/1.1 ")[1:]
    return [response.partition(b"\r\n\r\n")[2] for response in responses]


async def test_a_head_that_was_parsed_before_carries_another_body(
    engine: ExecutionEngine, sender: RememberingSender
) -> None:
    connection = Connection(engine, HttpMetrics())
    lane = connection.protocol.lane
    connection.receive(request(b'{"input": 1}'))
    await answers(engine, sender, connection)
    assert (len(lane.lines), len(lane.headers)) == (1, 1)
    connection.receive(request(b'{"input": 2}'))
    first, second = await answers(engine, sender, connection)
    assert (b'"output":1,' in first, b'"output":2,' in second) == (True, True)
    assert first.partition(b",")[0] != second.partition(b",")[0]
    other = Connection(engine, HttpMetrics())
    other.protocol.lane = lane
    other.receive(request(b'{"input": 3}'))
    (third,) = await answers(engine, sender, other)
    assert b'"output":3,' in third


@pytest.mark.parametrize("cut", [1, 20, 150, -1])
async def test_a_known_head_in_pieces_is_read_like_an_unknown_one(
    engine: ExecutionEngine, sender: RememberingSender, cut: int
) -> None:
    connection = Connection(engine, HttpMetrics())
    connection.receive(request(b'{"input": 1}'))
    await answers(engine, sender, connection)
    data = request(b'{"input": 2}')
    connection.receive(data[:cut])
    connection.receive(data[cut:])
    await answers(engine, sender, connection)
    connection.receive(data)
    found = await answers(engine, sender, connection)
    assert [body.partition(b'"output":')[2][:1] for body in found] == [b"1", b"2", b"2"]


async def test_a_known_head_may_be_cut_anywhere(engine: ExecutionEngine, sender: RememberingSender) -> None:
    first = Connection(engine, HttpMetrics())
    first.receive(request(b'{"input": 1}'))
    await answers(engine, sender, first)
    data = request(b'{"input": 2}')
    for cut in range(1, len(data)):
        connection = Connection(engine, HttpMetrics())
        connection.protocol.lane = first.protocol.lane
        connection.receive(data[:cut])
        await turn()
        assert (sender.frames, connection.transport.written) == ({}, b""), cut
        connection.receive(data[cut:])
        (body,) = await answers(engine, sender, connection)
        assert b'"output":2,' in body, cut


async def test_lines_and_headers_are_known_apart(engine: ExecutionEngine, sender: RememberingSender) -> None:
    connection = Connection(engine, HttpMetrics())
    short, long = b'{"input": 1}', b'{"input": 1000}'
    other = [data.replace(TASK.encode(), b"other") for data in (request(short), request(long))]
    for data in (request(short), other[1], request(long), other[0]):
        connection.receive(data)
        await answers(engine, sender, connection)
    lane = connection.protocol.lane
    assert [path.task for path in lane.lines.values()] == [TASK, "other"]
    assert [headers.body_bytes for headers in lane.headers.values()] == [len(short), len(long)]
    bodies = await answers(engine, sender, connection)
    assert [body.partition(b'"output":')[2].partition(b",")[0] for body in bodies] == [b"1", b"1000", b"1000", b"1"]


@pytest.mark.parametrize("header", ["X-Correlation-ID: mine", "Prefer: respond-async", "Connection: close"])
async def test_a_head_that_says_more_is_not_remembered(
    engine: ExecutionEngine, sender: RememberingSender, header: str
) -> None:
    connection = Connection(engine, HttpMetrics())
    with contextlib.suppress(TypeError):  # the ordinary lane has no application here
        connection.receive(request(b'{"input": 1}', header))
    assert connection.protocol.lane.headers == {}


class BrokenEngine(ExecutionEngine):
    def submit(self, *_: Any, **__: Any) -> None:
        raise KeyError("canary")


async def test_something_unforeseen_is_answered_and_leaks_nothing(sender: RememberingSender) -> None:
    engine: Any = BrokenEngine(sender, ExecutionMetrics(), queue_seconds=0.5, max_pending=100, max_frames=4)
    connection = Connection(engine, HttpMetrics())
    connection.receive(request(b'{"input": 1}'))
    assert connection.transport.written.startswith(b"HTTP/1.1 500 ")
    assert b'"code":"internal"' in connection.transport.written
    assert b"canary" not in connection.transport.written
    assert connection.transport.closing


async def test_a_key_is_looked_at_before_the_engine_is_asked(engine: ExecutionEngine, tmp_path: Path) -> None:
    good, known = new_key(scopes=[Scope.EXECUTE], tasks=[TASK], rate=Rate(0.001, 1))
    reader, other = new_key(scopes=[Scope.TASKS_READ])
    file = tmp_path / "keys.json"
    file.write_bytes(encode_keys({known.id: known, other.id: other}))
    metrics = HttpMetrics()
    connection = Connection(engine, metrics, Guard(_no_task, KeyRing(file)))
    refusals = [
        ((), b"401 Unauthorized", b"www-authenticate: Bearer\r\n"),
        (("X-API-Key: lk_a_b",), b"401 Unauthorized", b'www-authenticate: Bearer error="invalid_token"\r\n'),
        ((f"Authorization: Bearer {reader}",), b"403 Forbidden", b"cache-control: no-store\r\n"),
        ((f"X-API-Key: {good}",), b"", b""),
        ((f"Authorization: bearer {good}",), b"429 Too Many Requests", b"ratelimit-policy: "),
    ]
    for headers, status, header in refusals:
        connection.transport.written = b""
        connection.receive(request(b'{"input": 1}', *headers))
        if status:
            assert connection.transport.written.startswith(b"HTTP/1.1 " + status + b"\r\n")
            assert header in connection.transport.written
        else:
            assert metrics.in_flight == engine.pending == 1
            await turn()
            engine.on_part(0, part(b"1"))
            assert connection.transport.written.startswith(b"HTTP/1.1 200 OK\r\n")
    assert {reason: count for reason, count in metrics.rejected.items() if count} == {"key": 2, "scope": 1, "rate": 1}
    assert metrics.in_flight == engine.pending == 0


async def test_what_a_client_does_not_read_stops_the_reading_and_ends_the_connection(engine: ExecutionEngine) -> None:
    metrics = HttpMetrics()
    connection = Connection(engine, metrics, limits=ConnectionLimits(send_timeout_seconds=0.01))
    transport = connection.transport
    transport.unsent = 100_000
    connection.protocol.pause_writing()
    assert not transport.reading
    transport.unsent = 50_000
    await until(lambda: transport.asked >= 2)
    assert not transport.aborted, "something was read"
    await until(lambda: transport.aborted)
    assert metrics.rejected["slow_reader"] == 1


async def test_a_client_that_reads_in_time_is_kept_however_much_is_unsent(engine: ExecutionEngine) -> None:
    connection = Connection(engine, HttpMetrics(), limits=ConnectionLimits(send_timeout_seconds=0.01))
    transport = connection.transport
    for unsent in (100_000, 200_000, 300_000):
        transport.unsent = unsent
        connection.protocol.pause_writing()
        connection.protocol.resume_writing()
        asked = transport.asked
        await until(lambda asked=asked: transport.asked > asked)  # type: ignore[misc]
        assert transport.reading
        assert not transport.aborted
    transport.unsent = 0
    connection.protocol.connection_lost(None)


async def test_a_broken_head_request_is_refused_without_a_body(engine: ExecutionEngine) -> None:
    connection = Connection(engine, HttpMetrics())
    head = f"HEAD /api/v1/tasks/{TASK}/execute HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with contextlib.suppress(TypeError):  # the ordinary lane has no application here
        connection.receive(head.encode() + b"this is no chunk\r\n")
    status, _, rest = connection.transport.written.partition(b"\r\n")
    assert status == b"HTTP/1.1 400 Bad Request"
    assert rest.endswith(b"connection: close\r\n\r\n")
    assert connection.transport.closing
