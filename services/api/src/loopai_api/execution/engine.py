"""The execution engine: gathers executions of all tasks into frames for the executors, and hands out the answers.

Batching adapts by itself. What arrives within one turn of the event loop leaves as one frame, so a request alone
waits for nobody; when ``max_frames`` young frames are unanswered, what comes next is gathered until one is, or until it
fills a frame, so that load makes frames larger instead of queues longer. Slow programs must not hold back others, so a
frame stops counting after a time that grows with its items, at most ``slot_seconds``: few items come from little load,
and there is little to gather.

Programs are pure, so an execution whose frame was lost (its executor died) is sent once more.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections import deque
from typing import Protocol

import msgspec

from loopai_api.execution.metrics import ExecutionMetrics
from loopai_api.execution.rendering import Origin, timestamp_now
from loopai_common.contracts.frames import (
    FRAME_FORMAT,
    MAX_FRAME_BYTES,
    MAX_FRAME_ITEMS,
    Frame,
    FrameGroup,
    FrameMark,
    FramePart,
)
from loopai_common.errors import BusUnavailable, DeadlineExceeded, Internal, LoopaiError, NoExecutor, Overloaded
from loopai_common.runtime.logging import get_logger

_SLOT_SECONDS = 0.005
_LEAST_SLOT_SECONDS = 0.001
_SLOT_SECONDS_AN_ITEM = 0.0001
_SWEEP_SECONDS = 0.05
_ITEM_OVERHEAD_BYTES = 96
_NO_RESPONDERS_RETRY_SECONDS = 0.025

log = get_logger()


class FrameSender(Protocol):
    """Carries frames to the executors. Answers come back through the engine's ``on_part`` and ``on_no_responders``."""

    @property
    def connected(self) -> bool:
        """Whether a frame can be sent right now."""

    def send(self, frame_id: int, payload: bytes, deadline: float) -> None:
        """Sends a frame; ``deadline`` is Unix time in seconds, after which an executor need not begin with it."""


class Execution(ABC):
    """One execution on its way; a lane subclasses it. Exactly one of the two methods is called, once.

    What it holds is the engine's, from :meth:`ExecutionEngine.submit` on.
    """

    __slots__ = ("attempts", "came_at", "execution_id", "input", "mark", "program", "size")

    program: tuple[str, int, int]
    """The task, its version (0 is the active one), and the milliseconds that it may run."""
    execution_id: str
    input: msgspec.Raw
    mark: FrameMark | None
    size: int
    attempts: int
    """How often it was sent, or is about to be."""
    came_at: float
    """When the turn of the event loop began that it came in, on the loop's clock."""

    @abstractmethod
    def answered(self, origin: Origin, payload: msgspec.Raw) -> None:
        """Takes the answer: what it is is ``origin.kind``."""

    @abstractmethod
    def failed(self, error: LoopaiError) -> None:
        """Takes the reason why there will be none."""


class _Frame:
    __slots__ = ("executions", "expires", "holds_slot", "remaining")

    def __init__(self, executions: list[Execution | None], expires: float) -> None:
        self.executions = executions
        self.remaining = len(executions)
        self.expires = expires
        self.holds_slot = True


class ExecutionEngine:
    """One for each process; everything happens on its event loop."""

    def __init__(
        self,
        sender: FrameSender,
        metrics: ExecutionMetrics,
        *,
        queue_seconds: float,
        max_pending: int,
        max_frames: int,
        slot_seconds: float = _SLOT_SECONDS,
        slot_seconds_an_item: float = _SLOT_SECONDS_AN_ITEM,
    ) -> None:
        self._sender = sender
        self._metrics = metrics
        self._queue_seconds = queue_seconds
        self._max_pending = max_pending
        self._max_frames = max_frames
        self._slot_seconds = slot_seconds
        self._slot_seconds_an_item = slot_seconds_an_item
        self._queue: deque[Execution] = deque()
        self._frames: dict[int, _Frame] = {}
        self._next_frame_id = 0
        self._slots_taken = 0
        self._flush_scheduled = False
        self._turn = 0.0  # when the turn began whose end the flush is scheduled for
        self._sweep_handle: asyncio.TimerHandle | None = None
        self._decode_part = msgspec.json.Decoder(FramePart).decode
        self._encode = msgspec.json.Encoder().encode
        self._loop: asyncio.AbstractEventLoop

    def start(self) -> None:
        """Binds the engine to the running event loop; call before the first execution."""
        self._loop = asyncio.get_running_loop()

    @property
    def pending(self) -> int:
        """Executions that wait for an answer."""
        return self._metrics.pending

    def submit(
        self,
        execution: Execution,
        program: tuple[str, int, int],
        execution_id: str,
        value: msgspec.Raw,
        mark: FrameMark | None = None,
    ) -> None:
        """Sends an execution with the next frame; raises :class:`Overloaded` or :class:`BusUnavailable` at once.

        ``program`` is the task, its version (0 is the active one), and the milliseconds that it may run.
        """
        metrics = self._metrics
        if metrics.pending >= self._max_pending:
            metrics.rejected += 1
            raise Overloaded("too many executions are waiting; slow down and try again")
        if not self._flush_scheduled:
            # Once for all that arrive in one turn of the event loop: the connection is the same for them.
            if not self._sender.connected:
                raise BusUnavailable("not connected to NATS; try again")
            self._schedule_flush()
        metrics.pending += 1
        execution.program = program
        execution.execution_id = execution_id
        execution.input = value
        execution.mark = mark
        execution.size = len(value) + _ITEM_OVERHEAD_BYTES
        execution.attempts = 1
        execution.came_at = self._turn
        self._queue.append(execution)

    def on_part(self, frame_id: int, data: bytes) -> None:
        """Takes a part of the reply to a frame; what nobody waits for any more is ignored."""
        frame = self._frames.get(frame_id)
        if frame is None:
            return
        try:
            part = self._decode_part(data)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            log.error("frame_part_unreadable", size_bytes=len(data))
            self._fail_frame(frame_id, Internal("the executor's answer cannot be read"))
            return
        executions = frame.executions
        count, answered = len(executions), 0
        came_at, executed_at = time.perf_counter(), timestamp_now()
        try:
            for group in part.groups:
                origin = Origin(group, came_at, executed_at)
                for index, payload in zip(group.indexes, group.payloads, strict=True):
                    execution = executions[index] if 0 <= index < count else None
                    if execution is not None:
                        executions[index] = None
                        answered += 1
                        execution.answered(origin, payload)
        finally:
            frame.remaining -= answered
            self._metrics.pending -= answered
        if frame.remaining == 0:
            del self._frames[frame_id]
            self._release(frame)

    def on_no_responders(self, frame_id: int) -> None:
        """Learns that no executor listens: once more, shortly (one may be starting), then the callers are told."""
        frame = self._frames.pop(frame_id, None)
        if frame is None:
            return
        self._release(frame)
        again = []
        for execution in frame.executions:
            if execution is None:
                continue
            if execution.attempts < 2:
                again.append(execution)
            else:
                self._fail(execution, NoExecutor("no executor is running; start one, or try again"))
        if again:
            self._loop.call_later(_NO_RESPONDERS_RETRY_SECONDS, self._enqueue_all, again)

    def close(self) -> None:
        """Fails what still waits; called when the process stops and its grace period is over."""
        if self._sweep_handle is not None:
            self._sweep_handle.cancel()
        waiting = [*self._queue, *(e for f in self._frames.values() for e in f.executions if e is not None)]
        self._queue.clear()
        self._frames.clear()
        for execution in waiting:
            self._fail(execution, BusUnavailable("this instance is stopping; try again"))

    def _enqueue_all(self, executions: list[Execution]) -> None:
        for execution in executions:
            self._enqueue(execution)

    def _enqueue(self, execution: Execution) -> None:
        execution.attempts += 1
        self._queue.append(execution)
        if not self._flush_scheduled:
            self._schedule_flush()

    def _schedule_flush(self) -> None:
        self._flush_scheduled = True
        self._turn = self._loop.time()
        self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_scheduled = False
        while self._queue and (self._slots_taken < self._max_frames or len(self._queue) >= MAX_FRAME_ITEMS):
            self._send_next_frame()

    def _send_next_frame(self) -> None:
        groups: dict[tuple[str, int, int], list[Execution]] = {}
        count = size = 0
        program: tuple[str, int, int] | None = None
        group: list[Execution] = []
        queue = self._queue
        while queue and count < MAX_FRAME_ITEMS and (count == 0 or size + queue[0].size <= MAX_FRAME_BYTES):
            execution = queue.popleft()
            if execution.program is not program:
                program = execution.program
                group = groups.setdefault(program, [])
            group.append(execution)
            count += 1
            size += execution.size
        frame_id = self._next_frame_id
        self._next_frame_id += 1
        patience = max(timeout_ms for _, _, timeout_ms in groups) / 1000 + self._queue_seconds
        frame = _Frame([e for group in groups.values() for e in group], self._loop.time() + patience)
        payload = self._encode(
            Frame(FRAME_FORMAT, [_frame_group(*program, group) for program, group in groups.items()])
        )
        self._frames[frame_id] = frame
        self._slots_taken += 1
        self._metrics.frames += 1
        self._metrics.frame_items += count
        held = min(self._slot_seconds, _LEAST_SLOT_SECONDS + count * self._slot_seconds_an_item)
        self._loop.call_later(held, self._release, frame)
        if self._sweep_handle is None:
            self._sweep_handle = self._loop.call_later(_SWEEP_SECONDS, self._sweep)
        self._sender.send(frame_id, payload, time.time() + patience)

    def _release(self, frame: _Frame) -> None:
        if frame.holds_slot:
            frame.holds_slot = False
            self._slots_taken -= 1
            if self._queue and not self._flush_scheduled:
                self._schedule_flush()

    def _sweep(self) -> None:
        """Gives up frames whose time is over: first-timers go out again, the others are told."""
        now = self._loop.time()
        for frame_id in [i for i, frame in self._frames.items() if frame.expires <= now]:
            frame = self._frames.pop(frame_id)
            self._release(frame)
            for execution in frame.executions:
                if execution is None:
                    continue
                if execution.attempts < 2 and self._deadline(execution) > now and self._sender.connected:
                    self._metrics.resent += 1
                    self._enqueue(execution)
                else:
                    self._fail(execution, DeadlineExceeded("no executor answered in time; try again"))
        overdue = [e for e in self._queue if self._deadline(e) <= now]
        if overdue:
            self._queue = deque(e for e in self._queue if self._deadline(e) > now)
            for execution in overdue:
                self._fail(execution, DeadlineExceeded("no executor took the execution in time; try again"))
        again = self._frames or self._queue
        self._sweep_handle = self._loop.call_later(_SWEEP_SECONDS, self._sweep) if again else None

    def _deadline(self, execution: Execution) -> float:
        """When it is given up: there was time to send it twice."""
        return execution.came_at + 2 * (execution.program[2] / 1000 + self._queue_seconds)

    def _fail_frame(self, frame_id: int, error: LoopaiError) -> None:
        frame = self._frames.pop(frame_id)
        self._release(frame)
        for execution in frame.executions:
            if execution is not None:
                self._fail(execution, error)

    def _fail(self, execution: Execution, error: LoopaiError) -> None:
        self._metrics.pending -= 1
        execution.failed(error)


def _frame_group(task: str, version: int, timeout_ms: int, executions: list[Execution]) -> FrameGroup:
    return FrameGroup(
        task,
        version,
        timeout_ms,
        [execution.execution_id for execution in executions],
        [execution.input for execution in executions],
        {place: execution.mark for place, execution in enumerate(executions) if execution.mark is not None},
    )
