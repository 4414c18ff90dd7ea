"""Use cases of the executor: run a request, run a frame, check a program, follow the active version."""

import asyncio
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec

from loopai_common.contracts.artifacts import ArtifactActivated
from loopai_common.contracts.execution import (
    MAX_BATCH_ITEMS,
    MAX_TIMEOUT_MS,
    BatchResult,
    CheckProgram,
    CheckReport,
    Execution,
    ExecutionResult,
    RejectedExecution,
)
from loopai_common.contracts.frames import (
    FRAME_FORMAT,
    MAX_FRAME_ITEMS,
    Frame,
    FrameGroup,
)
from loopai_common.contracts.tasks import TaskArchived, TaskUpdated
from loopai_common.errors import ERRORS_BY_CODE, Internal, LoopaiError, MalformedJson, ValidationFailed, Violation
from loopai_common.identifiers import new_id
from loopai_common.runtime import tracing
from loopai_executor.catalogue import Catalogue
from loopai_executor.domain import Counts, Jobs, Program, Runnable, Sink, Split, jobs_of
from loopai_executor.examination import Examination
from loopai_executor.ports import PartPublisher, ProgramPool
from loopai_executor.recording import Recorder
from loopai_executor.sinks import Collector, FrameReply, GroupSink
from loopai_executor.traces import traced

CHECK_SECONDS: Final = 60.0
_CHECK_MARGIN_SECONDS: Final = 1.0
_CONCURRENT_CHECKS: Final = 2

_decode_frame = msgspec.json.Decoder(Frame).decode


class _Request(msgspec.Struct, frozen=True):
    """Either of the two bodies of an execute request."""

    input: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    timeout_ms: int | None = None
    force_validation: bool = False
    execution_id: str | None = None
    executions: list[Execution] | msgspec.UnsetType = msgspec.UNSET


class ExecutionService:
    """Runs programs for requests and frames."""

    def __init__(
        self,
        catalogue: Catalogue,
        pool: ProgramPool,
        publisher: PartPublisher,
        recorder: Recorder,
        counts: Counts,
        *,
        default_timeout_ms: int,
        random_share: Callable[[], float] = random.random,
    ) -> None:
        self._catalogue = catalogue
        self._pool = pool
        self._publisher = publisher
        self._recorder = recorder
        self._counts = counts
        self._default_timeout_ms = default_timeout_ms
        self._random_share = random_share
        self._checks = asyncio.Semaphore(_CONCURRENT_CHECKS)
        self._resolving: set[asyncio.Task[None]] = set()

    async def execute(
        self, task: str, version: int | None, body: bytes, *, deadline: float | None
    ) -> ExecutionResult | BatchResult:
        """Runs a request's one execution or its batch.

        ``deadline`` is Unix time in seconds. Raises ``MalformedJson``, ``ValidationFailed``, what resolving raises,
        ``Overloaded``, and for a single execution what refused its input.
        """
        executions, single = _executions(body)
        until = math.inf if deadline is None else deadline
        results = await self._run(task, version, executions, until, self._recorder)
        return _single(results) if single else BatchResult(results)

    async def execute_one(self, task: str, version: int | None, execution: Execution) -> ExecutionResult:
        """Runs one execution, without a deadline; whoever asks keeps the record of it. Raises as :meth:`execute`."""
        return _single(await self._run(task, version, [execution], math.inf, None))

    def run_frame(self, body: bytes, reply: str, *, deadline: float | None) -> None:
        """Runs what a frame holds; its parts are published to ``reply``. Raises ``MalformedJson``."""
        try:
            frame = _decode_frame(body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise MalformedJson("the frame is not one this executor can read") from error
        answers = FrameReply(reply, self._publisher, self._counts, math.inf if deadline is None else deadline)
        problem = _frame_problem(frame)
        first = 0
        for group in frame.groups:
            start, first = first, first + len(group.inputs)
            if problem is not None:
                answers.refuse(range(start, first), problem)
                continue
            found = self._catalogue.cached(group.task, group.version or None)
            answers.expect(len(group.inputs))
            if found is not None:
                self._run_group(answers, group, start, found)
            else:
                self._own(self._resolve_group(answers, group, start))
        answers.begun()

    async def check(self, command: CheckProgram, *, seconds: float) -> CheckReport:
        """Loads a program in a worker of its own and runs it on the examples, for at most ``seconds``."""
        program = Program(
            task_id="check",
            task_name="check",
            program_id="check",
            version=1,
            code=command.code,
            entry_point=command.entry_point,
            input_schema=command.input_schema,
            output_schema=command.output_schema,
            sampling_rate=0.0,
        )
        until = time.monotonic() + min(seconds, CHECK_SECONDS) - _CHECK_MARGIN_SECONDS
        async with self._checks, self._pool.trial(program) as trial:
            problem = await trial.load()
            if problem is not None:
                return CheckReport(loaded=False, problem=problem)
            return await Examination(trial, command, until).report()

    async def follow(self, event: ArtifactActivated) -> None:
        """The active version of a task changed: forgets the old one and loads the new one before it is asked for."""
        self._catalogue.forget_active(str(event.task_id), event.task_name)
        found = await self._catalogue.resolve(str(event.task_id), None)
        for program in (found.active, found.candidate) if isinstance(found, Split) else (found,):
            self._pool.warm(program)

    def follow_task(self, event: TaskUpdated | TaskArchived) -> None:
        """A task was changed, or ended: its next request asks the store, which tells what it is now or refuses it."""
        self._catalogue.forget_task(str(event.task_id), event.name)

    async def close(self) -> None:
        """Ends what is still being resolved."""
        for task in list(self._resolving):
            task.cancel()
        await asyncio.gather(*self._resolving, return_exceptions=True)
        await self._catalogue.close()

    async def _run(
        self,
        task: str,
        version: int | None,
        executions: Sequence[Execution],
        deadline: float,
        recorder: Recorder | None,
    ) -> list[ExecutionResult | RejectedExecution]:
        found = await self._catalogue.resolve(task, version)
        ids = [execution.execution_id or new_id() for execution in executions]
        programs = [found.choose(i) for i in ids] if isinstance(found, Split) else [found] * len(ids)
        collector = Collector(programs, executions, ids, self._counts, deadline, recorder)
        for program in set(programs):
            self._pool.submit(program, jobs_of(self._asked(collector, executions, programs, program)))
        return await collector.done

    def _asked(
        self,
        collector: Collector,
        executions: Sequence[Execution],
        programs: Sequence[Program],
        program: Program,
    ) -> Iterator[tuple[Sink, int, int, msgspec.Raw]]:
        """What ``program`` is to run, of several."""
        recorder, rate = collector.recorder, program.sampling_rate
        for index, execution in enumerate(executions):
            if programs[index] is not program:
                continue
            sampled = execution.force_validation or (
                self._random_share() < rate and (recorder is None or recorder.admits())
            )
            sink = collector.sinks[sampled]
            if index == 0:  # of a batch the first execution is traced
                sink = traced(sink, collector.traceparent, program, collector.began_ns)
            yield sink, execution.timeout_ms or self._default_timeout_ms, index, execution.input

    async def _resolve_group(self, answers: FrameReply, group: FrameGroup, start: int) -> None:
        indexes = range(start, start + len(group.inputs))
        try:
            found = await self._catalogue.resolve(group.task, group.version or None)
        except LoopaiError as error:
            answers.refuse(indexes, error, expected=True)
        except asyncio.CancelledError:
            answers.refuse(indexes, Internal("the executor stopped"), expected=True)
            raise
        else:
            self._run_group(answers, group, start, found)

    def _run_group(self, answers: FrameReply, group: FrameGroup, start: int, found: Runnable) -> None:
        everything = range(len(group.inputs))
        if not isinstance(found, Split):
            self._run_items(answers, found, group, start, everything)
            return
        parts: dict[Program, list[int]] = {}
        for position in everything:
            program = found.choose(group.execution_ids[position] or new_id())
            parts.setdefault(program, []).append(position)
        for program, positions in parts.items():
            self._run_items(answers, program, group, start, positions)

    def _run_items(
        self, answers: FrameReply, program: Program, group: FrameGroup, start: int, positions: Sequence[int]
    ) -> None:
        """Runs the items of a group that are at ``positions``; ``start`` is the first one's number in the frame."""
        timeout_ms = group.timeout_ms if 0 < group.timeout_ms <= MAX_TIMEOUT_MS else self._default_timeout_ms
        alike = not group.marks and program.sampling_rate == 0 and len(positions) == len(group.inputs)
        if alike:
            sink = GroupSink(answers, program, self._recorder, group, start, sampled=False)
            work = [Jobs(sink, timeout_ms, range(start, start + len(positions)), group.inputs)] if positions else []
        else:
            sinks = self._sinks(answers, program, group, start, positions)
            work = jobs_of((sink, timeout_ms, start + at, group.inputs[at]) for at, sink in sinks)
        try:
            self._pool.submit(program, work)
        except LoopaiError as error:
            answers.refuse([index for jobs in work for index in jobs.indexes], error, expected=True)

    def _sinks(
        self, answers: FrameReply, program: Program, group: FrameGroup, start: int, positions: Sequence[int]
    ) -> Iterator[tuple[int, Sink]]:
        """Where the outcome of each item goes, by its position: what is sampled or traced has a sink of its own."""
        plain, sampled = (
            GroupSink(answers, program, self._recorder, group, start, sampled=sampled) for sampled in (False, True)
        )
        rate, share, admits = program.sampling_rate, self._random_share, self._recorder.admits
        for position in positions:
            mark = group.marks.get(position)
            forced = mark is not None and mark.force_validation
            sink: Sink = sampled if forced or (share() < rate and admits()) else plain
            if mark is not None:
                sink = traced(sink, mark.traceparent, program, answers.began_ns, tracing.Kind.SERVER)
            yield position, sink

    def _own(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._resolving.add(task)
        task.add_done_callback(self._resolving.discard)


def _frame_problem(frame: Frame) -> LoopaiError | None:
    """Why none of a frame's items may run."""
    if frame.format != FRAME_FORMAT:
        return ValidationFailed(f"frames of format {frame.format} are not known here")
    if sum(len(group.inputs) for group in frame.groups) > MAX_FRAME_ITEMS:
        return ValidationFailed(f"a frame holds at most {MAX_FRAME_ITEMS} items")
    return None


def _executions(body: bytes) -> tuple[list[Execution], bool]:
    """The executions that a request asks for, and whether it is a single one."""
    try:
        request = msgspec.json.decode(body, type=_Request)
    except msgspec.ValidationError as error:
        raise ValidationFailed(f"the request breaks its contract: {error}") from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise MalformedJson("the request is not one JSON object") from error
    if isinstance(request.executions, list):
        executions, single = request.executions, False
        if not 1 <= len(executions) <= MAX_BATCH_ITEMS:
            rule = Violation("executions", f"must hold 1 to {MAX_BATCH_ITEMS} items", "batch_size")
            raise ValidationFailed("the batch has a wrong size", details=[rule])
    elif isinstance(request.input, msgspec.Raw):
        executions, single = (
            [Execution(request.input, request.timeout_ms, request.force_validation, request.execution_id)],
            True,
        )
    else:
        rule = Violation("input", "must be there, or 'executions' instead", "required")
        raise ValidationFailed("the request has no input", details=[rule])
    found = [
        Violation("timeout_ms" if single else f"executions/{i}/timeout_ms", f"must be 1 to {MAX_TIMEOUT_MS}", "range")
        for i, execution in enumerate(executions)
        if execution.timeout_ms is not None and not 1 <= execution.timeout_ms <= MAX_TIMEOUT_MS
    ]
    if found:
        raise ValidationFailed("the request breaks its contract", details=found[:100])
    return executions, single


def _single(results: list[ExecutionResult | RejectedExecution]) -> ExecutionResult:
    """The one result; raises what refused its input."""
    result = results[0]
    if isinstance(result, RejectedExecution):
        details = [Violation(d.field, d.message, d.code) for d in result.details]
        raise ERRORS_BY_CODE.get(result.code, Internal)(result.message, details=details)
    return result
