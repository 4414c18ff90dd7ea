"""The demonstration's data, split and scores."""

import pytest

from loopai_client.demo import Answer, Message, head, messages, percentile, score, split


def test_data_comes_with_the_package_and_is_whole() -> None:
    given = messages()
    assert len(given) == 3619
    assert {message.label for message in given} == {"ham", "spam"}
    assert len({message.text for message in given}) == 3619


def test_split_is_four_to_one_without_overlap_and_does_not_depend_on_order() -> None:
    learned, kept_aside = split(messages())
    again, _ = split(reversed(messages()))
    assert {m.text for m in learned} == {m.text for m in again}
    assert not {m.text for m in learned} & {m.text for m in kept_aside}
    assert len(kept_aside) / 3619 == pytest.approx(0.2, abs=0.02)


def test_percentile_is_the_nearest_rank() -> None:
    ordered = [float(number) for number in range(1, 101)]
    assert [percentile(ordered, share) for share in (0.0, 0.5, 0.95, 0.99, 1.0)] == [1, 50, 95, 99, 100]
    assert percentile([7.0], 0.99) == 7


def test_scores_count_a_failed_run_as_wrong() -> None:
    answers = [
        Answer(Message("spam", "a"), "spam", 1.0, 0.1),
        Answer(Message("spam", "b"), "ham", 2.0, 0.2),
        Answer(Message("ham", "c"), "ham", 3.0, 0.3),
        Answer(Message("ham", "d"), None, 4.0, 0.4),
    ]
    scores = score(answers, seconds=2.0)
    assert scores.accuracy == 0.5
    assert scores.failed == 1
    assert scores.requests_per_second == 2
    assert (scores.labels["spam"].precision, scores.labels["spam"].recall) == (1.0, 0.5)
    assert (scores.labels["ham"].precision, scores.labels["ham"].recall) == (0.5, 0.5)
    assert (scores.p50_ms, scores.p99_ms, scores.sandbox_p50_ms) == (2.0, 4.0, 0.2)


def test_label_that_was_never_said_has_no_precision() -> None:
    scores = score([Answer(Message("spam", "a"), "ham", 1.0, 0.1), Answer(Message("ham", "b"), "ham", 1.0, 0.1)], 1.0)
    assert (scores.labels["spam"].precision, scores.labels["spam"].recall) == (0.0, 0.0)


def test_head_of_a_program_cuts_long_lines_and_counts_the_rest() -> None:
    shown, more = head("\n".join(["x" * 500, *["y"] * 40]))
    assert shown.splitlines()[0] == "x" * 107 + "..."
    assert (len(shown.splitlines()), more) == (25, 16)
