"""Which program runs when a request names a task: what the executor remembers of the artifact store, and for how long.

A version never changes, so it is kept until there is no room. The active version is a pointer that moves: it is asked
for again in the background before it is old, together with others, dropped when the event says so, and never older than
five seconds while the store answers. When the store does not, the last known version goes on running for a minute.

While a version is rolled out the pointer stands for two programs. A candidate whose code cannot be had takes nothing
down: the active program runs alone, and the candidate is asked for again when the pointer is.
"""

import asyncio
import contextvars
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from loopai_common.contracts.artifacts import ResolvedProgram, ResolvedRollout
from loopai_common.errors import BusUnavailable, DeadlineExceeded, LoopaiError, Overloaded, StoreUnavailable
from loopai_common.runtime.logging import get_logger
from loopai_executor.domain import Counts, Program, Runnable, Split
from loopai_executor.ports import ProgramSource

FRESH_SECONDS: Final = 5.0
REFRESH_SECONDS: Final = 3.5
STALE_SECONDS: Final = 60.0
NEGATIVE_SECONDS: Final = 1.0
_RETRY_SECONDS: Final = 1.0
_MAX_POINTERS: Final = 20_000
_CANDIDATE_SECONDS: Final = 1.0
_GATHER_SECONDS: Final = 0.1

Reference = tuple[str, int | None]
"""A task's id or name, and a version; ``None`` is the active one."""

_PASSING = (StoreUnavailable, BusUnavailable, DeadlineExceeded, Overloaded)

log = get_logger()


@dataclass(frozen=True, slots=True)
class _Pointer:
    """What a reference stands for. Times are on the catalogue's clock.

    A fixed version is fresh for ever, whether the store answers or not; it is asked for again all the same.
    """

    key: tuple[str, int]
    task_name: str
    refresh_at: float
    fresh_until: float
    usable_until: float
    rollout: tuple[tuple[str, int], float] | None = None
    """The key of the candidate, and its percentage."""


class Catalogue:
    """Resolves references to programs. One question at a time goes to the store for each reference."""

    def __init__(
        self,
        source: ProgramSource,
        counts: Counts,
        *,
        max_code_bytes: int,
        gather_seconds: float = _GATHER_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._counts = counts
        self._clock = clock
        self._max_code_bytes = max_code_bytes
        self._gather_seconds = gather_seconds
        self._code_bytes = 0
        self._programs: OrderedDict[tuple[str, int], Program] = OrderedDict()
        self._pointers: OrderedDict[Reference, _Pointer] = OrderedDict()
        self._refusals: OrderedDict[Reference, tuple[LoopaiError, float]] = OrderedDict()
        self._asking: dict[Reference, asyncio.Task[Runnable]] = {}
        self._due: set[Reference] = set()
        self._gathering: asyncio.TimerHandle | None = None

    def cached(self, task: str, version: int | None) -> Runnable | None:
        """What runs, when it is known well enough not to wait for the store."""
        pointer = self._pointers.get((task, version))
        if pointer is None:
            return None
        now = self._clock()
        if now >= pointer.fresh_until:
            return None
        program = self._programs.get(pointer.key)
        if program is not None:
            self._programs.move_to_end(pointer.key)
            if now >= pointer.refresh_at:
                self._refresh((task, version))
            if pointer.rollout is not None:
                return self._split(program, *pointer.rollout)
        return program

    async def resolve(self, task: str, version: int | None) -> Runnable:
        """What runs, from the store when need be; raises what :class:`ProgramSource` raises."""
        program = self.cached(task, version)
        if program is not None:
            return program
        reference = (task, version)
        refusal = self._refusals.get(reference)
        if refusal is not None and self._clock() < refusal[1]:
            raise type(refusal[0])(refusal[0].message, details=refusal[0].details)
        try:
            return await asyncio.shield(self._ask(reference))
        except _PASSING:
            program = self._last_known(reference)
            if program is None:
                raise
            return program

    def forget_active(self, task_id: str, task_name: str) -> None:
        """The pointer of a task moved: the next request asks the store. An answer on its way no longer counts."""
        for task in (task_id, task_name):
            self._pointers.pop((task, None), None)
            self._refusals.pop((task, None), None)
            self._asking.pop((task, None), None)

    def forget_task(self, task_id: str, task_name: str) -> None:
        """The task ended: whatever version is asked for next, the store is asked first."""
        for known in (self._pointers, self._refusals, self._asking):
            for reference in [reference for reference in known if reference[0] in (task_id, task_name)]:
                known.pop(reference)

    async def close(self) -> None:
        """Ends the questions that are open."""
        if self._gathering is not None:
            self._gathering.cancel()
        asking = list(self._asking.values())
        for question in asking:
            question.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    def _split(self, active: Program, key: tuple[str, int], percentage: float) -> Split | None:
        """Both programs of a rollout, unless there was no room to keep the candidate."""
        candidate = self._programs.get(key)
        if candidate is None:
            return None
        self._programs.move_to_end(key)
        return Split(active, candidate, percentage)

    def _last_known(self, reference: Reference) -> Runnable | None:
        """The version that ran before the store went away, for as long as it may go on running."""
        pointer = self._pointers.get(reference)
        now = self._clock()
        if pointer is None or now >= pointer.usable_until:
            return None
        program = self._programs.get(pointer.key)
        if program is None:
            return None
        self._pointers[reference] = replace(pointer, refresh_at=now, fresh_until=now + _RETRY_SECONDS)
        return program if pointer.rollout is None else self._split(program, *pointer.rollout) or program

    def _refresh(self, reference: Reference) -> None:
        """Asks soon, with what else is due by then: the source makes one message of it."""
        self._due.add(reference)
        if self._gathering is None:
            self._gathering = asyncio.get_running_loop().call_later(self._gather_seconds, self._ask_due)

    def _ask_due(self) -> None:
        due, self._due, self._gathering = self._due, set(), None
        for reference in due:
            self._ask(reference)

    def _ask(self, reference: Reference) -> asyncio.Task[Runnable]:
        question = self._asking.get(reference)
        if question is None:
            # Of nobody's request: its deadline is its own, and others wait for it too.
            question = asyncio.get_running_loop().create_task(self._load(reference), context=contextvars.Context())
            self._asking[reference] = question
            question.add_done_callback(lambda done: self._answered(reference, done))
        return question

    def _answered(self, reference: Reference, question: asyncio.Task[Runnable]) -> None:
        current = self._asking.get(reference) is question
        if current:
            del self._asking[reference]
        if question.cancelled():
            return
        error = question.exception()
        if error is None:
            return
        pointer = self._pointers.get(reference)
        if isinstance(error, _PASSING):
            if pointer is not None:
                self._pointers[reference] = replace(pointer, refresh_at=self._clock() + _RETRY_SECONDS)
        elif isinstance(error, LoopaiError) and current:
            self._pointers.pop(reference, None)
            self._refusals[reference] = (error, self._clock() + NEGATIVE_SECONDS)
            _bound(self._refusals)

    async def _load(self, reference: Reference) -> Runnable:
        task, version = reference
        resolved = await self._source.resolve(task, version)
        program = await self._program(resolved, resolved)
        split = None
        if resolved.rollout is not None and version is None:
            split = await self._with_candidate(program, resolved, resolved.rollout)
        if self._asking.get(reference) is asyncio.current_task():
            now = self._clock()
            fixed = version is not None
            self._pointers[reference] = _Pointer(
                program.key,
                resolved.task_name,
                refresh_at=now + REFRESH_SECONDS,  # a fixed version too: its task may have been changed or archived
                fresh_until=float("inf") if fixed else now + FRESH_SECONDS,
                usable_until=float("inf") if fixed else now + FRESH_SECONDS + STALE_SECONDS,
                rollout=None if split is None else (split.candidate.key, split.percentage),
            )
            self._pointers.move_to_end(reference)
            _bound(self._pointers)
        return split or program

    async def _program(self, task: ResolvedProgram, artifact: ResolvedProgram | ResolvedRollout) -> Program:
        """The program of ``artifact``, one of the task that ``task`` tells of."""
        key = (str(task.task_id), int(artifact.version))
        program = self._programs.get(key)
        if program is None:
            code = await self._source.fetch(task.task_id, artifact.digest)
            kept = self._programs.get(key)
            if kept is not None:  # another reference to it was faster
                return kept
            program = Program(
                task_id=key[0],
                task_name=task.task_name,
                program_id=str(artifact.artifact_id),
                version=key[1],
                code=code,
                entry_point=artifact.entry_point,
                input_schema=task.input_schema,
                output_schema=task.output_schema,
                sampling_rate=task.sampling_rate,
                isolation=task.isolation,
            )
            self._keep(program)
        elif (program.sampling_rate, program.isolation) != (task.sampling_rate, task.isolation):
            program = replace(program, sampling_rate=task.sampling_rate, isolation=task.isolation)
            self._programs[key] = program
        return program

    async def _with_candidate(self, active: Program, task: ResolvedProgram, rollout: ResolvedRollout) -> Split | None:
        """Both programs, or ``None`` when the candidate cannot be had within a second; that is told and counted."""
        try:
            async with asyncio.timeout(_CANDIDATE_SECONDS):
                candidate = await self._program(task, rollout)
        except (LoopaiError, TimeoutError) as error:
            self._counts.candidates_missed += 1
            reason = getattr(error, "code", "timeout")
            log.warning("candidate_missed", task_id=active.task_id, version=int(rollout.version), reason=reason)
            return None
        return Split(active, candidate, rollout.percentage)

    def _keep(self, program: Program) -> None:
        self._programs[program.key] = program
        self._code_bytes += len(program.code)
        while self._code_bytes > self._max_code_bytes and len(self._programs) > 1:
            _, dropped = self._programs.popitem(last=False)
            self._code_bytes -= len(dropped.code)


def _bound(entries: OrderedDict[Reference, Any]) -> None:
    while len(entries) > _MAX_POINTERS:
        entries.popitem(last=False)
