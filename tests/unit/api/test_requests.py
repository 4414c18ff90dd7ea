"""Reading execute requests, references and preferences."""

import json
from typing import Any

import msgspec
import pytest

from loopai_api.execution.rendering import Origin, render_execution, timestamp_now
from loopai_api.execution.requests import parse_execute
from loopai_api.models import ExecuteResponse
from loopai_api.problems import STATUS_BY_CODE, NotFound
from loopai_api.references import task_reference, version_reference
from loopai_common.contracts.frames import AnswerKind, FrameAnswerGroup
from loopai_common.errors import (
    ERRORS_BY_CODE,
    ArtifactNotFound,
    InputSchemaViolation,
    LoopaiError,
    MalformedJson,
    TaskIdMismatch,
    TaskNotFound,
    ValidationFailed,
)

TASK_ID = "01938f5e-3a6b-7c4d-9e1f-2a3b4c5d6e7f"


def test_the_inputs_bytes_stay_as_they_came() -> None:
    request = parse_execute(b'{ "input" : {"b": 1.50, "a":  [1]} , "timeout_ms": 60000}', "t")
    assert bytes(request.input) == b'{"b": 1.50, "a":  [1]}'
    assert request.timeout_ms == 60_000


def test_null_is_an_input() -> None:
    assert bytes(parse_execute(b'{"input":null}', "t").input) == b"null"


@pytest.mark.parametrize(
    ("extra", "fields"),
    [
        ({"timeout_ms": 0}, {"timeout_ms"}),
        ({"timeout_ms": -1}, {"timeout_ms"}),
        ({"timeout_ms": 60_001}, {"timeout_ms"}),
        ({"timeout_ms": 10**9}, {"timeout_ms"}),
        ({"timeout_ms": "5"}, {"timeout_ms"}),
        ({"timeout_ms": True}, {"timeout_ms"}),
        ({"version": 0}, {"version"}),
        ({"version": -1}, {"version"}),
        ({"version": 2**63}, {"version"}),
        ({"version": 1.5}, {"version"}),
        ({"version": "1"}, {"version"}),
        ({"force_validation": 1}, {"force_validation"}),
        ({"unknown": 1}, {"unknown"}),
        ({"task_id": 5}, {"task_id"}),
        ({"timeout_ms": 0, "version": "1", "unknown": 1}, {"timeout_ms", "version", "unknown"}),
    ],
)
def test_every_violation_is_reported(extra: dict[str, Any], fields: set[str]) -> None:
    with pytest.raises(ValidationFailed) as caught:
        parse_execute(json.dumps({"input": 1, **extra}).encode(), "t")
    assert {v.field for v in caught.value.details} == fields


def test_a_missing_input_is_a_violation() -> None:
    with pytest.raises(ValidationFailed) as caught:
        parse_execute(b"{}", "t")
    assert [v.field for v in caught.value.details] == ["input"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[1]",
        b'"x"',
        b'{"input": NaN}',
        b'{"input": 1e999}',
        b'{"input": 1, "input": 2}',
        b'{"input": {"a": 1, "a": 2}}',
        rb'{"input": "\ud800"}',
        b'{"input": "\xff"}',
        b'{"input": ' + b"[" * 100_000,
        b'{"input": ' + b"1" * 5_000 + b"}",
    ],
)
def test_what_is_not_strict_json_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedJson):
        parse_execute(body, "t")


def test_task_id_must_be_the_paths() -> None:
    body = json.dumps({"input": 1, "task_id": TASK_ID}).encode()
    assert parse_execute(body, TASK_ID).task_id == TASK_ID
    with pytest.raises(TaskIdMismatch):
        parse_execute(body, TASK_ID[:-1] + "0")


@pytest.mark.parametrize("text", ["*", ">", "..", "a b", "x" * 201, "a/b", "é", "", "a\x00", "a\r\n"])
def test_a_path_that_names_no_task(text: str) -> None:
    if text == "..":
        assert task_reference(text) == ".."  # a legal name, which the store will not find
        return
    with pytest.raises(TaskNotFound):
        task_reference(text)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "latest", "2147483648", "9223372036854775808", "01", "", "1 "])
def test_a_path_that_names_no_version(text: str) -> None:
    with pytest.raises(ArtifactNotFound):
        version_reference(text)


def test_a_path_that_names_a_version() -> None:
    assert version_reference("active") is None
    assert version_reference("2147483647") == 2**31 - 1


def answer(kind: AnswerKind, payload: bytes) -> bytes:
    origin = Origin(FrameAnswerGroup(TASK_ID, TASK_ID, 3, kind, 1234, True, [], []), 0.0, timestamp_now())
    status, body = render_execution(origin, msgspec.Raw(payload), TASK_ID, 'c"1', "spam")
    assert status == 200
    return b"".join(body)


def test_a_success_carries_the_outputs_bytes() -> None:
    body = answer(AnswerKind.SUCCESS, b'{"x":  1.50}')
    assert b'"output":{"x":  1.50},' in body
    parsed = ExecuteResponse.model_validate_json(body)
    assert (parsed.status, parsed.version, parsed.latency_ms, parsed.correlation_id) == ("success", 3, 1.234, 'c"1')
    assert parsed.sampled_for_validation is True


@pytest.mark.parametrize(("kind", "status"), [(AnswerKind.ERROR, "error"), (AnswerKind.TIMEOUT, "timeout")])
def test_a_failure_of_the_program_is_an_outcome(kind: AnswerKind, status: str) -> None:
    parsed = ExecuteResponse.model_validate_json(answer(kind, rb'["crashed","it \"died\""]'))
    assert (parsed.status, parsed.output, parsed.error_code, parsed.error_message) == (
        status,
        None,
        "crashed",
        'it "died"',
    )


def test_a_refusal_is_raised() -> None:
    payload = (
        b'{"code":"input_schema_violation","message":"m","details":[{"field":"input/a","message":"x","code":"type"}]}'
    )
    with pytest.raises(InputSchemaViolation) as caught:
        answer(AnswerKind.REFUSED, payload)
    assert caught.value.details[0].field == "input/a"


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (AnswerKind.ERROR, b"1"),
        (AnswerKind.ERROR, b'["crashed","\xff"]'),
        (AnswerKind.TIMEOUT, b"[]"),
        (AnswerKind.REFUSED, b"[]"),
    ],
)
def test_an_unreadable_reason_is_internal(kind: AnswerKind, payload: bytes) -> None:
    with pytest.raises(LoopaiError) as caught:
        answer(kind, payload)
    assert caught.value.code == "internal"


def test_every_error_has_a_status() -> None:
    assert set(ERRORS_BY_CODE) <= set(STATUS_BY_CODE)
    assert STATUS_BY_CODE[NotFound.code] == 404


def test_timestamps_have_milliseconds_and_z() -> None:
    text = timestamp_now()
    assert text.endswith("Z")
    assert len(text) == len("2026-01-05T09:00:00.000Z")
