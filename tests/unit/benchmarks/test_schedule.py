"""When the requests of an open loop are due."""

import pytest

from benchmarks.schedule import Schedule, Stage

STEADY = Stage(10.0, 50.0, 50.0)
RAMP = Stage(10.0, 0.0, 100.0)
FALL = Stage(10.0, 100.0, 0.0)
JUMP = Stage(1.0, 500.0, 500.0)


def test_a_steady_rate_makes_requests_due_evenly() -> None:
    schedule = Schedule([STEADY])
    assert schedule.requests == 500
    assert [schedule.due(number) for number in (0, 1, 50, 499)] == pytest.approx([0.0, 0.02, 1.0, 9.98])


def test_a_ramp_makes_half_of_its_requests_due_in_the_last_third() -> None:
    schedule = Schedule([RAMP])
    assert schedule.requests == 500
    assert schedule.due(0) == 0.0
    assert schedule.due(250) == pytest.approx(10 * 0.5**0.5)


def test_a_stage_begins_when_the_one_before_it_ends() -> None:
    schedule = Schedule([STEADY, JUMP])
    assert schedule.requests == 1000
    assert [schedule.stage(number) for number in (0, 499, 500, 999)] == [0, 0, 1, 1]
    assert [schedule.stage_at(schedule.due(number)) for number in (0, 499, 500, 999)] == [0, 0, 1, 1]
    assert [schedule.due(number) for number in (499, 500, 501)] == pytest.approx([9.98, 10.0, 10.002])


@pytest.mark.parametrize("stages", [[STEADY], [RAMP], [FALL], [STEADY, JUMP, RAMP, FALL]])
def test_a_request_is_reached_when_it_is_due_and_not_before(stages: list[Stage]) -> None:
    schedule = Schedule(stages)
    for number in range(schedule.requests):
        due = schedule.due(number)
        assert schedule.reached(due + 1e-6) >= number + 1
        assert number == 0 or schedule.reached(due - 1e-6) <= number


def test_all_requests_are_reached_at_the_end() -> None:
    schedule = Schedule([RAMP, JUMP])
    assert schedule.reached(schedule.seconds) == schedule.requests == 1000
    assert all(schedule.due(number) <= schedule.seconds for number in range(schedule.requests))


def test_there_is_one_request_at_least() -> None:
    assert Schedule([Stage(0.001, 1.0, 1.0)]).requests == 1
