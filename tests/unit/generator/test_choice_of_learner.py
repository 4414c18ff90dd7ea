"""Which learner writes the program, and what a learner process answers."""

import subprocess
import sys

import pytest

from loopai_common.contracts.artifacts import SynthesisStrategy
from loopai_generator.domain import CannotLearn
from loopai_generator.learners.__main__ import answer
from loopai_generator.learners.choice import learn
from tests.support.sms import generation_request, messages


@pytest.mark.parametrize("strategy", [SynthesisStrategy.ML, SynthesisStrategy.RULE])
def test_the_asked_strategy_is_followed(strategy: SynthesisStrategy) -> None:
    assert learn(generation_request(messages()[:100], strategy=strategy)).strategy is strategy


def test_auto_takes_the_most_trusted() -> None:
    request = generation_request(messages()[:200])
    confidences = [
        learn(request.model_copy(update={"strategy": strategy})).confidence
        for strategy in (SynthesisStrategy.ML, SynthesisStrategy.RULE)
    ]
    assert learn(request).confidence == max(confidences)


def test_auto_falls_back_to_keywords_for_few_examples() -> None:
    assert learn(generation_request(messages()[:5])).strategy is SynthesisStrategy.RULE


@pytest.mark.parametrize("strategy", [SynthesisStrategy.HYBRID])
def test_a_strategy_that_is_not_there_is_refused(strategy: SynthesisStrategy) -> None:
    with pytest.raises(CannotLearn, match="use auto, dsl, ml, rule"):
        learn(generation_request(messages()[:100], strategy=strategy))


def test_answer_says_how_far_the_program_can_be_trusted() -> None:
    response = answer(generation_request(messages()[:100]))
    assert response.success
    assert response.metadata is not None
    assert response.metadata["cross_validation"] == {
        "folds": 5,
        "examples": 100,
        "accuracy": response.metadata["confidence"],
    }
    assert response.generation_cost == 0
    assert response.llm_provider is None


def test_answer_for_a_task_beyond_reach_says_what_to_do() -> None:
    response = answer(generation_request(output_schema={"type": "object", "required": ["a", "b"]}))
    assert not response.success
    assert response.code is None
    assert response.error_message is not None
    assert "configure a language model" in response.error_message


def test_learning_loads_no_library_but_numpy() -> None:
    script = (
        "import sys\n"
        "from loopai_generator.learners.choice import learn\n"
        "from tests.support.sms import generation_request, messages\n"
        "from loopai_common.contracts.tasks import Example\n"
        "learn(generation_request(messages()[:60]))\n"
        "rows = tuple(Example(input={'n': n % 9, 'm': n}, output='ab'[n % 2]) for n in range(40))\n"
        "learn(generation_request(rows, input_schema={'type': 'object'}, output_schema={'type': 'string'}))\n"
        "print({name for name in ('numpy', 'scipy', 'sklearn') if name in sys.modules})\n"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "{'numpy'}"
