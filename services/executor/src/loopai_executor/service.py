"""Use cases of the executor: run a request, run a frame, check a program, follow the active version."""

import asyncio
import math
import random
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from loopai_common.contracts.artifacts import MAX_REPORTED_FAILURES, ArtifactActivated, ExampleFailure, Score
from loopai_common.contracts.base import format_timestamp
from loopai_common.contracts.execution import (
    MAX_BATCH_ITEMS,
    MAX_TIMEOUT_MS,
    BatchResult,
    CheckExample,
    CheckProgram,
    CheckReport,
    Execution,
    ExecutionError,
    ExecutionResult,
    ExecutionStatus,
    RejectedDetail,
    RejectedExecution,
)
from loopai_common.contracts.failure import Failure
from loopai_common.contracts.frames import (
    FORCE_VALIDATION,
    FRAME_FORMAT,
    MAX_FRAME_ITEMS,
    AnswerKind,
    Frame,
    FrameAnswer,
    FrameAnswerGroup,
    FrameGroup,
    FrameItem,
    FramePart,
)
from loopai_common.contracts.tasks import Comparison, TaskArchived, TaskUpdated
from loopai_common.errors import ERRORS_BY_CODE, Internal, LoopaiError, MalformedJson, ValidationFailed, Violation
from loopai_common.identifiers import new_id
from loopai_common.runtime import context, tracing
from loopai_common.runtime.errors import failure_of
from loopai_common.runtime.logging import get_logger
from loopai_executor.catalogue import Catalogue
from loopai_executor.comparison import equal_outputs, similarity
from loopai_executor.domain import Counts, Job, Program, Runnable, Split, percentile
from loopai_executor.ports import PartPublisher, ProgramPool, Trial
from loopai_executor.recording import NULL, Recorder
from loopai_executor.traces import traced

CHECK_SECONDS: Final = 60.0
_CHECK_MARGIN_SECONDS: Final = 1.0
_MAX_CHECK_TIMEOUTS: Final = 5
_CONCURRENT_CHECKS: Final = 2
_PART_SECONDS: Final = 0.002
_PART_SECONDS_AN_ITEM: Final = 0.0002
_MAX_PART_BYTES: Final = 1024 * 1024

_decode_frame = msgspec.json.Decoder(Frame).decode
_decode_error = msgspec.json.Decoder(tuple[ExecutionError, str]).decode

log = get_logger()


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
        answers = _FrameReply(reply, self._publisher, self._counts, math.inf if deadline is None else deadline)
        problem = _frame_problem(frame)
        first = 0
        for group in frame.groups:
            start, first = first, first + len(group.items)
            if problem is not None:
                answers.refuse(range(start, first), problem)
                continue
            found = self._catalogue.cached(group.task, group.version or None)
            answers.expect(len(group.items))
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
            return await _Examination(trial, command, until).report()

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
        collector = _Collector(programs, ids, self._counts, deadline, recorder)
        for program in set(programs):
            self._pool.submit(
                program,
                [self._job(collector, i, e, program) for i, e in enumerate(executions) if programs[i] is program],
            )
        return await collector.done

    def _job(self, collector: "_Collector", index: int, execution: Execution, program: Program) -> Job:
        recorder = collector.recorder
        sampled = execution.force_validation or (
            self._random_share() < program.sampling_rate and (recorder is None or recorder.admits())
        )
        # Of a batch the first execution is traced.
        sink = collector if index else traced(collector, collector.traceparent, program, collector.began_ns)
        return Job(sink, index, execution.timeout_ms or self._default_timeout_ms, sampled, execution.input)

    async def _resolve_group(self, answers: "_FrameReply", group: FrameGroup, start: int) -> None:
        indexes = range(start, start + len(group.items))
        try:
            found = await self._catalogue.resolve(group.task, group.version or None)
        except LoopaiError as error:
            answers.refuse(indexes, error, expected=True)
        except asyncio.CancelledError:
            answers.refuse(indexes, Internal("the executor stopped"), expected=True)
            raise
        else:
            self._run_group(answers, group, start, found)

    def _run_group(self, answers: "_FrameReply", group: FrameGroup, start: int, found: Runnable) -> None:
        items = enumerate(group.items, start)
        if not isinstance(found, Split):
            self._run_items(answers, items, found, group, start)
            return
        parts: dict[Program, list[tuple[int, FrameItem]]] = {}
        for index, item in items:
            program = found.choose(item.execution_id or new_id())
            parts.setdefault(program, []).append((index, item))
        for program, part in parts.items():
            self._run_items(answers, part, program, group, start)

    def _run_items(
        self,
        answers: "_FrameReply",
        items: Iterable[tuple[int, FrameItem]],
        program: Program,
        group: FrameGroup,
        start: int,
    ) -> None:
        sink = _GroupSink(answers, program, self._recorder, group, start)
        admits = self._recorder.admits
        rate, share, default = program.sampling_rate, self._random_share, self._default_timeout_ms
        jobs = [
            Job(
                traced(sink, item.traceparent, program, answers.began_ns, tracing.Kind.SERVER)
                if item.traceparent
                else sink,
                i,
                item.timeout_ms if 0 < item.timeout_ms <= MAX_TIMEOUT_MS else default,
                bool(item.flags & FORCE_VALIDATION) or (share() < rate and admits()),
                item.input,
            )
            for i, item in items
        ]
        try:
            self._pool.submit(program, jobs)
        except LoopaiError as error:
            answers.refuse([job.index for job in jobs], error, expected=True)

    def _own(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._resolving.add(task)
        task.add_done_callback(self._resolving.discard)


class _Collector:
    """Sink of a request: all results together, in order. Sampled ones go to the ``recorder``, if there is one."""

    def __init__(
        self,
        programs: Sequence[Program],
        ids: Sequence[str],
        counts: Counts,
        deadline: float,
        recorder: Recorder | None,
    ) -> None:
        self.deadline = deadline
        self.recorder = recorder
        request = context.current()
        self.traceparent = request.sampled_traceparent
        self.began_ns = time.time_ns()
        self._correlation_id = request.correlation_id
        self.done: asyncio.Future[list[ExecutionResult | RejectedExecution]] = (
            asyncio.get_running_loop().create_future()
        )
        self._programs = programs
        self._ids = ids
        self._executions = counts.executions["request"]
        self._results: list[Any] = [None] * len(ids)
        self._left = len(ids)

    def answer(self, job: Job, kind: int, payload: msgspec.Raw, latency_us: int) -> None:
        """Takes the outcome of one execution."""
        self._executions[kind] += 1
        self._results[job.index] = (
            _rejected(payload) if kind == AnswerKind.REFUSED else self._result(job, kind, payload, latency_us)
        )
        self._left -= 1
        if self._left == 0 and not self.done.done():
            self.done.set_result(self._results)

    def _result(self, job: Job, kind: int, payload: msgspec.Raw, latency_us: int) -> ExecutionResult:
        program, execution_id = self._programs[job.index], self._ids[job.index]
        if job.sampled and self.recorder is not None:
            self.recorder.record(program, execution_id, self._correlation_id, job.input, kind, payload, latency_us)
        status = (ExecutionStatus.SUCCESS, ExecutionStatus.ERROR, ExecutionStatus.TIMEOUT)[kind]
        code, message = (None, None) if kind == AnswerKind.SUCCESS else _decode_error(payload)
        return ExecutionResult(
            execution_id=execution_id,
            task_id=program.task_id,
            program_id=program.program_id,
            version=program.version,
            status=status,
            output=payload if kind == AnswerKind.SUCCESS else NULL,
            error_code=code,
            error_message=message,
            latency_ms=latency_us / 1000,
            sampled_for_validation=job.sampled,
            executed_at=format_timestamp(datetime.now(UTC)),
        )


class _FrameReply:
    """Collects the answers to a frame and publishes together those of two milliseconds, of less where it is small."""

    def __init__(self, reply: str, publisher: PartPublisher, counts: Counts, deadline: float) -> None:
        self.deadline = deadline
        self.began_ns = time.time_ns()
        self._reply = reply
        self._publisher = publisher
        self._executions = counts.executions["frame"]
        self._loop = asyncio.get_running_loop()
        self._groups: dict[Program | None, list[FrameAnswer]] = {}
        self._items = 0
        self._left = 1  # for begun()
        self._bytes = 0
        self._due: asyncio.Handle | None = None
        publisher.opened()

    def expect(self, items: int) -> None:
        """So many answers will come."""
        self._items += items
        self._left += items

    def begun(self) -> None:
        """Everything that is to be expected was announced."""
        self._left -= 1
        self._schedule()

    def refuse(self, indexes: Sequence[int], error: LoopaiError, *, expected: bool = False) -> None:
        """Answers items that did not run."""
        if not expected:
            self.expect(len(indexes))
        payload = msgspec.Raw(failure_of(error).model_dump_json().encode())
        for index in indexes:
            self.add(None, FrameAnswer(index, AnswerKind.REFUSED, 0, False, payload))

    def add(self, program: Program | None, answer: FrameAnswer) -> None:
        """Takes an answer."""
        self._executions[answer.kind] += 1
        answers = self._groups.get(program)
        if answers is None:
            answers = self._groups[program] = []
        answers.append(answer)
        self._left -= 1
        self._bytes += len(answer.payload)
        if self._bytes > _MAX_PART_BYTES:
            self._publish()
        if self._left == 0 or self._due is None:
            self._schedule()

    def _schedule(self) -> None:
        """A frame that is answered goes at once; what is ready of another one waits, longer where it is large."""
        if self._left == 0:
            if self._due is not None:
                self._due.cancel()
            self._publish()
            self._publisher.closed()
        elif self._due is None:
            wait = min(_PART_SECONDS, self._items * _PART_SECONDS_AN_ITEM)
            self._due = self._loop.call_later(wait, self._flush)

    def _flush(self) -> None:
        self._due = None
        self._publish()

    def _publish(self) -> None:
        groups, self._groups, self._bytes = self._groups, {}, 0
        if groups:
            self._publisher.publish(
                self._reply, FramePart(FRAME_FORMAT, [_answer_group(p, a) for p, a in groups.items()])
            )


class _GroupSink:
    """Sink of the items of one program in a frame."""

    __slots__ = ("_group", "_program", "_recorder", "_reply", "_start", "deadline")

    def __init__(self, reply: _FrameReply, program: Program, recorder: Recorder, group: FrameGroup, start: int) -> None:
        self.deadline = reply.deadline
        self._reply = reply
        self._program = program
        self._recorder = recorder
        self._group = group
        self._start = start

    def answer(self, job: Job, kind: int, payload: msgspec.Raw, latency_us: int) -> None:
        """Takes the outcome of one item."""
        self._reply.add(self._program, FrameAnswer(job.index, kind, latency_us, job.sampled, payload))
        if job.sampled:
            item = self._group.items[job.index - self._start]
            self._recorder.record(
                self._program, item.execution_id, item.correlation_id, item.input, kind, payload, latency_us
            )


class _Examination:
    """Runs a loaded program on the examples of a check and keeps the score."""

    def __init__(self, trial: Trial, command: CheckProgram, until: float) -> None:
        self._trial = trial
        self._command = command
        self._until = until
        self._passed = {False: 0, True: 0}
        self._total = {False: 0, True: 0}
        self._latencies_ms: list[float] = []
        self._failures: list[ExampleFailure] = []
        self._timeouts = 0

    async def report(self) -> CheckReport:
        """The score of all examples; those that there was no time for count as failed."""
        for example in self._command.examples:
            self._total[example.held_back] += 1
            failure = await self._examine(example)
            if failure is None:
                self._passed[example.held_back] += 1
            elif len(self._failures) < MAX_REPORTED_FAILURES:
                self._failures.append(failure)
        return CheckReport(
            loaded=True,
            shown=self._score(held_back=False),
            held_back=self._score(held_back=True),
            latency_p50_ms=percentile(self._latencies_ms, 0.5),
            latency_p99_ms=percentile(self._latencies_ms, 0.99),
            failures=tuple(self._failures),
        )

    async def _examine(self, example: CheckExample) -> ExampleFailure | None:
        if self._timeouts >= _MAX_CHECK_TIMEOUTS:
            return _failed(example, error=f"not run: the program ran out of time on {self._timeouts} examples before")
        if time.monotonic() > self._until:
            return _failed(example, error="not run: the time for the check was used up")
        value = msgspec.json.encode(example.input)
        kind, payload, seconds = await self._trial.run(value, self._command.timeout_ms)
        self._latencies_ms.append(round(seconds * 1000, 4))
        if kind == AnswerKind.SUCCESS:
            return await self._judge(example, msgspec.json.decode(payload))
        if kind == AnswerKind.REFUSED:
            return _failed(example, error=Failure.model_validate_json(bytes(payload)).message)
        self._timeouts += kind == AnswerKind.TIMEOUT
        code, message = _decode_error(payload)
        return _failed(example, error=f"{code}: {message}")

    async def _judge(self, example: CheckExample, actual: Any) -> ExampleFailure | None:
        comparison = self._command.comparison
        if comparison is Comparison.EXACT:
            return None if equal_outputs(example.output, actual) else _failed(example, actual=actual)
        # In a thread: long texts take milliseconds, and the executions of others run on this loop.
        near = await asyncio.to_thread(similarity, comparison, example.output, actual)
        return None if near >= self._command.comparison_threshold else _failed(example, actual=actual, similarity=near)

    def _score(self, *, held_back: bool) -> Score:
        passed, total = self._passed[held_back], self._total[held_back]
        return Score(passed=passed, total=total, accuracy=passed / total if total else None)


def _failed(
    example: CheckExample, *, actual: Any = None, error: str | None = None, similarity: float | None = None
) -> ExampleFailure:
    return ExampleFailure(
        input=example.input, expected=example.output, actual=actual, error=error, similarity=similarity
    )


def _answer_group(program: Program | None, answers: list[FrameAnswer]) -> FrameAnswerGroup:
    if program is None:
        return FrameAnswerGroup("", "", 0, answers)
    return FrameAnswerGroup(program.task_id, program.program_id, program.version, answers)


def _frame_problem(frame: Frame) -> LoopaiError | None:
    """Why none of a frame's items may run."""
    if frame.format != FRAME_FORMAT:
        return ValidationFailed(f"frames of format {frame.format} are not known here")
    if sum(len(group.items) for group in frame.groups) > MAX_FRAME_ITEMS:
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


def _rejected(payload: msgspec.Raw) -> RejectedExecution:
    failure = Failure.model_validate_json(bytes(payload))
    details = [RejectedDetail(d.field, d.message, d.code) for d in failure.details]
    return RejectedExecution(failure.code, failure.message, details)
