"""Errors over HTTP: the one table from codes to statuses, and how an error is written into a response."""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from starlette.responses import Response

from loopai_common.contracts.base import format_timestamp
from loopai_common.errors import LoopaiError, ValidationFailed, Violation

STATUS_BY_CODE: Mapping[str, int] = {
    "validation_error": 400,
    "malformed_json": 400,
    "input_schema_violation": 400,
    "program_rejected": 400,
    "task_id_mismatch": 400,
    "missing_api_key": 401,
    "invalid_api_key": 401,
    "insufficient_scope": 403,
    "https_required": 403,
    "task_not_found": 404,
    "artifact_not_found": 404,
    "execution_not_found": 404,
    "unsupported_api_version": 404,
    "not_found": 404,
    "method_not_allowed": 405,
    "request_timeout": 408,
    "task_already_exists": 409,
    "task_not_ready": 409,
    "version_conflict": 409,
    "activation_refused": 409,
    "task_archived": 410,
    "precondition_failed": 412,
    "body_too_large": 413,
    "unsupported_media_type": 415,
    "idempotency_key_reused": 422,
    "rate_limit_exceeded": 429,
    "headers_too_large": 431,
    "internal": 500,
    "artifact_corrupt": 500,
    "generator_failed": 502,
    "no_executor": 503,
    "overloaded": 503,
    "store_unavailable": 503,
    "bus_unavailable": 503,
    "shutting_down": 503,
    "deadline_exceeded": 504,
}

REFUSAL_KEY = "loopai.refusal"
"""Where the ASGI scope holds the error that a request was answered with, for whoever counts."""

RETRY_AFTER_SECONDS = "1"

CLIENT_CLOSED_REQUEST = 499
"""Counted for a client that left before its answer; nobody is there to read it. nginx's number."""


class NotFound(LoopaiError):
    """No resource has this path."""

    code = "not_found"


class UnsupportedApiVersion(LoopaiError):
    """The path names a version of the API that does not exist."""

    code = "unsupported_api_version"


class MethodNotAllowed(LoopaiError):
    """The resource does not offer this method."""

    code = "method_not_allowed"


class UnsupportedMediaType(LoopaiError):
    """The body is not ``application/json``, or is compressed."""

    code = "unsupported_media_type"


class RequestTimeout(LoopaiError):
    """The client took too long to send its request."""

    code = "request_timeout"


class HeadersTooLarge(LoopaiError):
    """The request line and headers are larger, or more, than the limits."""

    code = "headers_too_large"


class MissingApiKey(LoopaiError):
    """The request has no API key, and there are keys."""

    code = "missing_api_key"


class InvalidApiKey(LoopaiError):
    """The API key is unknown, misspelt, revoked or expired."""

    code = "invalid_api_key"


class InsufficientScope(LoopaiError):
    """The API key may not do this, or not to this task."""

    code = "insufficient_scope"


class HttpsRequired(LoopaiError):
    """The request came over plain HTTP; its key should be thought of as overheard."""

    code = "https_required"


class RateLimitExceeded(LoopaiError):
    """The API key's requests come faster than its rate."""

    code = "rate_limit_exceeded"
    retryable = True

    def __init__(self, burst: int, requests_per_second: float, wait_seconds: float) -> None:
        super().__init__(f"this API key may send {requests_per_second:g} requests a second; slow down")
        self.burst = burst
        self.refill_seconds = burst / requests_per_second
        """The time in which an empty bucket fills."""
        self.wait_seconds = wait_seconds


def broken_rules(violations: Sequence[Violation], *, listed: int | None = None) -> ValidationFailed:
    """The error for a request that breaks these rules, of which the first ``listed`` (``None``: all) are shown."""
    rules = "1 rule" if len(violations) == 1 else f"{len(violations)} rules"
    shown = violations[:listed]
    more = f"; the first {len(shown)} are listed" if len(shown) < len(violations) else ""
    return ValidationFailed(f"the request breaks {rules}{more}", details=shown)


def status_of(error: LoopaiError) -> int:
    """The HTTP status that stands for the error's code."""
    return STATUS_BY_CODE.get(error.code, 500)


def headers_of(error: LoopaiError) -> dict[str, str]:
    """What the response to ``error`` says in its headers.

    ``RateLimit`` and ``RateLimit-Policy`` are those of draft-ietf-httpapi-ratelimit-headers-10.
    """
    match error:
        case RateLimitExceeded():
            wait = math.ceil(error.wait_seconds)
            return {
                "Retry-After": str(wait),
                "RateLimit": f'"key";r=0;t={wait}',
                "RateLimit-Policy": f'"key";q={error.burst};w={math.ceil(error.refill_seconds)}',
            }
        case MissingApiKey():
            return {"WWW-Authenticate": "Bearer"}
        case InvalidApiKey():
            return {"WWW-Authenticate": 'Bearer error="invalid_token"'}
    return {"Retry-After": RETRY_AFTER_SECONDS} if status_of(error) == 503 else {}


def error_body(code: str, message: str, trace_id: str, details: Sequence[Violation | Mapping[str, Any]] = ()) -> bytes:
    """An ``ErrorResponse`` as JSON."""
    return json.dumps(
        {
            "code": code,
            "message": message,
            "details": [
                {"field": d.field, "message": d.message, "code": d.code} if isinstance(d, Violation) else dict(d)
                for d in details
            ],
            "trace_id": trace_id,
            "timestamp": format_timestamp(datetime.now(UTC)),
        },
        ensure_ascii=False,
        separators=(",", ":"),
    ).encode()


def error_response(error: LoopaiError, trace_id: str, headers: Mapping[str, str] | None = None) -> Response:
    """The response that tells a client about ``error``."""
    return Response(
        error_body(error.code, error.message, trace_id, error.details),
        status_code=status_of(error),
        media_type="application/json",
        headers={**headers_of(error), **(headers or {})},
    )
