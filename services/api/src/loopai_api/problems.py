"""Errors over HTTP: the one table from codes to statuses, and how an error is written into a response."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

from starlette.responses import Response

from loopai_common.contracts.base import format_timestamp
from loopai_common.errors import Internal, LoopaiError, ValidationFailed, Violation, kinds_by_code, summary_of

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
    "not_acceptable": 406,
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
    "program_error": 422,
    "rate_limit_exceeded": 429,
    "headers_too_large": 431,
    "internal": 500,
    "artifact_corrupt": 500,
    "generator_failed": 502,
    "store_unavailable": 503,
    "no_executor": 503,
    "no_generator_proxy": 503,
    "overloaded": 503,
    "bus_unavailable": 503,
    "shutting_down": 503,
    "deadline_exceeded": 504,
    "program_timeout": 504,
}

REFUSAL_KEY = "loopai.refusal"
"""Where the ASGI scope holds the error that a request was answered with, for whoever counts."""
ERRORS_PAGE = "/docs/errors"
"""Where this service explains every code, each under an anchor of its name."""

RETRY_AFTER_SECONDS = "1"

CLIENT_CLOSED_REQUEST = 499
"""Counted for a client that left before its answer; nobody is there to read it. nginx's number."""


class NotFound(LoopaiError):
    """No resource has this path."""

    code = "not_found"
    remedy = "Compare the path with the list at `/swagger`."


class UnsupportedApiVersion(LoopaiError):
    """The path names a version of the API that does not exist."""

    code = "unsupported_api_version"
    remedy = "Use one of the versions that the message names."


class MethodNotAllowed(LoopaiError):
    """The resource does not offer this method."""

    code = "method_not_allowed"
    remedy = "Use a method that the `Allow` header names."


class NotAcceptable(LoopaiError):
    """The request accepts nothing of what the operation gives."""

    code = "not_acceptable"
    remedy = "Name one of the media types in the message in `Accept`, or leave the header out."


class UnsupportedMediaType(LoopaiError):
    """The body is not ``application/json``, or is compressed."""

    code = "unsupported_media_type"
    remedy = "Send JSON as it is, with the header `Content-Type: application/json`."


class RequestTimeout(LoopaiError):
    """The client took too long to send its request."""

    code = "request_timeout"
    remedy = "Send the request again, whole; over a slow line, in smaller parts."


class HeadersTooLarge(LoopaiError):
    """The request line and headers are larger, or more, than the limits."""

    code = "headers_too_large"
    remedy = "Send fewer and shorter headers."


class ProgramError(LoopaiError):
    """The program raised, broke its output schema, or hit a limit other than that of time."""

    code = "program_error"
    remedy = "`execution` says what happened. Correct the input, or have a better version made."


class ProgramTimeout(LoopaiError):
    """The program ran out of time."""

    code = "program_timeout"
    remedy = "Allow more with `timeout_ms`, give it less input, or have a faster version made."


class MissingApiKey(LoopaiError):
    """The request has no API key, and there are keys."""

    code = "missing_api_key"
    remedy = "Send `Authorization: Bearer lk_…`; `loopai keys create` makes a key."


class InvalidApiKey(LoopaiError):
    """The API key is unknown, misspelt, revoked or expired."""

    code = "invalid_api_key"
    remedy = "Check the key; `loopai keys list` shows which there are."


class InsufficientScope(LoopaiError):
    """The API key may not do this, or not to this task."""

    code = "insufficient_scope"
    remedy = "Use a key with the scope, and for the task, that the message names."


class HttpsRequired(LoopaiError):
    """The request came over plain HTTP; its key should be thought of as overheard."""

    code = "https_required"
    remedy = "Use `https://`, and revoke a key that was sent in the open."


class RateLimitExceeded(LoopaiError):
    """The API key's requests come faster than its rate."""

    code = "rate_limit_exceeded"
    retryable = True
    remedy = "Wait as long as `Retry-After` says, then send more slowly."

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


@dataclass(frozen=True, slots=True)
class ErrorFormat:
    """How a version of the API writes an error: from the error, the trace id, and the path that was asked for."""

    media_type: str
    body: Callable[[LoopaiError, str, str], bytes]


def _error_response_body(error: LoopaiError, trace_id: str, _path: str) -> bytes:
    return _encode(
        {
            "code": error.code,
            "message": error.message,
            "details": violation_list(error.details),
            "trace_id": trace_id,
            "timestamp": format_timestamp(datetime.now(UTC)),
        }
    )


def _problem_body(error: LoopaiError, trace_id: str, path: str) -> bytes:
    return _encode(problem(error.code, error.message, trace_id, path, violation_list(error.details)))


def problem(
    code: str, detail: str, trace_id: str, path: str, errors: Sequence[Mapping[str, str]] = (), **more: Any
) -> dict[str, Any]:
    """The members of a problem (RFC 9457); ``more`` are further extension members."""
    return {
        "type": f"{ERRORS_PAGE}#{code}",
        "title": title_of(code),
        "status": STATUS_BY_CODE.get(code, 500),
        "detail": detail,
        "instance": path,
        "code": code,
        "trace_id": trace_id,
        "errors": list(errors),
        **more,
    }


ERROR_RESPONSE = ErrorFormat("application/json", _error_response_body)
"""An ``ErrorResponse``: version 1, and whatever is outside the versions."""

PROBLEM = ErrorFormat("application/problem+json", _problem_body)
"""A ``Problem`` (RFC 9457): from version 2 on."""


def error_response(
    error: LoopaiError, form: ErrorFormat, trace_id: str, path: str, headers: Mapping[str, str] | None = None
) -> Response:
    """The response that tells a client about ``error``; ``path`` is what was asked for."""
    return Response(
        form.body(error, trace_id, path),
        status_code=status_of(error),
        media_type=form.media_type,
        headers={**headers_of(error), **(headers or {})},
    )


def violation_list(details: Sequence[Violation]) -> list[dict[str, str]]:
    """Violations as they stand in a body."""
    return [{"field": d.field, "message": d.message, "code": d.code} for d in details]


def error_kinds() -> dict[str, type[LoopaiError]]:
    """Code → class, of every error that this service can answer with; the class says cause and remedy."""
    return kinds_by_code("loopai_common", "loopai_api")


@cache
def title_of(code: str) -> str:
    """What errors with this code have in common: the summary of their class, without its full stop."""
    return summary_of(error_kinds().get(code, Internal)).removesuffix(".")


def _encode(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
