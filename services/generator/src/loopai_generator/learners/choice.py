"""Which learner writes the program."""

from collections.abc import Sequence

from loopai_common.contracts.artifacts import SynthesisStrategy
from loopai_common.contracts.generation import GenerationRequest
from loopai_generator.domain import CannotLearn, Learned
from loopai_generator.learners.keywords import KeywordLearner
from loopai_generator.learners.linear import LinearTextLearner
from loopai_generator.learners.strings.learner import StringLearner
from loopai_generator.learners.trees import TreeLearner
from loopai_generator.ports import Learner

LEARNERS: tuple[Learner, ...] = (LinearTextLearner(), TreeLearner(), StringLearner(), KeywordLearner())
"""In the order of preference among equals. A new kind of program is a module here and a line in this tuple."""


def learn(request: GenerationRequest, learners: Sequence[Learner] = LEARNERS) -> Learned:
    """The most trusted of the programs that the learners of the request's strategy make.

    Raises :class:`CannotLearn` with their reasons when there is none.
    """
    asked = [learner for learner in learners if request.strategy in (SynthesisStrategy.AUTO, learner.strategy)]
    if not asked:
        known = ", ".join(sorted({learner.strategy.value for learner in learners}))
        raise CannotLearn(f"the learner has no strategy '{request.strategy.value}'; use auto, {known}")
    learned: list[Learned] = []
    reasons: list[str] = []
    for learner in asked:
        try:
            learned.append(learner.learn(request))
        except CannotLearn as reason:
            reasons.append(reason.message)
    if not learned:
        raise CannotLearn(". ".join(dict.fromkeys(reasons)))
    return max(learned, key=lambda result: result.confidence)
