"""Where the outcomes of executions go: all together to who asked for them, or in parts to the reply of a frame."""

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from loopai_common.contracts.base import format_timestamp
from loopai_common.contracts.execution import (
    Execution,
    ExecutionError,
    ExecutionResult,
    ExecutionStatus,
    RejectedDetail,
    RejectedExecution,
)
from loopai_common.contracts.failure import Failure
from loopai_common.contracts.frames import FRAME_FORMAT, AnswerKind, FrameAnswerGroup, FrameGroup, FramePart
from loopai_common.errors import LoopaiError
from loopai_common.runtime import context
from loopai_common.runtime.errors import failure_of
from loopai_executor.domain import Counts, Program, Sink
from loopai_executor.ports import PartPublisher
from loopai_executor.recording import NULL, Recorder

_PART_SECONDS: Final = 0.002
_PART_SECONDS_AN_ITEM: Final = 0.0002
_MAX_PART_BYTES: Final = 1024 * 1024

_decode_error = msgspec.json.Decoder(tuple[ExecutionError, str]).decode


class Collector:
    """The results of a request, all together, in order. Sampled ones go to the ``recorder``, if there is one."""

    def __init__(
        self,
        programs: Sequence[Program],
        executions: Sequence[Execution],
        ids: Sequence[str],
        counts: Counts,
        deadline: float,
        recorder: Recorder | None,
    ) -> None:
        self.recorder = recorder
        request = context.current()
        self.traceparent = request.sampled_traceparent
        self.began_ns = time.time_ns()
        self.sinks: tuple[Sink, Sink] = (
            _CollectorSink(self, deadline, sampled=False),
            _CollectorSink(self, deadline, sampled=True),
        )
        """Of those that are not sampled, and of those that are."""
        self._correlation_id = request.correlation_id
        self.done: asyncio.Future[list[ExecutionResult | RejectedExecution]] = (
            asyncio.get_running_loop().create_future()
        )
        self._programs = programs
        self._asked = executions
        self._ids = ids
        self._executions = counts.executions["request"]
        self._results: list[Any] = [None] * len(ids)
        self._left = len(ids)

    def take(self, index: int, kind: int, payload: msgspec.Raw, latency_us: int, *, sampled: bool) -> None:
        """Takes the outcome of one execution."""
        self._executions[kind] += 1
        self._results[index] = (
            _rejected(payload)
            if kind == AnswerKind.REFUSED
            else self._result(index, kind, payload, latency_us, sampled=sampled)
        )
        self._left -= 1
        if self._left == 0 and not self.done.done():
            self.done.set_result(self._results)

    def _result(
        self, index: int, kind: int, payload: msgspec.Raw, latency_us: int, *, sampled: bool
    ) -> ExecutionResult:
        program, execution_id = self._programs[index], self._ids[index]
        if sampled and self.recorder is not None:
            value = self._asked[index].input
            self.recorder.record(program, execution_id, self._correlation_id, value, kind, payload, latency_us)
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
            sampled_for_validation=sampled,
            executed_at=format_timestamp(datetime.now(UTC)),
        )


class _CollectorSink:
    """Sink of the executions of a request that are sampled, or of those that are not."""

    __slots__ = ("_collector", "_sampled", "deadline")

    def __init__(self, collector: Collector, deadline: float, *, sampled: bool) -> None:
        self.deadline = deadline
        self._collector = collector
        self._sampled = sampled

    def answer(self, indexes: Sequence[int], kind: int, payloads: Sequence[msgspec.Raw], latency_us: int) -> None:
        """Takes the outcomes of some."""
        for index, payload in zip(indexes, payloads, strict=True):
            self._collector.take(index, kind, payload, latency_us, sampled=self._sampled)


class FrameReply:
    """Collects the answers to a frame and publishes together those of two milliseconds, of less where it is small."""

    def __init__(self, reply: str, publisher: PartPublisher, counts: Counts, deadline: float) -> None:
        self.deadline = deadline
        self.began_ns = time.time_ns()
        self._reply = reply
        self._publisher = publisher
        self._executions = counts.executions["frame"]
        self._loop = asyncio.get_running_loop()
        self._groups: list[FrameAnswerGroup] = []
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
        count = len(indexes)
        if count:
            payloads = [payload] * count
            self.add(FrameAnswerGroup("", "", 0, AnswerKind.REFUSED, 0, False, list(indexes), payloads))

    def add(self, group: FrameAnswerGroup) -> None:
        """Takes answers."""
        count = len(group.payloads)
        self._executions[group.kind] += count
        self._groups.append(group)
        self._left -= count
        self._bytes += sum(map(len, group.payloads))
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
        groups, self._groups, self._bytes = self._groups, [], 0
        if groups:
            self._publisher.publish(self._reply, FramePart(FRAME_FORMAT, groups))


class GroupSink:
    """Sink of the items of a group that one program runs, and that are sampled, or are not."""

    __slots__ = ("_group", "_program", "_recorder", "_reply", "_sampled", "_start", "deadline")

    def __init__(
        self, reply: FrameReply, program: Program, recorder: Recorder, group: FrameGroup, start: int, *, sampled: bool
    ) -> None:
        self.deadline = reply.deadline
        self._reply = reply
        self._program = program
        self._recorder = recorder
        self._group = group
        self._start = start
        self._sampled = sampled

    def answer(self, indexes: Sequence[int], kind: int, payloads: Sequence[msgspec.Raw], latency_us: int) -> None:
        """Takes the outcomes of some items."""
        program = self._program
        names = program.task_id, program.program_id, program.version
        self._reply.add(FrameAnswerGroup(*names, kind, latency_us, self._sampled, list(indexes), list(payloads)))
        if self._sampled:
            for index, payload in zip(indexes, payloads, strict=True):
                self._record(index - self._start, kind, payload, latency_us)

    def _record(self, position: int, kind: int, payload: msgspec.Raw, latency_us: int) -> None:
        group, mark = self._group, self._group.marks.get(position)
        correlation_id = "" if mark is None else mark.correlation_id
        execution_id, value = group.execution_ids[position], group.inputs[position]
        self._recorder.record(self._program, execution_id, correlation_id, value, kind, payload, latency_us)


def _rejected(payload: msgspec.Raw) -> RejectedExecution:
    failure = Failure.model_validate_json(bytes(payload))
    details = [RejectedDetail(d.field, d.message, d.code) for d in failure.details]
    return RejectedExecution(failure.code, failure.message, details)
