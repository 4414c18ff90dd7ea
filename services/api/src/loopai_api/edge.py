"""The outermost layer of the ordinary lane: correlation, headers on every answer, and counting."""

import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from loopai_api.execution.metrics import HttpMetrics
from loopai_api.fastlane.lane import FastLane
from loopai_api.problems import REFUSAL_KEY, HttpsRequired, error_response
from loopai_api.protocol import ConnectionLimits
from loopai_api.security import HSTS, Guard
from loopai_api.versions import Headers, error_format, version_named
from loopai_common.runtime import context, tracing

_CORRELATION = b"x-correlation-id"
_TRACEPARENT = b"traceparent"
_UNMATCHED = "unmatched"
_EXPOSED_HEADERS = (
    *("X-Correlation-ID", "Location", "ETag", "Link", "Deprecation", "Sunset", "Preference-Applied", "Server-Timing"),
    *("Retry-After", "RateLimit", "RateLimit-Policy", "WWW-Authenticate"),
)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Edge:
    """ASGI middleware around the whole application. Carries what the HTTP protocol asks its application for."""

    def __init__(
        self,
        app: ASGIApp,
        metrics: HttpMetrics,
        limits: ConnectionLimits,
        lane: FastLane,
        guard: Guard,
        notices: Mapping[str, Headers],
        stop_streams: Callable[[], None],
    ) -> None:
        self.app = app
        self._guard = guard
        self.metrics = metrics
        self.limits = limits
        self.lane = lane
        self.notices = notices
        self.stop_streams = stop_streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500
        private = False
        request = context.new_context(
            correlation_id=_header(scope, _CORRELATION), traceparent=_header(scope, _TRACEPARENT)
        )

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _add_headers(message, request.correlation_id, private=private)
                message["headers"].extend(self.notices.get(version_named(scope["path"]) or "", ()))
            await send(message)

        self.metrics.in_flight += 1
        try:
            with context.bound(request), _span(scope) as span:
                private = self._guard.check_transport(scope)
                if private:
                    scope["scheme"] = "https"
                await self.app(scope, receive, send_with_headers)
                _tell(span, scope, status)
        except HttpsRequired as error:
            scope[REFUSAL_KEY] = error
            path = scope["path"]
            refusal = error_response(error, error_format(path), request.correlation_id, path)
            await refusal(scope, receive, send_with_headers)
        finally:
            self.metrics.in_flight -= 1
            self.metrics.counts(_method(scope), _route(scope)).observe(status, time.perf_counter() - started)
            if REFUSAL_KEY in scope:
                self.metrics.refused(scope[REFUSAL_KEY])


def _span(scope: Scope) -> AbstractContextManager[tracing.Span]:
    attributes = {"http.request.method": _method(scope), "url.scheme": scope["scheme"]}
    return tracing.span(_method(scope), kind=tracing.Kind.SERVER, attributes=attributes)


def _tell(span: tracing.Span, scope: Scope, status: int) -> None:
    """Adds what is known at the end. A path that no route matches may hold anything, and is left out."""
    route = _route(scope)
    span.set({"http.response.status_code": status})
    if route != _UNMATCHED:
        span.set({"http.route": route, "url.path": scope["path"]}, name=f"{_method(scope)} {route}")
    if status >= 500:
        span.fail(str(status))


def _header(scope: Scope, name: bytes) -> str | None:
    for key, value in scope["headers"]:
        if key == name:
            return str(value.decode("latin-1"))
    return None


def _add_headers(message: MutableMapping[str, Any], correlation_id: str, *, private: bool) -> None:
    headers = message.setdefault("headers", [])
    names = {name.lower() for name, _ in headers}
    headers.append((_CORRELATION, correlation_id.encode("latin-1")))
    headers.append((b"x-content-type-options", b"nosniff"))
    if b"cache-control" not in names:
        headers.append((b"cache-control", b"no-store"))
    if private:
        headers.append(HSTS)


def _method(scope: Scope) -> str:
    return scope["method"] if scope["method"] in _METHODS else "other"


def _route(scope: Scope) -> str:
    route = scope.get("route")
    path = getattr(route, "path_format", None) or getattr(route, "path", None)
    return str(path) if path else _UNMATCHED


def with_cors(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """The application for pages of these origins too; as it is without any. Keys go in headers, so no credentials."""
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=sorted(_METHODS - {"OPTIONS"}),
        allow_headers=["*"],
        expose_headers=_EXPOSED_HEADERS,
    )
