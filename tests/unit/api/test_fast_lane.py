"""The fast lane's protocol over a transport that only remembers."""

import asyncio
from collections.abc import Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any

import msgspec
import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from loopai_api.execution.engine import Execution, ExecutionEngine
from loopai_api.execution.metrics import ExecutionMetrics, HttpMetrics
from loopai_api.fastlane.lane import FastLane
from loopai_api.fastlane.protocol import FastLaneProtocol
from loopai_api.protocol import ConnectionLimits
from loopai_api.versions import Headers
from loopai_common.contracts.frames import Frame, FrameAnswer, FrameAnswerGroup, FramePart

TASK = "01938f5e-3a6b-7c4d-9e1f-2a3b4c5d6e7f"


class RememberingTransport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closing
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class RememberingSender:
    connected = True

    def __init__(self) -> None:
        self.frames: dict[int, Frame] = {}

    def send(self, frame_id: int, payload: bytes, deadline: float) -> None:
        self.frames[frame_id] = msgspec.json.decode(payload, type=Frame)


class Connection:
    """One connection to a process whose executor is the test."""

    def __init__(
        self, engine: ExecutionEngine, metrics: HttpMetrics, notices: Mapping[str, Headers] = MappingProxyType({})
    ) -> None:
        app = SimpleNamespace(limits=ConnectionLimits(), lane=FastLane(engine, metrics, 1000, notices), notices=notices)
        config = Config(app="unused:app", interface="asgi3")
        config.loaded, config.loaded_app = True, app
        config.ws_protocol_class = None
        self.transport = RememberingTransport()
        self.protocol = FastLaneProtocol(config, ServerState(), {})
        self.protocol.connection_made(self.transport)

    def receive(self, data: bytes) -> None:
        self.protocol.data_received(data)


def request(body: bytes, *headers: str) -> bytes:
    extra = "".join(f"{h}\r\n" for h in headers)
    head = (
        f"POST /api/v1/tasks/{TASK}/execute HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{extra}"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def part(value: bytes) -> bytes:
    answer = FrameAnswer(0, 0, 1_234, False, msgspec.Raw(value))
    return msgspec.json.encode(FramePart(1, [FrameAnswerGroup(TASK, TASK, 3, [answer])]))


@pytest.fixture
def sender() -> RememberingSender:
    return RememberingSender()


@pytest.fixture
async def engine(sender: RememberingSender) -> ExecutionEngine:
    engine = ExecutionEngine(sender, ExecutionMetrics(), queue_seconds=0.5, max_pending=100, max_frames=4)
    engine.start()
    return engine


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
    assert bytes(frame.groups[0].items[0].input) == b'{"a": 1.50}'
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


class BrokenEngine(ExecutionEngine):
    def submit(self, execution: Execution) -> None:
        raise KeyError("canary")


async def test_something_unforeseen_is_answered_and_leaks_nothing(sender: RememberingSender) -> None:
    engine: Any = BrokenEngine(sender, ExecutionMetrics(), queue_seconds=0.5, max_pending=100, max_frames=4)
    connection = Connection(engine, HttpMetrics())
    connection.receive(request(b'{"input": 1}'))
    assert connection.transport.written.startswith(b"HTTP/1.1 500 ")
    assert b'"code":"internal"' in connection.transport.written
    assert b"canary" not in connection.transport.written
    assert connection.transport.closing
