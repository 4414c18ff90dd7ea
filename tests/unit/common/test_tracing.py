"""What decides whether a request is traced, and what that puts on log lines and into frames."""

import pytest
import structlog

from loopai_common.runtime import context, tracing
from loopai_common.runtime.settings import SettingsError

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{SPAN}-01"
UNSAMPLED = f"00-{TRACE}-{SPAN}-00"
ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


@pytest.mark.parametrize(
    ("environment", "share"),
    [
        ({}, None),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_on"}, None),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "true"}, None),
        (ENDPOINT, 0.01),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, 0.01),
        ({**ENDPOINT, "OTEL_TRACES_SAMPLER": "parentbased_always_on"}, 1.0),
        ({**ENDPOINT, "OTEL_TRACES_SAMPLER": "parentbased_always_off"}, 0.0),
        ({**ENDPOINT, "OTEL_TRACES_SAMPLER_ARG": "0.25"}, 0.25),
        ({**ENDPOINT, "OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}, 0.0),
    ],
)
def test_the_environment_says_whether_and_how_often_traces_begin(
    environment: dict[str, str], share: float | None
) -> None:
    assert tracing.wanted_share(environment) == share


@pytest.mark.parametrize(
    "bad",
    [
        {"OTEL_TRACES_SAMPLER": "always_on"},
        {"OTEL_TRACES_SAMPLER_ARG": "2"},
        {"OTEL_TRACES_SAMPLER_ARG": "nan"},
        {"OTEL_TRACES_SAMPLER_ARG": "often"},
    ],
)
def test_a_sampler_that_is_not_ours_is_refused_with_what_is_allowed(bad: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="OTEL_TRACES_SAMPLER"):
        tracing.wanted_share({**ENDPOINT, **bad})


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_caller_decides_before_chance_does(share: float) -> None:
    context.trace_roots(share)
    try:
        assert context.new_context(traceparent=SAMPLED).sampled_traceparent == SAMPLED
        assert context.new_context(traceparent=UNSAMPLED).sampled_traceparent == ""
        made = context.new_context()
        assert made.begins_trace
        assert context.is_sampled(made.traceparent) is (share == 1.0)
    finally:
        context.trace_roots(0.0)


@pytest.mark.parametrize(
    "nonsense", ["", "01-x", f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", SAMPLED + "\n"]
)
def test_a_traceparent_that_is_none_begins_a_trace(nonsense: str) -> None:
    assert context.new_context(traceparent=nonsense).begins_trace


def test_log_lines_name_the_trace_only_where_it_is_recorded() -> None:
    with context.bound(context.new_context(traceparent=SAMPLED)):
        fields = structlog.contextvars.get_contextvars()
        assert (fields["trace_id"], fields["span_id"]) == (TRACE, SPAN)
    with context.bound(context.new_context(traceparent=UNSAMPLED)):
        assert "trace_id" not in structlog.contextvars.get_contextvars()


def test_where_nothing_is_exported_a_span_does_nothing() -> None:
    with context.bound(context.new_context(traceparent=SAMPLED)) as request, tracing.span("work") as span:
        span.set({"loopai.outcome": "success"}, name="other")
        span.fail("internal")
        assert context.current() is request
    assert tracing.start("work", SAMPLED) is tracing.UNRECORDED
