"""The use cases: a new version of a task's program, generated or handed in, checked, and published."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from loopai_common.contracts.artifacts import MAX_CODE_BYTES, Fallback, ProgramArtifact
from loopai_common.contracts.base import Version
from loopai_common.contracts.execution import CheckReport
from loopai_common.contracts.generation import GenerateProgram, SubmitProgram
from loopai_common.contracts.tasks import Example, FailTask, TaskSpecification, TaskStatus
from loopai_common.errors import (
    ArtifactCorrupt,
    GeneratorFailed,
    GeneratorUnavailable,
    IdempotencyKeyReused,
    LoopaiError,
    PayloadTooLarge,
    ProgramRejected,
    TaskArchived,
    TaskNotFound,
)
from loopai_common.runtime import tracing
from loopai_common.runtime.logging import get_logger
from loopai_generator_proxy import domain
from loopai_generator_proxy.domain import Outcome, Program, Round, StandIn
from loopai_generator_proxy.ports import ArtifactStore, Generator, Observer, ProgramChecker

T = TypeVar("T")

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 5.0

log = get_logger()


class Generations:
    """Makes versions, at most ``concurrency`` at a time.

    ``fallback`` is asked while ``generator`` is unavailable and no earlier version stands in. ``patience_seconds`` is
    how long one step waits for an executor or the store to come back.
    """

    def __init__(
        self,
        store: ArtifactStore,
        generator: Generator,
        checker: ProgramChecker,
        observer: Observer,
        *,
        fallback: Generator | None = None,
        rounds: int,
        concurrency: int,
        patience_seconds: float,
    ) -> None:
        self._store = store
        self._generator = generator
        self._fallback = fallback
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

        Does nothing for a generation that made its version before (a redelivered command).
        Raises only retryable errors: the store did not answer.
        """
        await self._run(command, only_while_generating=False)

    async def abandon(self, command: GenerateProgram, cause: str) -> None:
        """Ends a generation as failed whose message cannot be handled, so that nobody waits for it for ever.

        Raises only retryable errors: the store did not answer.
        """
        reason = f"the generation could not be carried out: {cause}; ask for a new version of the task"
        await self._fail(command, reason)

    async def _run(self, command: GenerateProgram, *, only_while_generating: bool) -> None:
        async with self._bulkhead:
            started = time.monotonic()
            outcome = Outcome.INTERRUPTED
            self._observer.started()
            try:
                attributes = {f"loopai.{name}": value for name, value in _fields(command).items()}
                with tracing.span("generation", attributes=attributes) as span:
                    outcome = await self._settle(command, only_while_generating)
                    span.set({"loopai.outcome": outcome.value})
            finally:
                seconds = time.monotonic() - started
                self._observer.finished(outcome, seconds)
                log.info("generation_ended", **_fields(command), outcome=outcome, seconds=round(seconds, 3))

    async def _settle(self, command: GenerateProgram, only_while_generating: bool) -> Outcome:
        try:
            task = await self._patiently(lambda: self._store.task(str(command.task_id)))
            if task.status is TaskStatus.ARCHIVED:
                return Outcome.SKIPPED
            if only_while_generating and task.status is not TaskStatus.GENERATING:
                return Outcome.SKIPPED
            if await self._patiently(lambda: self._store.version_made(command)) is not None:
                return Outcome.SKIPPED
            try:
                return await self._generate(task, command, self._generator)
            except GeneratorUnavailable as error:
                return await self._fall_back(task, command, error)
        except (TaskNotFound, TaskArchived) as error:
            log.warning("generation_without_task", **_fields(command), code=error.code)
            return Outcome.SKIPPED
        except LoopaiError as error:
            if error.retryable and not isinstance(error, GeneratorFailed):
                raise
            log.warning("generation_failed", **_fields(command), code=error.code, reason=error.message)
            await self._fail(command, error.message)
            return Outcome.FAILED

    async def _fall_back(
        self, task: TaskSpecification, command: GenerateProgram, error: GeneratorUnavailable
    ) -> Outcome:
        """An earlier version for the same specification, else what the other generator makes.

        Raises ``error`` when there is neither, and :class:`GeneratorFailed` when the other one failed, too.
        """
        log.warning("generator_unavailable", **_fields(command), reason=error.message)
        versions = await self._patiently(lambda: self._store.versions(task.id))
        earlier = await asyncio.to_thread(domain.earlier_version, task, versions)
        if earlier is not None:
            reason = f"version {earlier}, made for the same specification, stands in: {error.message}"
            await self._fail(command, reason, earlier)
            self._observer.fell_back(StandIn.EARLIER_VERSION)
            return Outcome.KEPT
        if self._fallback is None:
            raise error
        try:
            outcome = await self._generate(task, command, self._fallback, Fallback.LEARNER)
        except GeneratorFailed as also:
            raise GeneratorFailed(f"{error.message}; the learner in its place: {also.message}") from also
        self._observer.fell_back(StandIn.LEARNER)
        return outcome

    async def _generate(
        self,
        task: TaskSpecification,
        command: GenerateProgram,
        generator: Generator,
        fallback: Fallback | None = None,
    ) -> Outcome:
        hidden = domain.held_back(task.examples)
        shown = [example for example, own in zip(task.examples, hidden, strict=True) if not own]
        started = time.monotonic()
        incumbent = await self._incumbent(task, hidden)
        rounds = await self._play(generator, task, command, shown, hidden, incumbent)
        best = max(rounds, key=lambda played: played.rank)
        if not best.report.loaded:
            raise ProgramRejected(f"the generated program does not load in the sandbox: {best.report.problem}")
        cost = sum(played.program.cost for played in rounds)
        seconds = time.monotonic() - started
        publication = await asyncio.to_thread(
            domain.publication, task, command, best, cost, seconds, incumbent, fallback
        )
        stored = await self._patiently(lambda: self._store.publish(publication))
        self._observer.checked(len(rounds))
        if best.accuracy is not None:
            self._observer.published(best.accuracy)
        log.info(
            "program_published",
            **_fields(command),
            version=stored.version,
            activated=publication.activate,
            accuracy=best.accuracy,
            rounds=len(rounds),
            unchecked=len(task.examples) - best.total,
        )
        return Outcome.ACTIVATED if publication.activate else Outcome.DRAFT

    async def _incumbent(self, task: TaskSpecification, hidden: list[bool]) -> Round | None:
        """The active version on the examples as they are now; ``None`` when there is none that can be read."""
        version = task.active_version
        if version is None:
            return None
        try:
            artifact = await self._patiently(lambda: self._store.artifact(task.id, version))
        except ArtifactCorrupt as error:
            log.warning("active_version_unreadable", task_id=str(task.id), version=version, reason=error.message)
            return None
        program = Program(artifact.code or "", artifact.entry_point)
        return Round(program, await self._check(task, program, hidden))

    async def _play(
        self,
        generator: Generator,
        task: TaskSpecification,
        command: GenerateProgram,
        shown: list[Example],
        hidden: list[bool],
        incumbent: Round | None,
    ) -> list[Round]:
        """Rounds until one reaches the target, the generator repeats itself or fails, or the rounds are used up.

        At least one; raises :class:`GeneratorFailed` when there is none.
        """
        played: list[Round] = []
        while len(played) < self._rounds:
            last = played[-1] if played else incumbent
            try:
                program = await generator.generate(
                    domain.request_for(task, command, shown, last), command.generation_id
                )
            except GeneratorFailed as error:
                if not played:
                    raise
                log.warning("round_failed", **_fields(command), round=len(played) + 1, reason=error.message)
                break
            if last is not None and program.code == last.program.code:
                break
            played.append(Round(program, await self._check(task, program, hidden)))
            if played[-1].reaches(task.accuracy_target):
                break
        if not played:
            raise GeneratorFailed(
                f"the generator wrote the active version {task.active_version} again; "
                "give more examples, or constraints"
            )
        return played

    async def _check(self, task: TaskSpecification, program: Program, hidden: list[bool]) -> CheckReport:
        check = domain.check_for(task, program, hidden)
        try:
            return await self._patiently(lambda: self._checker.check(check))
        except LoopaiError as error:
            raise ProgramRejected(f"the program could not be checked: {error.message}") from error

    async def _fail(self, command: GenerateProgram, reason: str, stand_in: Version | None = None) -> None:
        failure = FailTask(
            task_id=command.task_id,
            generation_id=command.generation_id,
            reason=domain.as_reason(reason),
            fallback_version=stand_in,
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


class Submissions:
    """Takes programs that somebody wrote. Somebody waits: nothing here is tried again."""

    def __init__(self, store: ArtifactStore, checker: ProgramChecker) -> None:
        self._store = store
        self._checker = checker

    async def submit(self, command: SubmitProgram) -> ProgramArtifact:
        """Checks the program on the task's examples and publishes it.

        Raises :class:`ProgramRejected` with what it got wrong, :class:`PayloadTooLarge` for code of more than
        ``MAX_CODE_BYTES``, :class:`IdempotencyKeyReused`, :class:`TaskNotFound`, :class:`TaskArchived`, and what says
        that the store or an executor is not there.
        """
        if len(command.code.encode()) > MAX_CODE_BYTES:
            raise PayloadTooLarge(f"the code is larger than {MAX_CODE_BYTES} bytes")
        task = await self._store.task(command.task)
        if task.status is TaskStatus.ARCHIVED:
            raise TaskArchived(f"task '{task.name}' is archived")
        program = Program(command.code, command.entry_point, command.synthesis_strategy)
        check = await asyncio.to_thread(lambda: domain.check_for(task, program, domain.held_back(task.examples)))
        checked = Round(program, await self._checker.check(check))
        rejected = domain.rejection(task, checked)
        if rejected is not None:
            raise rejected
        publication = await asyncio.to_thread(domain.submission, task, command, checked)
        artifact = await self._store.publish(publication)
        if artifact.digest != domain.digest_of(command.code):
            raise IdempotencyKeyReused("the idempotency key was used before with another program")
        return artifact


def _fields(command: GenerateProgram) -> dict[str, str]:
    return {"task_id": str(command.task_id), "generation_id": str(command.generation_id)}
