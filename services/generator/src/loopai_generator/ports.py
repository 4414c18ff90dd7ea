"""What the use cases need from outside, and what a learner is."""

from collections.abc import Sequence
from typing import ClassVar, Protocol

from loopai_common.contracts.artifacts import SynthesisStrategy
from loopai_common.contracts.generation import GenerationRequest, GenerationResponse
from loopai_generator.domain import Learned
from loopai_generator.language_model.chat import Completion, Message


class Provider(Protocol):
    """Writes programs: the built-in learner, or a language model."""

    async def generate(self, request: GenerationRequest, idempotency_key: str | None) -> GenerationResponse:
        """Answers with a program, or with ``success=False`` and what to do instead.

        ``idempotency_key`` is the same when the same is asked for again. Raises
        :class:`~loopai_common.errors.Overloaded` when it cannot take the request now,
        :class:`~loopai_common.errors.GeneratorUnavailable` when what it depends on is not there, and
        :class:`~loopai_common.errors.Internal` when it broke.
        """
        ...


class Chat(Protocol):
    """A language model to talk to."""

    async def complete(self, conversation: Sequence[Message], idempotency_key: str | None) -> Completion:
        """The model's next turn. One call: whoever wants it tried again calls again.

        Raises :class:`~loopai_generator.language_model.chat.Declined` when it would be declined again, and
        :class:`~loopai_generator.language_model.chat.ModelUnavailable` when it may not be.
        """
        ...


class Learner(Protocol):
    """Learns one kind of program from examples. Pure: the same request gives the same program, byte for byte."""

    strategy: ClassVar[SynthesisStrategy]

    def learn(self, request: GenerationRequest) -> Learned:
        """Raises :class:`~loopai_generator.domain.CannotLearn` when the task is not of its kind."""
        ...


class Observer(Protocol):
    """Is told what happens, to count it."""

    def started(self) -> None:
        """A valid request came in."""
        ...

    def finished(self, outcome: str, seconds: float) -> None:
        """It was answered: ``program``, ``declined``, ``cancelled``, or an error's code."""
        ...
