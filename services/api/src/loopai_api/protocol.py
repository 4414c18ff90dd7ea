"""HTTP on the wire: uvicorn's httptools protocol with a deadline for each request and typed refusals.

uvicorn reads a request for as long as the client likes, and accepts any number of headers; both are bounded here.
"""

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from loopai_api.execution.metrics import CONNECTIONS, SLOW_READERS, HttpMetrics
from loopai_api.problems import HeadersTooLarge, RequestTimeout, headers_of, status_of
from loopai_api.versions import Headers, error_format, version_named
from loopai_common.errors import LoopaiError, Overloaded, ValidationFailed
from loopai_common.identifiers import new_id
from loopai_common.runtime.logging import get_logger

log = get_logger()

MAX_HEADERS = 100
MAX_HEADER_BYTES = 64 * 1024
CONNECTION_EXTENSION = "loopai.connection"
"""In the ASGI scope's extensions: ``closing``, a function that says whether the connection is closing or gone, and
``abort``, one that ends it with what was not sent.

uvicorn drops what is sent to a client that has gone, and says so only to who reads on; a streamed answer must know.
"""
_STREAMED = b"application/x-ndjson"


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What a client may take of a process.

    ``receive_timeout_seconds`` is for one whole request, or, where that is a stream of lines, for each silence in it.
    ``send_timeout_seconds`` is how long a client may take nothing of an answer that waits for it.
    """

    receive_timeout_seconds: float = 10.0
    send_timeout_seconds: float = 30.0
    max_connections: int = 10_000


class _ClockedFlow(FlowControl):
    """Knows since when bytes may come: a silence that this side asked for is not the client's."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(transport)
        self._loop = loop
        self.resumed_at = 0.0

    def resume_reading(self) -> None:
        if self.read_paused:
            self.resumed_at = self._loop.time()
        super().resume_reading()


class LoopaiHttpProtocol(HttpToolsProtocol):
    """One connection. The application carries what it needs: ``app.limits``, ``app.metrics``, as ``app.notices`` what
    the responses of deprecated versions carry, and ``app.stop_streams``, which ends answers without an end.
    """

    # uvicorn's own attributes fit in what the interpreter lays out as an array, up to 30; with these they would not.
    __slots__ = (
        "_chunk_bytes",
        "_deadline",
        "_head_bytes",
        "_headers_complete",
        "_last_byte",
        "_receiving",
        "_refused",
        "_unsent_bytes",
        "_unsent_check",
        "limits",
        "metrics",
        "notices",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.limits: ConnectionLimits = self.config.loaded_app.limits
        self.metrics: HttpMetrics = self.config.loaded_app.metrics
        self.notices: Mapping[str | None, Headers] = self.config.loaded_app.notices
        self.url = b""  # a connection may be refused before it asks for anything
        self._deadline: asyncio.TimerHandle | None = None
        self._receiving = False
        self._headers_complete = False
        self._head_bytes = 0
        self._chunk_bytes = 0
        self._refused = False
        self._last_byte = 0.0
        self._unsent_check: asyncio.TimerHandle | None = None
        self._unsent_bytes: float = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self.flow = _ClockedFlow(transport, self.loop)
        self._arm()
        if len(self.connections) > self.limits.max_connections:
            self.metrics.rejected[CONNECTIONS] += 1
            self._refuse(Overloaded("too many connections are open; close some, and try again"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        if self._unsent_check is not None:
            self._unsent_check.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Reads no more from a client that does not read its answers, and gives up one that goes on like that."""
        super().pause_writing()
        if not self.transport.is_closing():
            self.flow.pause_reading()
        if self._unsent_check is None:
            self._watch_unsent()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unsent_bytes = math.inf  # something was taken, whatever is written next
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def shutdown(self) -> None:
        """Also ends what would stream for as long as it is let."""
        self.config.loaded_app.stop_streams()
        super().shutdown()

    def timeout_keep_alive_handler(self) -> None:
        self.end_idle()

    def end_idle(self) -> None:
        """Ends a connection that is not used, with what its client has not taken by now."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        elif not self.transport.is_closing():
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
        self._chunk_bytes = len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # no protocol is offered to upgrade to: the request is answered like any other
        except httptools.HttpParserCallbackError:
            log.exception("request_failed")
            self._fail()
            return
        except httptools.HttpParserError:
            self._refuse(ValidationFailed("this is not a valid HTTP/1.1 request"))
            return
        if self._receiving and not self._refused:
            # Only a request that did not arrive whole needs a deadline and a bound on its head.
            if not self._headers_complete:
                self._head_bytes += len(data)
                if self._head_bytes > MAX_HEADER_BYTES:
                    self._refuse(HeadersTooLarge(f"the request line and headers may have {MAX_HEADER_BYTES} bytes"))
            self._last_byte = self.loop.time()
            if self._deadline is None:
                self._arm()

    def on_message_begin(self) -> None:
        self._receiving = True
        self._headers_complete = False
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._headers_complete = True
        if not self._head_refused():
            self.scope["extensions"] = {
                CONNECTION_EXTENSION: {"closing": self.transport.is_closing, "abort": self.transport.abort}
            }
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._received()
        if not self._refused:
            super().on_message_complete()

    def _head_refused(self) -> bool:
        """Refuses a head over the limits. Called for one that can be: the usual one is seen to be small at a glance."""
        if len(self.headers) > MAX_HEADERS:
            self._refuse(HeadersTooLarge(f"a request may have {MAX_HEADERS} headers"))
        elif len(self.url) + sum(len(n) + len(v) for n, v in self.headers) > MAX_HEADER_BYTES:
            self._refuse(HeadersTooLarge(f"the request line and headers may have {MAX_HEADER_BYTES} bytes"))
        return self._refused

    def _received(self) -> None:
        self._receiving = False
        if self._deadline is not None:
            self._disarm()

    def _arm(self) -> None:
        self._deadline = self.loop.call_later(self.limits.receive_timeout_seconds, self._too_slow)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        seconds = self.limits.receive_timeout_seconds
        # What is not read because a request before it is being answered is not late.
        patience = seconds if self.flow.read_paused else self._stream_patience(seconds)
        if patience > 0:
            self._deadline = self.loop.call_later(patience, self._too_slow)
            return
        self._refuse(RequestTimeout(f"send the whole request within {seconds:g} seconds"))

    def _stream_patience(self, seconds: float) -> float:
        """How much longer a stream of lines that is being answered may be silent; 0 for any other request."""
        streamed = self._headers_complete and any(
            name == b"content-type" and value.lower().startswith(_STREAMED) for name, value in self.headers
        )
        if not streamed or self.cycle is None or self.cycle.response_complete:
            return 0.0
        flow = self.flow
        since = max(self._last_byte, flow.resumed_at if isinstance(flow, _ClockedFlow) else 0.0)
        return since + seconds - self.loop.time()

    def _watch_unsent(self) -> None:
        self._unsent_bytes = self.transport.get_write_buffer_size()
        self._unsent_check = self.loop.call_later(self.limits.send_timeout_seconds, self._check_unsent)

    def _check_unsent(self) -> None:
        """Goes on until everything was taken: a connection that is closing waits for its client too."""
        self._unsent_check = None
        left = self.transport.get_write_buffer_size()
        if left >= self._unsent_bytes:
            self.metrics.rejected[SLOW_READERS] += 1
            self.transport.abort()
        elif left:
            self._watch_unsent()

    def _fail(self) -> None:
        """Ends a connection on which something unforeseen happened: nobody is left waiting for an answer."""
        self._refused = True
        self.transport.close()

    def _refuse(self, error: LoopaiError) -> None:
        """Answers on the wire, where no application can, and closes."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        if len(self.connections) <= self.limits.max_connections:
            self.metrics.refused(error)
        cycle = self.cycle
        if self.pipeline and self.pipeline[0][0] is cycle and cycle.more_body:
            # It came behind requests that are not answered yet, and is told when it is its turn.
            self.pipeline[0] = cycle, self._refusal(error)
            return
        if cycle is not None and not cycle.response_complete and not cycle.more_body:
            # What is refused came after a request that is being answered; that answer is the last one.
            cycle.keep_alive = False
            return
        if cycle is None or not cycle.response_started or cycle.response_complete:
            refusal = self._refusal(error)
            head = b"".join(b"%b: %b\r\n" % header for header in refusal.headers)
            asked_for_head = self._receiving and self._headers_complete and self.parser.get_method() == b"HEAD"
            body = b"" if asked_for_head else refusal.body
            self.transport.write(STATUS_LINE[refusal.status] + head + b"\r\n" + body)
        self.transport.close()

    def _refusal(self, error: LoopaiError) -> "_Refusal":
        """The answer that ends a connection."""
        trace_id = new_id()
        path = self.url.partition(b"?")[0].decode("latin-1")
        form = error_format(path)
        body = form.body(error, trace_id, path)
        headers = [
            *((name.lower().encode(), value.encode()) for name, value in headers_of(error).items()),
            (b"content-type", form.media_type.encode()),
            (b"content-length", b"%d" % len(body)),
            (b"x-correlation-id", trace_id.encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"cache-control", b"no-store"),
            *self.notices.get(version_named(path), ()),
            (b"connection", b"close"),
        ]
        return _Refusal(status_of(error), headers, body)


@dataclass(frozen=True, slots=True)
class _Refusal:
    """An answer; as an application it gives it to a request whose turn has come."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    async def __call__(self, _scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body})
