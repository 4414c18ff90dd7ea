"""When and after what pause a call to the generator is repeated."""

from datetime import UTC, datetime

import pytest

from loopai_generator_proxy.adapters.http_generator import retry_after_seconds
from loopai_generator_proxy.domain import RetryPolicy

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


def test_pauses_double_up_to_the_last_retry() -> None:
    policy = RetryPolicy(retries=3, base_seconds=1.0)
    assert [policy.pause(failures, None, lambda: 0.5) for failures in (1, 2, 3, 4)] == [0.5, 1.0, 2.0, None]


def test_jitter_is_full() -> None:
    assert RetryPolicy().pause(3, None, lambda: 0.0) == 0.0


def test_retry_after_is_the_least_pause() -> None:
    assert RetryPolicy().pause(1, 7.0, lambda: 0.9) == 7.0
    assert RetryPolicy().pause(3, 1.0, lambda: 0.9) == 3.6


def test_no_retries_means_none() -> None:
    assert RetryPolicy(retries=0).pause(1, 5.0, lambda: 0.5) is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("3", 3.0),
        (" 10 ", 10.0),
        ("0", 0.0),
        ("Thu, 01 Jan 2026 12:00:30 GMT", 30.0),
        ("Thu, 01 Jan 2026 11:00:00 GMT", 0.0),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("²", None),
        ("Thu, 01 Jan 2026 12:00:30 -0000", 30.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(value, NOW) == seconds
