"""Keyword rules, for when there are few examples or none."""

import pytest

from loopai_common.contracts.artifacts import SynthesisStrategy
from loopai_common.contracts.tasks import Example
from loopai_generator.learners.keywords import KeywordLearner, described_keywords
from tests.support.sms import accuracy, generation_request, load, messages, parts

SUPPORT = "Sort tickets. Billing: invoices, refunds or payments. Technical: crashes and errors. Anything else: other."


def test_description_alone_makes_a_program() -> None:
    schema = {"enum": ["billing", "technical", "other"]}
    learned = KeywordLearner().learn(generation_request(description=SUPPORT, output_schema=schema))
    run = load(learned.code)
    texts = ("I want a refund", "the app crashed again", "two errors today", "hello", "a payment is missing")
    assert [run({"text": text}) for text in texts] == ["billing", "technical", "technical", "other", "billing"]


def test_words_before_a_label_count_when_nothing_follows_it() -> None:
    shares = described_keywords("Anything about prizes or lotteries is spam.", ("spam", "ham"))
    assert {"priz", "lotteri"} <= shares[0]
    assert shares[1] == {"ham"}


def test_boolean_follows_whether() -> None:
    learned = KeywordLearner().learn(
        generation_request(
            description="Say whether the message mentions a refund or a chargeback.", output_schema={"type": "boolean"}
        )
    )
    run = load(learned.code)
    assert [run({"text": text}) for text in ("Refunds, please", "good morning")] == [True, False]


def test_few_examples_add_their_words() -> None:
    known = (
        Example(input={"text": "claim your free prize"}, output="spam"),
        Example(input={"text": "see you tonight"}, output="ham"),
    )
    run = load(KeywordLearner().learn(generation_request(known)).code)
    assert [run({"text": text}) for text in ("a prize for you", "tonight then")] == ["spam", "ham"]


@pytest.mark.parametrize("count", [0, 1, 5, 9])
def test_confidence_without_a_measurement_is_low_and_said(count: int) -> None:
    learned = KeywordLearner().learn(generation_request(messages()[:count]))
    assert learned.confidence <= 0.5
    assert learned.cross_validation is None
    assert f"Only {count} examples" in learned.notes[0]
    assert load(learned.code)({"text": "hello"}) in {"ham", "spam"}


def test_many_examples_are_measured() -> None:
    known, unseen = parts()
    learned = KeywordLearner().learn(generation_request(known[:1000]))
    assert learned.strategy is SynthesisStrategy.RULE
    assert learned.cross_validation is not None
    assert accuracy(learned.code, unseen) > 0.9


def test_labels_that_are_never_described_are_counted() -> None:
    learned = KeywordLearner().learn(generation_request(description="Rate it.", output_schema={"enum": [1, 2, 3]}))
    assert load(learned.code)({"text": "fine"}) in {1, 2, 3}


def test_label_made_of_signs_breaks_nothing() -> None:
    learned = KeywordLearner().learn(generation_request(description="( or [?", output_schema={"enum": ["(", "", "[?"]}))
    assert load(learned.code)({"text": "("}) in {"(", "", "[?"}
