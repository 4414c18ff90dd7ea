"""Programs from the artifact store, over the bus."""

import asyncio
import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import pydantic

from loopai_common.contracts import subjects
from loopai_common.contracts.artifacts import (
    MAX_RESOLVED,
    FetchProgram,
    ProgramCode,
    ResolvedProgram,
    ResolvedPrograms,
    ResolveProgram,
    ResolvePrograms,
)
from loopai_common.contracts.base import Contract, Digest, TaskId, Version
from loopai_common.contracts.failure import Failure
from loopai_common.errors import ArtifactCorrupt, LoopaiError, StoreUnavailable, ValidationFailed
from loopai_common.runtime.errors import error_of, violations_of
from loopai_common.runtime.rpc import RpcClient

_TIMEOUT_SECONDS: Final = 3.0

T = TypeVar("T", bound=Contract)


@dataclass(frozen=True, slots=True)
class _Question:
    """A query, and where its outcome is waited for."""

    query: ResolveProgram
    outcome: asyncio.Future[ResolvedProgram | LoopaiError]

    def end(self, outcome: ResolvedProgram | LoopaiError) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)


class NatsProgramSource:
    """A :class:`~loopai_executor.ports.ProgramSource` that asks the artifact store."""

    def __init__(self, rpc: RpcClient) -> None:
        self._rpc = rpc
        self._waiting: list[_Question] = []

    async def resolve(self, task: str, version: int | None) -> ResolvedProgram:
        """As the port says. What is asked within one turn of the event loop is one message."""
        try:
            query = ResolveProgram(task=task, version=None if version is None else Version(version))
        except pydantic.ValidationError as error:
            raise ValidationFailed("no task can have this name", details=violations_of(error)) from error
        question = _Question(query, asyncio.get_running_loop().create_future())
        self._waiting.append(question)
        if len(self._waiting) == 1:
            await self._ask_for_all()
        outcome = await question.outcome
        if isinstance(outcome, LoopaiError):
            raise outcome
        return outcome

    async def _ask_for_all(self) -> None:
        """Asks what is waiting at the end of this turn of the event loop; nobody is left waiting when that ends."""
        questions = self._waiting
        try:
            await asyncio.sleep(0)  # what is asked in this turn joins
            self._waiting = []
            parts = [questions[start : start + MAX_RESOLVED] for start in range(0, len(questions), MAX_RESOLVED)]
            await asyncio.gather(*map(self._ask_together, parts))
        finally:
            if self._waiting is questions:
                self._waiting = []
            for question in questions:
                question.end(StoreUnavailable("the question was given up; try again"))

    async def _ask_together(self, questions: Sequence[_Question]) -> None:
        outcomes: tuple[ResolvedProgram | Failure, ...] = ()
        if len(questions) > 1:
            query = ResolvePrograms(queries=tuple(question.query for question in questions))
            # What is not in the answer is asked for alone; all of it, where the store is of an older release.
            with contextlib.suppress(LoopaiError):
                outcomes = (await self._ask(subjects.ARTIFACTS_RESOLVE_MANY, query, ResolvedPrograms)).outcomes
        for question, outcome in zip(questions, outcomes, strict=False):
            question.end(error_of(outcome) if isinstance(outcome, Failure) else outcome)
        await asyncio.gather(*map(self._ask_alone, questions[len(outcomes) :]))

    async def _ask_alone(self, question: _Question) -> None:
        try:
            question.end(await self._ask(subjects.ARTIFACTS_RESOLVE, question.query, ResolvedProgram))
        except LoopaiError as error:
            question.end(error)

    async def fetch(self, task_id: TaskId, digest: Digest) -> str:
        """As the port says; what comes is hashed again."""
        request = FetchProgram(task_id=task_id, digest=digest)
        program = await self._ask(subjects.PROGRAMS_FETCH, request, ProgramCode)
        if f"sha256:{hashlib.sha256(program.code.encode()).hexdigest()}" != digest:
            raise ArtifactCorrupt("the program that the artifact store sent does not match its digest")
        return program.code

    async def _ask(self, subject: str, request: Contract, answer: type[T]) -> T:
        try:
            return await self._rpc.call(subject, request, answer, timeout=_TIMEOUT_SECONDS)
        except pydantic.ValidationError as error:
            raise StoreUnavailable("the artifact store answered what this executor does not understand") from error
