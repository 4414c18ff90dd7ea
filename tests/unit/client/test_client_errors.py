"""Error bodies become typed errors."""

import json

import pytest

from loopai_client.errors import (
    ApiError,
    Conflict,
    Detail,
    InvalidRequest,
    NotAllowed,
    NotFound,
    RateLimited,
    ServerFault,
    TaskGone,
    Unavailable,
    UnexpectedAnswer,
    api_error,
)


@pytest.mark.parametrize(
    ("status", "code", "kind", "retryable"),
    [
        (400, "validation_error", InvalidRequest, False),
        (401, "invalid_api_key", NotAllowed, False),
        (403, "insufficient_scope", NotAllowed, False),
        (404, "task_not_found", NotFound, False),
        (409, "version_conflict", Conflict, True),
        (409, "task_not_ready", Conflict, False),
        (410, "task_archived", TaskGone, False),
        (412, "precondition_failed", Conflict, False),
        (413, "body_too_large", InvalidRequest, False),
        (422, "idempotency_key_reused", InvalidRequest, False),
        (429, "rate_limit_exceeded", RateLimited, True),
        (500, "internal", ServerFault, False),
        (503, "overloaded", Unavailable, True),
        (504, "deadline_exceeded", Unavailable, True),
        (503, "a_code_of_tomorrow", Unavailable, True),
        (418, "a_code_of_tomorrow", InvalidRequest, False),
    ],
)
def test_family_follows_the_status_and_retryable_the_code(
    status: int, code: str, kind: type[ApiError], retryable: bool
) -> None:
    error = api_error(status, "", json.dumps({"code": code, "message": "m", "trace_id": "t"}).encode())
    assert type(error) is kind
    assert (error.status, error.code, error.message, error.trace_id) == (status, code, "m", "t")
    assert error.retryable is retryable
    assert str(error) == f"{code}: m"


def test_details_are_kept_and_odd_ones_dropped() -> None:
    body = {"code": "c", "details": [{"field": "f", "message": "do", "code": "r"}, "odd", {"field": "only"}]}
    assert api_error(400, "", json.dumps(body).encode()).details == (Detail("f", "do", "r"),)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b"{}", b'"code"', b"[" * 100_000, b"\xff"])
def test_foreign_answers_are_told_by_their_status(body: bytes) -> None:
    error = api_error(502, "Bad Gateway", body)
    assert type(error) is UnexpectedAnswer
    assert (error.code, error.message) == ("unexpected_answer", "HTTP 502 Bad Gateway")
