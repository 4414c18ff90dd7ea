"""Both lanes answer any bytes, cut anywhere, alike: the same responses in the same order, one for each request.

The application, the engine and the protocols are the api's own; the transport and the executor are in memory.
"""

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import httptools
import msgspec
import uvicorn
from fastapi import FastAPI
from uvicorn.server import ServerState

from loopai_api.application import build_application
from loopai_api.edge import Edge
from loopai_api.execution.engine import ExecutionEngine
from loopai_api.execution.metrics import ExecutionMetrics, HttpMetrics
from loopai_api.execution.service import ExecutionAnswer, ExecutionService
from loopai_api.fastlane.lane import FastLane
from loopai_api.fastlane.protocol import FastLaneProtocol
from loopai_api.protocol import ConnectionLimits, LoopaiHttpProtocol
from loopai_api.routes.executions import execution_routes
from loopai_api.security import Guard
from loopai_api.versions import VERSIONS, Deprecation, deprecation_headers
from loopai_common.contracts.execution import ExecutionRecord
from loopai_common.contracts.frames import FRAME_FORMAT, Frame, FrameAnswerGroup, FramePart
from loopai_common.errors import StoreUnavailable, TaskNotFound
from tests.fuzz.invariants import Choices, Stage, require
from tests.support.frames import asked

_TURNS = 60
_NOTICES = deprecation_headers({"v1": Deprecation(since=datetime(2027, 1, 1, tzinfo=UTC))})
_METHODS = (b"POST", b"POST", b"POST", b"POST", b"GET", b"HEAD", b"PUT", b"OPTIONS")
_PATHS = (
    b"/api/v1/tasks/spam/execute",
    b"/api/v1/tasks/01938f5e-3a6b-7c4d-9e1f-2a3b4c5d6e7f/execute",
    b"/api/v1/tasks/a%20b/execute",
    b"/api/v1/tasks/%2e%2e/execute",
    b"/api/v1/tasks/spam/execute?x=1",
    b"/api/v1/tasks/spam/execute/",
    b"/api/v1/tasks//execute",
    b"/api/v1/tasks/execute",
    b"/api/v2/tasks/spam/execute",
    b"/api/v2/tasks/01938f5e-3a6b-7c4d-9e1f-2a3b4c5d6e7f/execute",
    b"/api/v2/tasks/%2e%2e/execute",
    b"//api/v1/tasks/spam/execute",
    b"http://x/api/v1/tasks/spam/execute",
    b"/api/v1/tasks/sp\xc3\xa4m/execute",
)
_HEADERS = (
    b"X-Correlation-ID: mine-1",
    b"X-Correlation-ID: not mine",
    b"X-Correlation-ID:",
    b"x-correlation-id: \xff",
    b"Authorization: Bearer lk_a_b",
    b"X-API-Key: lk_a_b",
    b"X-Forwarded-Proto: https",
    b"Origin: https://app.example.com",
    b"Connection: close",
    b"Connection: keep-alive",
    b"Connection: Upgrade\r\nUpgrade: h2c",
    b"Prefer: wait=1",
    b"Expect: 100-continue",
    b"Content-Encoding: gzip",
    b"Content-Type: text/plain",
    b"Content-Length: 5",
    b"Transfer-Encoding: chunked",
    b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    b"X:" + b"y" * 200,
    b"bad header",
)
_TYPES = (b"application/json", b"application/json", b"application/json; charset=utf-8", b"APPLICATION/JSON", b"")
_BODIES = (
    b'{"input":{"text":"free entry"}}',
    b'{"input":1,"timeout_ms":100,"version":3,"force_validation":true}',
    b'{"input":null,"unknown":1}',
    b'{"input":1,"input":2}',
    b'{"input":"\xff"}',
    b'{"input":1e999}',
    b'{"version":0}',
    b'{"input":1,"task_id":"01938f5e-3a6b-7c4d-9e1f-2a3b4c5d6e70"}',
    b"[1]",
    b"{",
    b"",
)


def _seed(*, head: bytes = b"", body: bytes = _BODIES[0]) -> bytes:
    line = b"POST /api/v1/tasks/spam/execute HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return line + head + b"Content-Length: %d\r\n\r\n" % len(body) + body


SEEDS = (
    b"\x00\x00\x01" + _seed(),
    b"\r\xeaExpect:`100-\x00\x00\x00\x00",  # a broken HEAD request was refused with a body
    b"\x00\x00\x01" + _seed() + _seed(head=b"Prefer: x\r\n") + _seed(body=_BODIES[3]),
    b"\x00\x03\x01" + _seed(head=b"Connection: close\r\n") + _seed(),
    b"\x00\x01\x01" + _seed(head=b"Connection: keep-alive\r\n").replace(b"/1.1", b"/1.0") + _seed(),
    b"\x00\x05\x01" + _seed() + b"garbage\r\n\r\n",
    bytes([1, 0, *[0] * 20]),
    bytes([1, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 3, 1, 1, 0, 0, 0, 1, 7, 0, 2]),
    b"\x00\x00\x01" + _seed(body=_BODIES[1]).replace(b"v1", b"v2") + _seed(body=_BODIES[3]).replace(b"v1", b"v2"),
    bytes(range(1, 80)),
    b"\x0b" + bytes(8) + b"t: 100-continue\r\nxpect:`1.0",  # broken behind pipelined ones: refused before its turn
    b"\x00\x00\x01" + _seed(head=b"Content-Type: text/plain\r\n") + _seed(head=b"X-Correlation-ID: a\r\n" * 2),
)
DICTIONARY = (
    b"POST ",
    b" HTTP/1.1\r\n",
    b"\r\n\r\n",
    b"Content-Length: ",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"Expect: 100-continue\r\n",
    b"Prefer: x\r\n",
    b'{"input":',
    b"0\r\n\r\n",
)
_VARYING = re.compile(
    rb'("(?:execution_id|trace_id|correlation_id|executed_at|timestamp)":"[^"]*"|"latency_ms":[0-9.e-]+)'
)
_Answer = tuple[int, list[tuple[bytes, bytes]], bytes]


async def _no_task(reference: str) -> tuple[str, str]:
    raise TaskNotFound(reference)


_OPEN = Guard(_no_task)
_stage = Stage()


def fuzz(data: bytes) -> None:
    """Feeds one stream of bytes, cut in the same places, to each lane, and compares what comes back."""
    choices = Choices(data)
    built = choices.below(2) == 1
    size = (100_000, 1, 7, 40, 100)[choices.below(5)]
    patient = choices.below(2) == 1
    stream = _built(choices) if built else choices.rest()
    size = max(size, len(stream) // 40)
    chunks = [stream[start : start + size] for start in range(0, len(stream), size)]
    _stage.run(_scenario(chunks, patient))


async def _scenario(chunks: list[bytes], patient: bool) -> None:
    methods = _methods(chunks)
    fast = _answers(await _lane(FastLaneProtocol, chunks, patient), methods)
    ordinary = _answers(await _lane(LoopaiHttpProtocol, chunks, patient), methods)
    require(len(fast) <= len(methods), f"a request has one answer: {len(fast)} for {len(methods)}")
    _compare(fast, ordinary)


def _compare(fast: list[_Answer], ordinary: list[_Answer]) -> None:
    """Equal, but for what is a matter of time: a refusal that finds the request before it unanswered goes unsaid."""
    shorter, longer = sorted((fast, ordinary), key=len)
    extra = longer[len(shorter) :]
    unsaid = len(extra) == 1 and extra[0][0] >= 400 and (b"connection", b"close") in extra[0][1]
    same = _without_connection(shorter) == _without_connection(longer[: len(shorter)])
    require(same and (not extra or unsaid), f"both lanes answer alike:\n{fast}\n{ordinary}")


def _without_connection(answers: list[_Answer]) -> list[_Answer]:
    return [(status, [h for h in headers if h[0] != b"connection"], body) for status, headers, body in answers]


def _built(choices: Choices) -> bytes:
    """Requests that are nearly right."""
    requests: list[bytes] = []
    while not choices.exhausted and len(requests) < 6:
        body = _BODIES[choices.below(len(_BODIES))]
        kind = _TYPES[choices.below(len(_TYPES))]
        lines = [
            b"%b %b HTTP/1.%d"
            % (
                _METHODS[choices.below(len(_METHODS))],
                _PATHS[choices.below(len(_PATHS)) if choices.below(3) == 2 else 0],
                choices.below(8) != 7,
            ),
            b"Host: x",
            *([b"Content-Type: " + kind] if kind else []),
            *(_HEADERS[choices.below(len(_HEADERS))] for _ in range(max(0, choices.below(6) - 3))),
        ]
        framing = choices.below(10)
        if framing < 7:
            lines.append(b"Content-Length: %d" % len(body))
        elif framing == 7:
            lines.append(b"Content-Length: %d" % (len(body) + choices.below(3)))
        elif framing == 8:
            lines.append(b"Transfer-Encoding: chunked")
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        requests.append(b"\r\n".join(lines) + b"\r\n\r\n" + body)
    return b"".join(requests)


class _Executor:
    """A :class:`~loopai_api.execution.engine.FrameSender` whose executor gives each input back as its output."""

    connected = True
    engine: ExecutionEngine

    def send(self, frame_id: int, payload: bytes, deadline: float) -> None:
        groups = [_executed(index, value) for index, _, _, value in asked(msgspec.json.decode(payload, type=Frame))]
        part = msgspec.json.encode(FramePart(FRAME_FORMAT, groups))
        asyncio.get_running_loop().call_soon(self.engine.on_part, frame_id, part)


def _executed(index: int, value: msgspec.Raw) -> FrameAnswerGroup:
    raises = bytes(value) == b"1"
    payload = msgspec.Raw(b'["program_raised","asked to"]') if raises else value
    return FrameAnswerGroup("task", "program", 1, int(raises), 5, False, [index], [payload])


class _Transport(asyncio.Transport):
    """Keeps what is written, and delivers to the protocol only while it reads."""

    def __init__(self, protocol: LoopaiHttpProtocol) -> None:
        super().__init__({"sockname": ("127.0.0.1", 1), "peername": ("127.0.0.1", 2)})
        self.written = bytearray()
        self.paused = False
        self._protocol = protocol
        self._closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._closing:
            self.written += data

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


async def _lane(kind: type[LoopaiHttpProtocol], chunks: list[bytes], patient: bool) -> bytes:
    """What a connection writes when it is fed ``chunks``; ``patient``: each is answered before the next comes."""
    executor, http_metrics = _Executor(), HttpMetrics()
    engine = ExecutionEngine(executor, ExecutionMetrics(), queue_seconds=5, max_pending=1000, max_frames=4)
    executor.engine = engine
    engine.start()
    lane = FastLane(engine, http_metrics, 1000, _OPEN, _NOTICES)
    edge = Edge(_application(engine), http_metrics, ConnectionLimits(60.0, 100), lane, _OPEN, _NOTICES, lambda: None)
    config = uvicorn.Config(
        edge, http=kind, ws="none", lifespan="off", log_config=None, access_log=False, proxy_headers=False
    )
    config.load()
    state = ServerState()
    protocol = kind(config=config, server_state=state, app_state={}, _loop=asyncio.get_running_loop())
    transport = _Transport(protocol)
    protocol.connection_made(transport)
    waiting = deque(chunks)
    while waiting and not transport.is_closing():
        if transport.paused:
            await _turns(state, engine)
            require(not transport.paused or transport.is_closing(), "a connection is read again at some time")
            continue
        protocol.data_received(waiting.popleft())
        await (_turns(state, engine) if patient else asyncio.sleep(0))
    await _turns(state, engine)
    transport.close()
    await _turns(state, engine)
    await asyncio.sleep(0)
    engine.close()
    require(not state.connections, "a closed connection is forgotten")
    return bytes(transport.written)


_applications: dict[str, tuple[FastAPI, "_Current"]] = {}


class _Current:
    """The execution service of the application, which is built once and used with many engines."""

    service: ExecutionService

    async def execute(self, *args: Any) -> ExecutionAnswer:
        return await self.service.execute(*args)


class _StoreAway:
    """Accepts nothing: an asynchronous execution is the ordinary lane's alone."""

    async def accept(self, *_: Any) -> ExecutionRecord:
        raise StoreUnavailable("the artifact store is not running")


def _application(engine: ExecutionEngine) -> FastAPI:
    if not _applications:
        current = _Current()

        @asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[None]:
            yield

        routers = [
            execution_routes(version.prefix, current, _StoreAway())  # type: ignore[arg-type]  # has the methods asked for
            for version in VERSIONS.values()
        ]
        app = build_application(lifespan, routers, _OPEN)
        _applications["api"] = app, current
    app, current = _applications["api"]
    current.service = ExecutionService(engine, 1000)
    return app


async def _turns(state: ServerState, engine: ExecutionEngine) -> None:
    """Lets the connection do what it can without more bytes."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)
        if not state.tasks and not engine.pending:
            break
    await asyncio.sleep(0)


class _Requests:
    """Callbacks of a parser that only notes the methods of what begins."""

    def __init__(self) -> None:
        self.begun = 0
        self.methods: list[bytes] = []
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def on_message_begin(self) -> None:
        self.begun += 1

    def on_headers_complete(self) -> None:
        self.methods.append(self.parser.get_method())


def _methods(chunks: list[bytes]) -> list[bytes]:
    """The methods of the requests in the stream, in order; what is broken counts as one more."""
    requests = _Requests()
    for chunk in chunks:
        try:
            requests.parser.feed_data(chunk)
        except httptools.HttpParserUpgrade:
            continue
        except httptools.HttpParserError:
            requests.methods.append(b"")
            break
    return [*requests.methods, *[b""] * (requests.begun - len(requests.methods))]


def _answers(written: bytes, methods: list[bytes]) -> list[_Answer]:
    """The responses, without what differs from one request to the next. Raises when they are not well-formed."""
    answers: list[_Answer] = []
    while written:
        head, end, written = written.partition(b"\r\n\r\n")
        require(bool(end), "a response has a whole head")
        status_line, *lines = head.split(b"\r\n")
        require(re.fullmatch(rb"HTTP/1\.1 \d{3} [A-Za-z ]+", status_line) is not None, f"a status line: {head!r}")
        status = int(status_line[9:12])
        if status < 200:
            continue
        headers = [(name.lower(), value) for name, _, value in (line.partition(b": ") for line in lines)]
        length = int(dict(headers)[b"content-length"])
        if len(answers) < len(methods) and methods[len(answers)] == b"HEAD":
            length = 0
        require(len(written) >= length, "a response is as long as it says")
        body, written = written[:length], written[length:]
        kept = sorted(
            (name, b"" if name == b"server-timing" else value)
            for name, value in headers
            if name not in {b"x-correlation-id", b"content-length"}
        )
        answers.append((status, kept, _VARYING.sub(b"", body)))
    return answers
