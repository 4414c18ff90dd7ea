"""A provider that has a language model write the program, and asks once more when the answer is none."""

import asyncio
from collections.abc import Mapping, Sequence
from uuid import NAMESPACE_URL, uuid5

from pydantic import JsonValue

from loopai_common.contracts.generation import GeneratedComplexity, GenerationRequest, GenerationResponse
from loopai_common.errors import Overloaded
from loopai_common.runtime.logging import get_logger
from loopai_generator.language_model import prompt
from loopai_generator.language_model.chat import Completion, Declined, Message, ModelTimedOut, Price, Usage
from loopai_generator.language_model.extraction import Extracted, NoProgram, extract_program
from loopai_generator.ports import Chat

PROVIDER = "openai"

log = get_logger()


class LanguageModel:
    """A provider. At most ``max_in_flight`` programs are being written at a time, each in ``timeout_seconds``.

    ``prices`` are by the name of the model, the one that was asked for or the one that answered.
    """

    def __init__(
        self, chat: Chat, *, model: str, prices: Mapping[str, Price], timeout_seconds: float, max_in_flight: int
    ) -> None:
        self._chat = chat
        self._model = model
        self._prices = prices
        self._timeout_seconds = timeout_seconds
        self._max_in_flight = max_in_flight
        self._in_flight = 0

    async def generate(self, request: GenerationRequest, idempotency_key: str | None) -> GenerationResponse:
        """Has the program written; raises :class:`ModelUnavailable` and, when too many are, :class:`Overloaded`."""
        if self._in_flight >= self._max_in_flight:
            raise Overloaded("too many programs are being written; try again later")
        self._in_flight += 1
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await self._generate(request, idempotency_key)
        except TimeoutError as error:
            raise ModelTimedOut(
                f"the language model gave no program within {self._timeout_seconds:g} seconds"
            ) from error
        finally:
            self._in_flight -= 1

    async def _generate(self, request: GenerationRequest, idempotency_key: str | None) -> GenerationResponse:
        conversation = await asyncio.to_thread(prompt.first_messages, request)
        answers: list[Completion] = []
        try:
            program = await self._ask_twice(conversation, idempotency_key, answers)
        except Declined as declined:
            return self._failure(declined.message, answers)
        except NoProgram as last:
            return self._failure(
                f"the language model gave no program, twice; of the last answer: {last.problem}; "
                "describe the task in other words, or use another model",
                answers,
            )
        return self._success(program, request, answers)

    async def _ask_twice(
        self, conversation: Sequence[Message], idempotency_key: str | None, answers: list[Completion]
    ) -> Extracted:
        try:
            return await self._ask(conversation, idempotency_key, answers)
        except NoProgram as first:
            log.info("answer_without_program", model=self._model)
            again = prompt.correction(conversation, answers[-1].text, first.problem)
        return await self._ask(again, idempotency_key, answers)

    async def _ask(
        self, conversation: Sequence[Message], idempotency_key: str | None, answers: list[Completion]
    ) -> Extracted:
        """The program in the answer, which is added to ``answers``."""
        # The key of a generation is the same in all its rounds; an endpoint that keeps answers must not mix them up.
        key = idempotency_key and str(uuid5(NAMESPACE_URL, f"{idempotency_key}\n{conversation!r}"))
        completion = await self._chat.complete(conversation, key)
        answers.append(completion)
        if completion.problem is not None:
            raise Declined(completion.problem)
        return await asyncio.to_thread(extract_program, completion.text)

    def _success(
        self, program: Extracted, request: GenerationRequest, answers: Sequence[Completion]
    ) -> GenerationResponse:
        return GenerationResponse(
            success=True,
            code=program.code,
            entry_point=program.entry_point,
            complexity=GeneratedComplexity(lines_of_code=program.code.count("\n")),
            synthesis_strategy=request.strategy,
            **self._expense(answers),
        )

    def _failure(self, message: str, answers: Sequence[Completion]) -> GenerationResponse:
        return GenerationResponse(success=False, error_message=message, **self._expense(answers))

    def _expense(self, answers: Sequence[Completion]) -> dict[str, JsonValue]:
        """Who wrote it and for how much: the fields that every answer has."""
        model = answers[-1].model if answers else self._model
        usages = [answer.usage for answer in answers if answer.usage is not None]
        usage = sum(usages, Usage(0, 0))
        price = self._prices.get(self._model) or self._prices.get(model)
        notes: list[JsonValue] = []
        if answers and price is None:
            notes.append(f"the cost is not known: LOOPAI_GENERATOR_OPENAI_PRICES has no price for {model}")
        if len(usages) < len(answers):
            notes.append("the cost is not known: the endpoint did not say how many tokens were used")
        return {
            "llm_provider": PROVIDER,
            "llm_model": model,
            "generation_cost": price.of(usage) if price is not None else 0.0,
            "metadata": {
                "calls": len(answers),
                "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.completion_tokens,
                "cost_known": not notes,
                "notes": notes,
            },
        }
