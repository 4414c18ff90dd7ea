"""Subjects, errors, settings, context."""

import time
from pathlib import Path

import pytest

from loopai_common.contracts import subjects
from loopai_common.errors import (
    ERRORS_BY_CODE,
    DeadlineExceeded,
    GeneratorFailed,
    GeneratorUnavailable,
    LoopaiError,
    TaskNotFound,
    ValidationFailed,
    Violation,
)
from loopai_common.runtime import context
from loopai_common.runtime.errors import failure_headers, failure_of, raise_failure
from loopai_common.runtime.settings import PREFIXES, ServiceSettings, SettingsError, load_settings


@pytest.mark.parametrize("value", ["", "a.b", "*", ">", "a b", "a\x00", "é", "x" * 201, "\r\n"])
def test_a_token_from_outside_cannot_change_a_subject(value: str) -> None:
    with pytest.raises(subjects.InvalidToken):
        subjects.execute(value, None)


def test_execute_subject_names_task_and_version() -> None:
    assert subjects.execute("spam-detection", None) == "loopai.rpc.v1.execute.spam-detection.active"
    assert subjects.execute("spam-detection", 3) == "loopai.rpc.v1.execute.spam-detection.3"


def test_no_stream_covers_requests() -> None:
    streams = (subjects.COMMANDS_ALL, *subjects.EVENTS_ALL, subjects.EXECUTIONS_ALL)
    assert not any(s.startswith("loopai.rpc") for s in streams)


def test_errors_cross_the_bus_unchanged() -> None:
    sent = ValidationFailed("two rules", details=[Violation("a/0", "must be a number", "type")])
    with pytest.raises(ValidationFailed) as caught:
        raise_failure(failure_of(sent).model_dump_json().encode())
    assert caught.value.message == sent.message
    assert caught.value.details == sent.details
    assert failure_headers(sent)["Nats-Service-Error-Code"] == "validation_error"


def test_an_unknown_code_is_internal() -> None:
    with pytest.raises(LoopaiError) as caught:
        raise_failure(b'{"code": "from_the_future", "message": "m"}')
    assert caught.value.code == "internal"


def test_a_header_cannot_be_split_by_a_message() -> None:
    assert "\n" not in failure_headers(TaskNotFound("a\r\nNats-Evil: 1"))["Nats-Service-Error"]


def test_every_code_has_one_class() -> None:
    assert ERRORS_BY_CODE["generator_failed"] is GeneratorFailed
    assert GeneratorUnavailable.code == "generator_failed"
    for code, kind in ERRORS_BY_CODE.items():
        assert kind.code == code


def test_settings_come_from_the_service_then_from_the_shared_variable() -> None:
    environ = {"LOOPAI_DATA_DIR": "shared", "LOOPAI_EXECUTOR_DATA_DIR": "own", "LOOPAI_NATS_URL": "nats://h:1"}
    settings = load_settings(ServiceSettings, "executor", environ)
    assert settings.data_dir == Path("own")
    assert settings.nats_url == "nats://h:1"
    assert load_settings(ServiceSettings, "api", environ).data_dir == Path("shared")


def test_a_misspelt_setting_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match="LOOPAI_EXECUTOR_PROT"):
        load_settings(ServiceSettings, "executor", {"LOOPAI_EXECUTOR_PROT": "1"})


def test_a_bad_value_is_refused_by_name_and_not_repeated() -> None:
    with pytest.raises(SettingsError, match="LOOPAI_API_PORT") as caught:
        load_settings(ServiceSettings, "api", {"LOOPAI_API_PORT": "canary"})
    assert "canary" not in str(caught.value)


def test_the_proxys_variables_are_not_taken_for_the_generators() -> None:
    load_settings(ServiceSettings, "generator", {f"{PREFIXES['generator-proxy']}PORT": "1"})


@pytest.mark.parametrize("sent", [None, "", "with space", "x" * 129, "é", "a\nb"])
def test_a_bad_correlation_id_is_replaced(sent: str | None) -> None:
    made = context.new_context(correlation_id=sent).correlation_id
    assert made != sent
    assert 1 <= len(made) <= 128


def test_a_good_correlation_id_and_traceparent_are_kept() -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    made = context.new_context(correlation_id="order-7", traceparent=trace)
    assert (made.correlation_id, made.traceparent) == ("order-7", trace)
    assert context.from_headers(context.to_headers(made)) == made
    assert not made.generated


def test_a_hop_may_only_spend_what_is_left() -> None:
    with context.bound(context.new_context(deadline=time.time() + 0.5)):
        assert context.seconds_left(10.0) <= 0.5
    with context.bound(context.new_context(deadline=time.time() - 1)), pytest.raises(DeadlineExceeded):
        context.seconds_left(10.0)
    assert context.seconds_left(10.0) == 10.0
