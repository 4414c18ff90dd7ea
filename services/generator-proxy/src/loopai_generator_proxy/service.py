"""The use case: a new version of a task's program, generated, checked, and published."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from loopai_common.contracts.execution import CheckReport
from loopai_common.contracts.generation import GenerateProgram
from loopai_common.contracts.tasks import Example, FailTask, TaskSpecification, TaskStatus
from loopai_common.errors import GeneratorFailed, LoopaiError, ProgramRejected, TaskArchived, TaskNotFound
from loopai_common.runtime.logging import get_logger
from loopai_generator_proxy import domain
from loopai_generator_proxy.domain import Outcome, Program, Round
from loopai_generator_proxy.ports import ArtifactStore, Generator, Observer, ProgramChecker

T = TypeVar("T")

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 5.0

log = get_logger()


class Generations:
    """Makes versions, at most ``concurrency`` at a time.

    ``patience_seconds`` is how long one step waits for an executor or the store to come back.
    """

    def __init__(
        self,
        store: ArtifactStore,
        generator: Generator,
        checker: ProgramChecker,
        observer: Observer,
        *,
        rounds: int,
        concurrency: int,
        patience_seconds: float,
    ) -> None:
        self._store = store
        self._generator = generator
        self._checker = checker
        self._observer = observer
        self._rounds = rounds
        self._bulkhead = asyncio.Semaphore(concurrency)
        self._patience_seconds = patience_seconds

    async def make_first(self, command: GenerateProgram) -> None:
        """As :meth:`make`, but does nothing for a task that is past its first generation (a redelivered event)."""
        await self._run(command, only_while_generating=True)

    async def make(self, command: GenerateProgram) -> None:
        """Publishes a version for the task, or ends the generation as failed with the reason.

        Doing it again for the same generation changes nothing: the store keeps the first version of a generation.
        Raises only retryable errors: the store did not answer.
        """
        await self._run(command, only_while_generating=False)

    async def _run(self, command: GenerateProgram, *, only_while_generating: bool) -> None:
        async with self._bulkhead:
            started = time.monotonic()
            outcome = Outcome.INTERRUPTED
            self._observer.started()
            try:
                outcome = await self._settle(command, only_while_generating)
            finally:
                seconds = time.monotonic() - started
                self._observer.finished(outcome, seconds)
                log.info("generation_ended", **_fields(command), outcome=outcome, seconds=round(seconds, 3))

    async def _settle(self, command: GenerateProgram, only_while_generating: bool) -> Outcome:
        try:
            task = await self._patiently(lambda: self._store.task(command.task_id))
            if task.status is TaskStatus.ARCHIVED:
                return Outcome.SKIPPED
            if only_while_generating and task.status is not TaskStatus.GENERATING:
                return Outcome.SKIPPED
            return await self._generate(task, command)
        except (TaskNotFound, TaskArchived) as error:
            log.warning("generation_without_task", **_fields(command), code=error.code)
            return Outcome.SKIPPED
        except LoopaiError as error:
            if error.retryable and not isinstance(error, GeneratorFailed):
                raise
            log.warning("generation_failed", **_fields(command), code=error.code, reason=error.message)
            await self._fail(command, error.message)
            return Outcome.FAILED

    async def _generate(self, task: TaskSpecification, command: GenerateProgram) -> Outcome:
        hidden = domain.held_back(task.examples)
        shown = [example for example, own in zip(task.examples, hidden, strict=True) if not own]
        started = time.monotonic()
        rounds = await self._play(task, command, shown, hidden)
        best = max(rounds, key=lambda played: played.rank)
        if not best.report.loaded:
            raise ProgramRejected(f"the generated program does not load in the sandbox: {best.report.problem}")
        cost = sum(played.program.cost for played in rounds)
        publication = domain.publication(task, command, best, cost, time.monotonic() - started)
        version = await self._patiently(lambda: self._store.publish(publication))
        self._observer.checked(len(rounds))
        if best.accuracy is not None:
            self._observer.published(best.accuracy)
        log.info(
            "program_published",
            **_fields(command),
            version=version,
            activated=publication.activate,
            accuracy=best.accuracy,
            rounds=len(rounds),
            unchecked=len(task.examples) - best.total,
        )
        return Outcome.ACTIVATED if publication.activate else Outcome.DRAFT

    async def _play(
        self, task: TaskSpecification, command: GenerateProgram, shown: list[Example], hidden: list[bool]
    ) -> list[Round]:
        """Rounds until one reaches the target, the generator repeats itself or fails, or the rounds are used up."""
        played: list[Round] = []
        while len(played) < self._rounds:
            last = played[-1] if played else None
            try:
                program = await self._generator.generate(
                    domain.request_for(task, command, shown, last), command.generation_id
                )
            except GeneratorFailed as error:
                if last is None:
                    raise
                log.warning("round_failed", **_fields(command), round=len(played) + 1, reason=error.message)
                break
            if last is not None and program.code == last.program.code:
                break
            played.append(Round(program, await self._check(task, program, hidden)))
            if played[-1].reaches(task.accuracy_target):
                break
        return played

    async def _check(self, task: TaskSpecification, program: Program, hidden: list[bool]) -> CheckReport:
        check = domain.check_for(task, program, hidden)
        try:
            return await self._patiently(lambda: self._checker.check(check))
        except LoopaiError as error:
            raise ProgramRejected(f"the program could not be checked: {error.message}") from error

    async def _fail(self, command: GenerateProgram, reason: str) -> None:
        failure = FailTask(
            task_id=command.task_id, generation_id=command.generation_id, reason=domain.as_reason(reason)
        )
        try:
            await self._patiently(lambda: self._store.fail(failure))
        except (TaskNotFound, TaskArchived) as error:
            log.warning("generation_without_task", **_fields(command), code=error.code)

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Calls again while the other side is away, up to the patience; then raises what it raised last."""
        until = time.monotonic() + self._patience_seconds
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return await call()
            except LoopaiError as error:
                if not error.retryable or time.monotonic() + pause > until:
                    raise
                log.warning("waiting_for_service", code=error.code, reason=error.message, pause_seconds=pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)


def _fields(command: GenerateProgram) -> dict[str, str]:
    return {"task_id": str(command.task_id), "generation_id": str(command.generation_id)}
