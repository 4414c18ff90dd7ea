"""What a request carries through every hop: who asks, since when, and until when.

Held in context variables, so that a log line or an outgoing message finds it without being handed it.
"""

import random
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import structlog

from loopai_common.contracts import subjects
from loopai_common.errors import DeadlineExceeded
from loopai_common.identifiers import new_id

_CORRELATION_ID = re.compile(r"[\x21-\x7e]{1,128}")
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_ODD = frozenset("13579bdf")


@dataclass(frozen=True, slots=True)
class RequestContext:
    """``deadline`` is Unix time in seconds, or ``None`` when the caller set none."""

    correlation_id: str
    traceparent: str
    deadline: float | None = None
    generated: bool = False
    """Whether the correlation id was made here, because the caller sent none."""
    begins_trace: bool = False
    """Whether the trace was made here, because the caller sent none, and has no span yet."""

    @property
    def sampled_traceparent(self) -> str:
        """The ``traceparent`` when spans of the trace are recorded, else empty."""
        return "" if self.begins_trace or not is_sampled(self.traceparent) else self.traceparent


_current: ContextVar[RequestContext | None] = ContextVar("loopai_request", default=None)


class _Process:
    root_share = 0.0


_process = _Process()


def trace_roots(share: float) -> None:
    """From now on ``share`` (0 to 1) of the traces that begin in this process are sampled."""
    _process.root_share = share


def root_share() -> float:
    """The share of the traces that begin in this process which are sampled."""
    return _process.root_share


def is_traceparent(text: str | None) -> bool:
    """Whether a caller's ``traceparent`` is taken (W3C Trace Context, version 00)."""
    return text is not None and _TRACEPARENT.fullmatch(text) is not None


def is_sampled(traceparent: str) -> bool:
    """Whether spans of the trace are recorded: the lowest bit of the flags."""
    return traceparent[-1:] in _ODD


def current() -> RequestContext:
    """The context of the request being served; a new one where none is (a background task, start-up)."""
    return _current.get() or new_context()


def is_correlation_id(text: str | None) -> bool:
    """Whether a caller's correlation id is taken: 1 to 128 visible ASCII characters."""
    return text is not None and _CORRELATION_ID.fullmatch(text) is not None


def new_context(
    *, correlation_id: str | None = None, traceparent: str | None = None, deadline: float | None = None
) -> RequestContext:
    """A context from what the caller sent; what is missing or malformed is made new."""
    generated = not is_correlation_id(correlation_id)
    if correlation_id is None or generated:
        correlation_id = new_id()
    begins_trace = traceparent is None or not is_traceparent(traceparent)
    if traceparent is None or begins_trace:
        flags = "01" if random.random() < _process.root_share else "00"  # noqa: S311  # chance, no secret
        traceparent = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-{flags}"
    return RequestContext(correlation_id, traceparent, deadline, generated, begins_trace)


@contextmanager
def bound(context: RequestContext) -> Iterator[RequestContext]:
    """Makes ``context`` the current one, for log lines too."""
    token = _current.set(context)
    with structlog.contextvars.bound_contextvars(correlation_id=context.correlation_id, **_trace_fields(context)):
        try:
            yield context
        finally:
            _current.reset(token)


def _trace_fields(context: RequestContext) -> dict[str, str]:
    """What ties a log line to a trace that is recorded."""
    traceparent = context.sampled_traceparent
    if not traceparent:
        return {}
    _, trace_id, span_id, _ = traceparent.split("-")
    return {"trace_id": trace_id, "span_id": span_id}


def from_headers(headers: Mapping[str, str]) -> RequestContext:
    """The context that a bus message carries."""
    return new_context(
        correlation_id=headers.get(subjects.CORRELATION_HEADER),
        traceparent=headers.get(subjects.TRACEPARENT_HEADER),
        deadline=deadline_in(headers),
    )


def deadline_in(headers: Mapping[str, str] | None) -> float | None:
    """The deadline that a bus message carries, as Unix time in seconds."""
    try:
        return int(headers[subjects.DEADLINE_HEADER]) / 1000 if headers else None
    except (KeyError, ValueError):
        return None


def to_headers(context: RequestContext, deadline: float | None = None) -> dict[str, str]:
    """Headers for an outgoing message; ``deadline`` (Unix seconds) overrides the context's."""
    headers = {
        subjects.CORRELATION_HEADER: context.correlation_id,
        subjects.TRACEPARENT_HEADER: context.traceparent,
    }
    until = deadline if deadline is not None else context.deadline
    if until is not None:
        headers[subjects.DEADLINE_HEADER] = str(int(until * 1000))
    return headers


def seconds_left(limit: float) -> float:
    """Time that the current request may still take, at most ``limit``; raises :class:`DeadlineExceeded` at none."""
    context = _current.get()
    if context is None or context.deadline is None:
        return limit
    left = context.deadline - time.time()
    if left <= 0:
        raise DeadlineExceeded("the time given for this request is used up")
    return min(left, limit)
