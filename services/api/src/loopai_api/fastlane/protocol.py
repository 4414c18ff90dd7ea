"""The fast lane's way in and out: a hot request takes the face of uvicorn's ``RequestResponseCycle``.

With that face, the order of pipelined answers, graceful shutdown and disconnects stay uvicorn's. A request is hot when
it is a plain ``POST …/execute`` of HTTP/1.1: kept alive, ``application/json``, a declared length within the limit, no
expectation, encoding or preference, and nothing before it on the connection still being answered.

A request line and headers that were hot before, byte for byte, are not parsed again when the whole request, and nothing
else, is there.
"""

import asyncio
import time
from random import random
from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from loopai_api.execution.engine import Execution
from loopai_api.execution.rendering import Body, Origin, server_timing
from loopai_api.fastlane.lane import FastLane, HotHeaders, HotPath
from loopai_api.problems import headers_of, status_of
from loopai_api.protocol import MAX_HEADER_BYTES, MAX_HEADERS, LoopaiHttpProtocol
from loopai_common.contracts.frames import FrameMark
from loopai_common.errors import Internal, LoopaiError
from loopai_common.identifiers import new_id
from loopai_common.runtime.context import is_correlation_id, is_sampled, is_traceparent
from loopai_common.runtime.logging import get_logger
from loopai_common.runtime.tracing import UNRECORDED, Kind, start

log = get_logger()

_JSON = "application/json"
_END_OF_LINE = b"\r\n"
_END_OF_HEAD = b"\r\n\r\n"
# Browsers' requests from other origins may need CORS headers, which the ordinary lane knows of.
_UNUSUAL = frozenset({b"transfer-encoding", b"expect", b"content-encoding", b"prefer", b"upgrade", b"origin"})
_READ = frozenset(
    {
        *(b"content-type", b"content-length", b"x-correlation-id", b"authorization", b"x-api-key"),
        *(b"x-forwarded-proto", b"accept", b"traceparent", *_UNUSUAL),
    }
)
_ACCEPTS_JSON = frozenset({b"*/*", b"application/json", b"application/json, */*", b"application/json, text/plain, */*"})
"""What clients usually send; about any other ``Accept`` the ordinary lane knows."""
_JSON_RESULT = f"content-type: {_JSON}\r\n"
_BEGINNINGS = {status: f"{line.decode()}content-length: " for status, line in STATUS_LINE.items()}


class _NoEvent:
    """uvicorn sets the message event of a cycle whose connection ends; nobody waits for a hot one's."""

    def set(self) -> None: ...


class HotCycle(Execution):
    """One hot request, from its headers to its answer."""

    __slots__ = (
        "correlation_id",
        "disconnected",
        "end_of_head",
        "keep_alive",
        "more_body",
        "path",
        "protocol",
        "refusal",
        "response_complete",
        "span",
        "started",
    )

    message_event = _NoEvent()

    def __init__(
        self, protocol: "FastLaneProtocol", path: HotPath, end_of_head: str, refusal: LoopaiError | None
    ) -> None:
        self.protocol = protocol
        self.path = path
        self.end_of_head = end_of_head
        self.refusal = refusal
        self.correlation_id = ""
        self.more_body = True
        self.response_complete = False
        self.disconnected = False
        self.keep_alive = True
        self.span = UNRECORDED
        self.started = time.perf_counter()

    @property
    def response_started(self) -> bool:
        """uvicorn asks for it; a hot request's answer is written whole."""
        return self.response_complete

    def run(self, body: bytes, sent_correlation_id: str | None, sent_traceparent: str | None) -> None:
        """Submits the request, or answers what is wrong with it."""
        self.more_body = False
        protocol, path = self.protocol, self.path
        lane = protocol.lane
        protocol.metrics.in_flight += 1
        traceparent = ""
        if sent_traceparent is not None or (lane.traced_share and random() < lane.traced_share):  # noqa: S311  # chance
            traceparent = self._trace(sent_traceparent)
        self.execution_id = execution_id = new_id()
        self.correlation_id = sent_correlation_id or execution_id
        if self.refusal is not None:
            self.failed(self.refusal)
            return
        try:
            parse = path.api.parse
            request = parse(body, path.task)
            program = path.program
            if request.version is not None or request.timeout_ms is not None:
                program = path.task, request.version or 0, request.timeout_ms or lane.default_timeout_ms
            mark = None
            if sent_correlation_id is not None or traceparent or request.force_validation:
                mark = FrameMark(sent_correlation_id or "", request.force_validation, traceparent)
            lane.engine.submit(self, program, execution_id, request.input, mark)
        except LoopaiError as error:
            self.failed(error)

    def _trace(self, sent_traceparent: str | None) -> str:
        """Begins the span of a request that is sampled; returns what goes along with its execution."""
        path = self.path
        began = time.time_ns() - int((time.perf_counter() - self.started) * 1e9)
        attributes = {
            "http.request.method": "POST",
            "http.route": path.api.route,
            "url.scheme": self.protocol.scheme or "http",
            "url.path": path.api.path(path.task),
        }
        name = f"POST {path.api.route}"
        self.span = start(name, sent_traceparent, kind=Kind.SERVER, attributes=attributes, at_ns=began)
        passed_on = sent_traceparent if sent_traceparent is not None and is_sampled(sent_traceparent) else ""
        return self.span.traceparent or passed_on

    def _end_span(self, status: int) -> None:
        self.span.set({"http.response.status_code": status})
        if status >= 500:
            self.span.fail(str(status))
        self.span.end()

    def answered(self, origin: Origin, payload: msgspec.Raw) -> None:
        path = self.path
        mark = self.mark
        sent = None if mark is None else mark.correlation_id
        try:
            render = path.api.render
            status, body = render(origin, payload, self.execution_id, sent, path.task)
        except LoopaiError as error:
            self.failed(error)
            return
        content_type = _JSON_RESULT if status == 200 else f"content-type: {path.api.error_type}\r\n"
        came_at = origin.came_at
        timing = server_timing(came_at - self.started, origin)
        self._respond(status, came_at, f"server-timing: {timing}\r\n{content_type}", body)

    def failed(self, error: LoopaiError) -> None:
        self.protocol.lane.metrics.refused(error)
        api = self.path.api
        headers = {**headers_of(error), "content-type": api.error_type}
        body = api.errors.body(error, self.correlation_id, api.path(self.path.task))
        lines = "".join(f"{name.lower()}: {value}\r\n" for name, value in headers.items())
        self._respond(status_of(error), time.perf_counter(), lines, (body, b"", b""))

    def _respond(self, status: int, now: float, headers: str, body: Body) -> None:
        protocol = self.protocol
        transport = protocol.transport
        if not self.more_body:  # else it ends before it was run, and was not counted
            protocol.metrics.in_flight -= 1
        self.path.api.counts.observe(status, now - self.started)
        if self.span is not UNRECORDED:
            self._end_span(status)
        self.response_complete = True
        if self.disconnected or transport.is_closing():
            return
        before, output, behind = body
        end = self.end_of_head if self.keep_alive else f"connection: close\r\n{self.end_of_head}"
        head = (
            f"{_BEGINNINGS[status]}{len(before) + len(output) + len(behind)}\r\n{headers}"
            f"x-correlation-id: {self.correlation_id}\r\n{end}"
        )
        transport.write(b"".join((head.encode(), before, output, behind)))
        if not self.keep_alive:
            transport.close()
        protocol.on_hot_response_complete(self, now)


class FastLaneProtocol(LoopaiHttpProtocol):
    """One connection. The application carries the lane: ``app.lane`` is the process's :class:`FastLane`."""

    __slots__ = (
        "_body",
        "_hot_headers",
        "_idle",
        "_last_answer",
        "_sent_correlation_id",
        "_sent_traceparent",
        "_trusted",
        "lane",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lane: FastLane = self.config.loaded_app.lane
        self._trusted = False
        self._body = b""
        self._hot_headers: HotHeaders
        self._sent_correlation_id: str | None = None
        self._sent_traceparent: str | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._last_answer = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self._trusted = self.lane.guard.trusts(self.client)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        before: Any = self.cycle
        if self._receiving or self._refused or (before is not None and not before.response_complete):
            super().data_received(data)
            return
        lane = self.lane
        line_end = data.find(_END_OF_LINE)
        head_end = data.find(_END_OF_HEAD, line_end)
        line, block, body = data[:line_end], data[line_end:head_end], data[head_end + 4 :]
        path, headers = lane.lines.get(line), lane.headers.get(block)
        if path is not None and headers is not None and head_end > 0 and len(body) == headers.body_bytes:
            cycle = self._admitted(path, headers)
            if cycle is not None:
                # It came in one piece, and runs as the parser's callbacks would run it.
                if self._deadline is not None:
                    self._disarm()
                if self.timeout_keep_alive_task is not None:
                    self._unset_keepalive_if_required()
                self.cycle = cycle  # type: ignore[assignment]  # as in on_headers_complete
                try:
                    cycle.run(body, None, None)
                except Exception:  # the parser turns it into an error of its own; there is none here
                    log.exception("request_failed")
                    self._fail()
                return
        super().data_received(data)
        parsed: Any = self.cycle
        if type(parsed) is not HotCycle or parsed is before or parsed.more_body or parsed.refusal is not None:
            return
        if self._same_each_time and self._body == body and line == b"POST %b HTTP/1.1" % self.url:
            lane.remember(line, parsed.path, block, self._hot_headers)

    @property
    def _same_each_time(self) -> bool:
        """Whether the head had nothing that clients make anew for each request."""
        return self._sent_correlation_id is None and self._sent_traceparent is None

    def on_message_begin(self) -> None:
        """Leaves uvicorn's scope dictionary for later: a hot request needs none."""
        self.url = b""
        self.headers = []
        self._body = b""
        self._receiving = True
        self._headers_complete = False
        self._head_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._headers_complete = True
        if (
            self._refused or len(self.headers) > MAX_HEADERS or self._head_bytes + self._chunk_bytes > MAX_HEADER_BYTES
        ) and self._head_refused():
            return
        cycle = self._hot_cycle()
        if cycle is None:
            self._go_ordinary()
        else:
            self.cycle = cycle  # type: ignore[assignment]  # it has the face that uvicorn looks at

    def _go_ordinary(self) -> None:
        """Lets uvicorn see the request from its beginning."""
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        for name, value in headers:
            super().on_header(name, value)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        cycle: Any = self.cycle
        if type(cycle) is HotCycle and cycle.more_body:
            self._body = self._body + body if self._body else body
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        cycle: Any = self.cycle
        if type(cycle) is HotCycle and cycle.more_body:
            self._received()
            cycle.run(self._body, self._sent_correlation_id, self._sent_traceparent)
        else:
            super().on_message_complete()

    def _fail(self) -> None:
        cycle: Any = self.cycle
        if type(cycle) is HotCycle and not cycle.response_complete:
            cycle.keep_alive = False
            cycle.failed(Internal("something unforeseen happened; the log has the cause"))
        super()._fail()

    def on_hot_response_complete(self, cycle: HotCycle, now: float) -> None:
        """Goes on with what was pipelined behind a hot request, or lets the connection idle."""
        current: Any = self.cycle
        if current is not cycle:
            self.on_response_complete()
            return
        self.cycle = None  # type: ignore[assignment]  # as before the first request; the next one finds its memory warm
        self.server_state.total_requests += 1
        self._last_answer = now
        if self._idle is None:
            self._idle = self.loop.call_later(self.timeout_keep_alive, self._check_idle)

    def _check_idle(self) -> None:
        """One timer for each connection instead of one for each request."""
        self._idle = None
        if self.transport.is_closing():
            return
        left = self._last_answer + self.timeout_keep_alive - time.perf_counter()
        busy = self.cycle is not None and not self.cycle.response_complete
        if busy or left > 0 or self._receiving:
            self._idle = self.loop.call_later(max(left, 1.0), self._check_idle)
        else:
            self.end_idle()

    def _hot_cycle(self) -> HotCycle | None:
        """The cycle of a hot request; ``None`` for one that is not, or about which the store must be asked."""
        before = self.cycle
        if (before is not None and not before.response_complete) or self.pipeline:
            return None
        lane = self.lane
        path = lane.path_of(self.url)
        parser = self.parser
        if path is None or parser.get_method() != b"POST" or not parser.should_keep_alive():
            return None
        if parser.get_http_version() != "1.1":  # uvicorn keeps no connection of HTTP/1.0, whatever it asks for
            return None
        length = 0
        content_type = correlation_id = traceparent = authorization = api_key = forwarded_proto = None
        for name, value in self.headers:
            if name not in _READ:
                continue
            if name == b"content-type" and content_type is None:
                content_type = value
            elif name == b"content-length":
                length = int(value)
            elif name == b"authorization" and authorization is None:
                authorization = value
            elif name == b"x-correlation-id" and correlation_id is None:
                correlation_id = value.decode("latin-1")
            elif name == b"traceparent" and traceparent is None:
                traceparent = value.decode("latin-1")
            elif name == b"accept" and value in _ACCEPTS_JSON:
                pass
            elif name == b"x-api-key" and api_key is None:
                api_key = value
            elif name == b"x-forwarded-proto" and forwarded_proto is None:
                forwarded_proto = value
            else:  # unusual, or there twice
                return None
        if content_type != b"application/json" or not 0 < length <= lane.max_body_bytes:
            return None
        credential = authorization if api_key is None else b"Bearer " + api_key
        sent = correlation_id is not None and is_correlation_id(correlation_id)
        self._sent_correlation_id = correlation_id if sent else None
        self._sent_traceparent = traceparent if is_traceparent(traceparent) else None
        self._hot_headers = HotHeaders(length, credential, forwarded_proto == b"https")
        return self._admitted(path, self._hot_headers)

    def _admitted(self, path: HotPath, headers: HotHeaders) -> HotCycle | None:
        """The cycle of a request that may be made, or is refused; ``None`` when the ordinary lane has to see to it."""
        private = self.scheme == "https" or (self._trusted and headers.forwarded_https)
        guard = self.lane.guard
        if guard.require_https and not private:
            return None
        refusal = None
        try:
            if not guard.open and not guard.admit_execution(headers.credential, path.task):
                return None
        except LoopaiError as error:
            refusal = error
        api = path.api
        return HotCycle(self, path, api.private_end if private else api.usual_end, refusal)
