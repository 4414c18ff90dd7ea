"""What is said to a language model and what it says, whichever one it is."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from loopai_common.errors import GeneratorFailed, GeneratorUnavailable

Amount = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Usage:
    """What was paid for, in tokens."""

    prompt_tokens: int
    completion_tokens: int

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer: its text (empty where the model gave none), the model that gave it, and its usage where that is known.

    ``problem`` says why it cannot be used, whatever it holds, and what to do: it was cut off, filtered, or refused.
    """

    text: str
    model: str
    usage: Usage | None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Price:
    """USD for a million tokens: of what the model reads, and of what it writes."""

    input: Amount
    output: Amount

    def of(self, usage: Usage) -> float:
        """USD for so many."""
        return (usage.prompt_tokens * self.input + usage.completion_tokens * self.output) / 1e6


class Declined(GeneratorFailed):
    """The language model gives no answer and would give none if it were asked again; the message says what to do."""


class ModelUnavailable(GeneratorUnavailable):
    """The language model gives no answer now; asked again later it may. ``retry_after`` is what it said about when."""

    def __init__(self, message: str, *, retry_after: str | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ModelBusy(ModelUnavailable):
    """The language model takes no more requests for now."""


class ModelTimedOut(ModelUnavailable):
    """The language model took too long."""
