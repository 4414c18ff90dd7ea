"""What a request carries through every hop: who asks, since when, and until when.

Held in context variables, so that a log line or an outgoing message finds it without being handed it.
"""

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
_TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class RequestContext:
    """``deadline`` is Unix time in seconds, or ``None`` when the caller set none."""

    correlation_id: str
    traceparent: str
    deadline: float | None = None
    generated: bool = False
    """Whether the correlation id was made here, because the caller sent none."""


_current: ContextVar[RequestContext | None] = ContextVar("loopai_request", default=None)


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
    if traceparent is None or _TRACEPARENT.fullmatch(traceparent) is None:
        traceparent = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00"
    return RequestContext(correlation_id, traceparent, deadline, generated)


@contextmanager
def bound(context: RequestContext) -> Iterator[RequestContext]:
    """Makes ``context`` the current one, for log lines too."""
    token = _current.set(context)
    with structlog.contextvars.bound_contextvars(correlation_id=context.correlation_id):
        try:
            yield context
        finally:
            _current.reset(token)


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
