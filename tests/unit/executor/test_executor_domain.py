"""The rules of execution."""

from collections.abc import Sequence

import msgspec
import pytest

from loopai_common.identifiers import new_id
from loopai_executor.domain import Counts, DeathCounter, Jobs, Split, jobs_of, percentile, rollout_share
from tests.support.sandbox import program


def test_percentile_is_the_nearest_rank() -> None:
    assert percentile([], 0.5) is None
    assert percentile([3.0], 0.99) == 3.0
    assert percentile([float(n) for n in range(100, 0, -1)], 0.5) == 50.0
    assert percentile([float(n) for n in range(100, 0, -1)], 0.99) == 99.0


def test_five_deaths_in_a_row_quarantine_and_a_minute_or_so_ends_it() -> None:
    deaths = DeathCounter()
    for second in range(4):
        deaths.record(float(second))
        assert not deaths.blocks(float(second))
    deaths.record(4.0)
    assert deaths.blocks(4.0)
    left = deaths.seconds_left(4.0)
    assert 50 < left < 70
    assert deaths.blocks(4.0 + left - 1)
    assert not deaths.blocks(4.0 + left + 1)


def test_rare_deaths_never_quarantine() -> None:
    deaths = DeathCounter()
    for number in range(1000):
        deaths.record(number * 60.0)
        assert not deaths.blocks(number * 60.0)


def test_after_a_quarantine_few_deaths_are_enough_for_the_next() -> None:
    deaths = DeathCounter()
    for _ in range(5):
        deaths.record(0.0)
    assert not deaths.blocks(61.0)
    for _ in range(3):
        deaths.record(61.0)
    assert deaths.blocks(61.0)


def test_deaths_matter_for_some_minutes() -> None:
    deaths = DeathCounter()
    assert not deaths.matter(0.0)
    deaths.record(0.0)
    assert deaths.matter(120.0)
    assert not deaths.matter(300.0)


def test_durations_of_a_batch_count_for_each_item() -> None:
    counts = Counts()
    counts.ran(64, 64 * 0.00005)
    assert counts.durations[1] == 64
    assert counts.duration_seconds == pytest.approx(0.0032)


@pytest.mark.parametrize(
    ("execution_id", "share"),
    [
        ("0198f0a4-7a3e-7c1b-9d2e-5f6a7b8c9d0e", 50.656677572987974),
        ("order-1", 33.35397474002093),
        ("", 7.204908994026482),
        ("\ud800", 22.208165540359914),
    ],
)
def test_share_of_an_execution_is_a_written_down_number(execution_id: str, share: float) -> None:
    assert rollout_share(execution_id) == share


@pytest.mark.parametrize("percentage", [0.5, 10.0, 30.0, 50.0, 99.0])
@pytest.mark.parametrize("kind", ["made here", "counted up"])
def test_rollout_takes_its_percentage_of_the_executions(percentage: float, kind: str) -> None:
    ids = [new_id() if kind == "made here" else f"order-{n}" for n in range(10_000)]
    split = Split(program("", version=1), program("", version=2), percentage)
    taken = sum(split.choose(execution_id) is split.candidate for execution_id in ids)
    # Five standard deviations of a fair draw of 10,000.
    assert abs(taken - 100 * percentage) <= 5 * (percentage * (100 - percentage)) ** 0.5


def test_execution_keeps_the_candidate_while_the_percentage_grows() -> None:
    ids = [f"order-{n}" for n in range(1000)]
    active, candidate = program("", version=1), program("", version=2)
    before: set[str] = set()
    for percentage in (0.0, 1.0, 10.0, 50.0, 100.0):
        split = Split(active, candidate, percentage)
        taken = {i for i in ids if split.choose(i) is candidate}
        assert before <= taken
        assert taken == {i for i in ids if split.choose(i) is candidate}
        before = taken
    assert before == set(ids)


class Sink:
    """Keeps what it is told."""

    deadline = 0.0

    def __init__(self) -> None:
        self.told: list[tuple[Sequence[int], int, Sequence[msgspec.Raw], int]] = []

    def answer(self, indexes: Sequence[int], kind: int, payloads: Sequence[msgspec.Raw], latency_us: int) -> None:
        self.told.append((indexes, kind, payloads, latency_us))


INPUTS = [msgspec.Raw(b"%d" % number) for number in range(5)]


def test_executions_are_put_together_where_only_their_inputs_differ() -> None:
    one, other = Sink(), Sink()
    work = jobs_of(
        [
            (one, 1000, 0, INPUTS[0]),
            (other, 1000, 1, INPUTS[1]),
            (one, 1000, 2, INPUTS[2]),
            (one, 20, 3, INPUTS[3]),
            (other, 1000, 4, INPUTS[4]),
        ]
    )
    shapes = [(jobs.sink, jobs.timeout_ms, jobs.indexes, list(map(bytes, jobs.inputs))) for jobs in work]
    assert shapes == [
        (one, 1000, [0, 2], [b"0", b"2"]),
        (other, 1000, [1, 4], [b"1", b"4"]),
        (one, 20, [3], [b"3"]),
    ]


@pytest.mark.parametrize("count", [0, 2, 5])
def test_jobs_that_are_cut_keep_each_index_with_its_input(count: int) -> None:
    jobs = Jobs(Sink(), 1000, range(10, 15), INPUTS)
    parts = jobs.split(count)
    assert [len(part) for part in parts] == [count, 5 - count]
    pairs = [(index, bytes(value)) for part in parts for index, value in zip(part.indexes, part.inputs, strict=True)]
    assert pairs == [(10 + number, b"%d" % number) for number in range(5)]
    assert [(job.indexes, list(map(bytes, job.inputs))) for job in jobs.each()][3] == ((13,), [b"3"])


def test_what_did_not_run_is_answered_alike() -> None:
    sink = Sink()
    Jobs(sink, 1000, range(3), INPUTS[:3]).answer(1, INPUTS[0])
    assert sink.told == [(range(3), 1, [INPUTS[0]] * 3, 0)]
