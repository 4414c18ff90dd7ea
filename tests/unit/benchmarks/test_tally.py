"""What became of many requests."""

import json
import random

import pytest

from benchmarks.tally import Tally


def tally(*latencies: float) -> Tally:
    made = Tally()
    for seconds in latencies:
        made.add("200", seconds)
    return made


def test_percentiles_are_within_half_a_percent() -> None:
    dice = random.Random(1)
    latencies = sorted(dice.lognormvariate(-7, 1) for _ in range(10_000))
    made = tally(*latencies)
    for share in (0.5, 0.95, 0.99):
        exact = latencies[int(share * len(latencies)) - 1] * 1000
        assert made.percentile_ms(share) == pytest.approx(exact, rel=0.005)


def test_refusals_and_requests_without_an_answer_count_as_errors_and_have_no_latency() -> None:
    made = tally(0.001)
    for end in ("503", "broken", "dropped"):
        made.add(end, 5.0)
    assert (made.answers, made.successes, made.errors) == (2, 1, 3)
    assert made.percentile_ms(0.99) == pytest.approx(1.0, rel=0.005)


def test_tallies_of_several_processes_add_up_after_a_journey_as_json() -> None:
    parts = [tally(0.001, 0.001, 0.001), tally(0.1)]
    parts[1].add("503", 0.2)
    whole = Tally.of(json.loads(json.dumps(part.as_json())) for part in parts)
    assert whole.ends == {"200": 4, "503": 1}
    assert whole.percentile_ms(0.5) == pytest.approx(1.0, rel=0.005)
    assert whole.percentile_ms(1.0) == pytest.approx(100.0, rel=0.005)


def test_nothing_answered_is_no_latency() -> None:
    assert Tally().percentile_ms(0.99) == 0.0
