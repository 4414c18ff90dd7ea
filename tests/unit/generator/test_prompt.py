"""What a language model is asked."""

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from loopai_common.contracts.artifacts import SynthesisStrategy
from loopai_common.contracts.generation import FailingCase, PreviousProgram
from loopai_common.contracts.tasks import Example
from loopai_generator.language_model.chat import Message
from loopai_generator.language_model.prompt import (
    MAX_CODE_BYTES,
    MAX_EXAMPLES_BYTES,
    MAX_FAILURES_BYTES,
    correction,
    first_messages,
    sample,
)
from tests.support.sms import generation_request, messages


def labelled(*outputs: Any) -> list[Example]:
    return [Example(input={"text": f"message {n}"}, output=output) for n, output in enumerate(outputs)]


def asked(**changes: Any) -> str:
    return first_messages(generation_request(**changes))[1].content


def size(examples: list[Example]) -> int:
    return sum(len(example.model_dump_json().encode()) for example in examples)


def test_every_class_is_shown_however_rare() -> None:
    examples = labelled(*["ham"] * 5000, "rare", *["spam"] * 3000, {"a": 1}, None)
    shown = sample(examples, 40, 16_384)
    assert len(shown) == 40
    assert Counter(str(example.output) for example in shown) == {
        "ham": 19,
        "spam": 18,
        "rare": 1,
        "{'a': 1}": 1,
        "None": 1,
    }


def test_the_rare_class_is_shown_by_its_shortest_example() -> None:
    long, short = (Example(input={"text": "x" * length}, output="rare") for length in (900, 10))
    assert short in sample([*labelled(*["ham"] * 50), long, short], 3, 200)


def test_examples_that_are_too_long_leave_room_for_others() -> None:
    huge = Example(input={"text": "x" * 100_000}, output="huge")
    examples = [huge, *labelled("ham", "spam")]
    assert sample(examples, 40, 16_384) == examples[1:]


EXAMPLES = st.lists(
    st.builds(Example, input=st.text(max_size=50), output=st.sampled_from(["a", "b", "c", 1, None])), max_size=60
)


@given(EXAMPLES, st.integers(1, 50), st.integers(0, 3000), st.randoms())
@settings(deadline=None)
def test_sample_keeps_its_bounds_and_is_the_same_in_any_order(
    examples: list[Example], count: int, size_bytes: int, random: Any
) -> None:
    shown = sample(examples, count, size_bytes)
    assert len(shown) <= count
    assert size(shown) <= size_bytes
    shuffled = list(examples)
    random.shuffle(shuffled)
    assert sorted(map(str, sample(shuffled, count, size_bytes))) == sorted(map(str, shown))


def test_prompt_stays_small_however_much_there_is() -> None:
    request = {
        "examples": tuple(Example(input={"text": "ö" * 3000}, output="ham") for _ in range(100)),
        "previous": PreviousProgram(
            code="x" * (MAX_CODE_BYTES + 1),
            failures=tuple(FailingCase(input="y" * 3000, expected=1, actual=2) for _ in range(20)),
        ),
    }
    text = asked(**request)
    assert len(text.encode()) < MAX_EXAMPLES_BYTES + MAX_FAILURES_BYTES + 2000
    assert "too long to be shown" in text


def test_outputs_are_counted_where_they_are_labels() -> None:
    known = messages()[:100]
    counts = Counter(example.output for example in known)
    assert f'"ham" ({counts["ham"]}), "spam" ({counts["spam"]})' in asked(examples=known)
    assert "Outputs of all examples" not in asked(examples=tuple(labelled(*map(str, range(30)))))
    assert "Examples" not in asked(examples=())


def test_strategy_and_constraints_are_passed_on() -> None:
    assert "statistical model" in asked(strategy=SynthesisStrategy.ML)
    assert "statistical model" not in asked()
    assert "Constraints:\nNo regular expressions." in asked(constraints="No regular expressions.")


def test_a_failure_without_an_output_is_shown_with_its_error() -> None:
    failure = FailingCase(input="x", expected=1, error="program_raised: KeyError: 'text'")
    text = asked(previous=PreviousProgram(code="def run(input): ...", failures=(failure,)))
    assert """{"input":"x","expected":1,"error":"program_raised: KeyError: 'text'"}""" in text


def test_same_request_is_asked_in_the_same_words() -> None:
    request = generation_request(messages()[:300])
    assert first_messages(request) == first_messages(request.model_copy())


def test_correction_repeats_the_answer_unless_it_is_empty_or_very_long() -> None:
    question = [Message("user", "write")]
    told = correction(question, "def", "it does not parse")
    assert [message.role for message in told] == ["user", "assistant", "user"]
    assert "it does not parse" in told[-1].content
    for answer in (" \n", "x" * (MAX_CODE_BYTES + 1)):
        assert [message.role for message in correction(question, answer, "it is empty")] == ["user", "user"]
