"""When a call is tried again, how long it waits, and when its time is up."""

from datetime import UTC, datetime

import pytest

from loopai_client.errors import ApiError, TimedOut, Unreachable, api_error
from loopai_client.retries import MAX_ATTEMPTS, Attempts, Broken, retry_after_seconds

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NO_CONNECTION = Broken("refused", sent=False)
NO_ANSWER = Broken("hung up", sent=True)


class Clock:
    """Time as the test says."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def attempts(*, repeatable: bool = True, seconds: float = 30.0, patience: float = 10.0) -> Attempts:
    """Attempts that always wait as long as they may."""
    return Attempts(
        "http://x", repeatable=repeatable, seconds=seconds, patience_seconds=patience, clock=Clock(), chance=lambda: 1.0
    )


def refused(status: int, code: str) -> ApiError:
    """What an API says."""
    return api_error(status, "", f'{{"code": "{code}"}}'.encode())


def test_pauses_grow_and_attempts_are_counted() -> None:
    tried = attempts()
    pauses = []
    for _ in range(MAX_ATTEMPTS - 1):
        tried.attempt_seconds()
        pauses.append(tried.after(NO_CONNECTION))
    assert pauses == [0.1, 0.2, 0.4]
    tried.attempt_seconds()
    with pytest.raises(Unreachable, match="loopai up"):
        tried.after(NO_CONNECTION)


def test_progress_begins_the_count_and_the_time_anew() -> None:
    clock = Clock()
    tried = Attempts("http://x", repeatable=True, seconds=5, clock=clock, chance=lambda: 1.0)
    for _ in range(MAX_ATTEMPTS + 1):
        clock.now += 4
        assert tried.attempt_seconds() == 1
        tried.progressed()
        assert tried.after(NO_ANSWER) == 0.1


@pytest.mark.parametrize("timed_out", [False, True])
def test_what_may_have_been_carried_out_is_only_repeated_when_that_makes_no_difference(timed_out: bool) -> None:
    broken = Broken("hung up", sent=True, timed_out=timed_out)
    again, never = attempts(), attempts(repeatable=False)
    again.attempt_seconds(), never.attempt_seconds()
    assert again.after(broken) == 0.1
    with pytest.raises(TimedOut if timed_out else Unreachable):
        never.after(broken)


def test_what_was_never_sent_is_repeated_whatever_it_is() -> None:
    tried = attempts(repeatable=False)
    tried.attempt_seconds()
    assert tried.after(NO_CONNECTION) == 0.1


@pytest.mark.parametrize(
    ("status", "code", "retry_after", "repeatable", "again"),
    [
        (503, "store_unavailable", "1", True, True),
        (503, "store_unavailable", "1", False, False),  # it may have been carried out all the same
        (503, "overloaded", "1", False, True),
        (503, "shutting_down", "1", False, True),
        (429, "rate_limit_exceeded", "1", False, True),
        (429, "rate_limit_exceeded", None, True, False),
        (503, "no_executor", None, True, False),
        (504, "deadline_exceeded", "1", True, False),
        (500, "internal", "1", True, False),
        (404, "task_not_found", "1", True, False),
    ],
)
def test_refusals_are_repeated_when_the_server_says_so_and_nothing_was_done(
    status: int, code: str, retry_after: str | None, repeatable: bool, again: bool
) -> None:
    tried = attempts(repeatable=repeatable)
    tried.attempt_seconds()
    if again:
        assert tried.after_refusal(refused(status, code), retry_after, NOW) == 1.1
    else:
        with pytest.raises(ApiError):
            tried.after_refusal(refused(status, code), retry_after, NOW)


def test_pause_that_the_deadline_does_not_allow_is_not_begun() -> None:
    tried = attempts(seconds=10)
    tried.attempt_seconds()
    with pytest.raises(ApiError):
        tried.after_refusal(refused(503, "overloaded"), "10", NOW)


def test_attempts_share_one_deadline() -> None:
    clock = Clock()
    tried = Attempts("http://x", repeatable=True, seconds=30, patience_seconds=20, clock=clock)
    assert tried.attempt_seconds() == 20
    clock.now += 20
    assert tried.attempt_seconds() == 10
    clock.now += 10
    with pytest.raises(TimedOut):
        tried.attempt_seconds()


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        ("12", 12.0),
        ("Fri, 02 Jan 2026 03:04:15 GMT", 10.0),
        ("Fri, 02 Jan 2026 03:04:00 GMT", 0.0),
        ("soon", None),
        ("-1", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(header, NOW) == seconds
