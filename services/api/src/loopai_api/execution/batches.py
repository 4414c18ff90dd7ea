"""Batches: many executions of one task's program for one request, together or as a stream.

Every item is an ordinary execution of the engine. A batch has at most ``max_concurrency`` of them under way, and waits
where the engine or the executors have no room, so that a large batch neither fails by its size nor drives out others.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Self

import msgspec

from loopai_api.execution.batch_requests import BatchBody, BatchItem, BrokenItem, parse_item
from loopai_api.execution.engine import ExecutionEngine
from loopai_api.execution.metrics import BatchMetrics
from loopai_api.execution.rendering import Origin, refusal
from loopai_api.execution.service import AwaitedExecution
from loopai_api.models import BatchStreamOptions
from loopai_common.contracts.base import format_timestamp
from loopai_common.contracts.frames import AnswerKind, FrameMark
from loopai_common.errors import Internal, LoopaiError, Overloaded, PayloadTooLarge
from loopai_common.identifiers import new_id
from loopai_common.runtime.context import RequestContext

MAX_OUTPUT_BYTES = 32 * 1024 * 1024
"""Outputs that one answer may hold together; a stream has no such bound."""

_ROOM_PATIENCE_SECONDS = 30.0
_ROOM_POLL_SECONDS = 0.02
_CHUNK_BYTES = 64 * 1024
_MAX_NAMED_VIOLATIONS = 5
_STATUSES: dict[int, str] = {AnswerKind.SUCCESS: "success", AnswerKind.TIMEOUT: "timeout"}
_NULL = msgspec.Raw(b"null")
_encode = msgspec.json.Encoder().encode
_decode_reason = msgspec.json.Decoder(tuple[str, str]).decode


class ItemResult(msgspec.Struct, gc=False):
    """Outcome of one item. ``latency_ms`` and ``execution_id`` are ``None`` for an item that never ran."""

    id: str | None
    status: str
    output: msgspec.Raw
    error_code: str | None
    error_message: str | None
    latency_ms: float | None
    execution_id: str | None
    sampled_for_validation: bool


class BatchAnswer(msgspec.Struct):
    """As :class:`~loopai_api.models.ExecuteBatchResponse`, with the outputs' own bytes."""

    batch_id: str
    task_id: str
    version: int
    total_items: int
    success_count: int
    failure_count: int
    total_duration_ms: float
    avg_latency_ms: float | None
    results: list[ItemResult]
    started_at: str
    completed_at: str


@dataclass(frozen=True, slots=True)
class _Plan:
    """What all items of a batch share; version 0 is the active one."""

    task: str
    version: int
    timeout_ms: int
    correlation_id: str
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class _Outcome:
    """An item's result. ``obstacle`` is set when it was not the item that was wrong: then no other one would run."""

    result: ItemResult
    task_id: str = ""
    version: int = 0
    obstacle: LoopaiError | None = None


class BatchMemory:
    """The bytes that the JSON batches of a process may hold together, since each is kept until its last item ended."""

    def __init__(self, size_bytes: int) -> None:
        self._free = size_bytes

    @contextmanager
    def reserved(self, body_bytes: int) -> Iterator["BatchRoom"]:
        """Room for one batch; raises :class:`Overloaded` when there is none for its body."""
        room = BatchRoom(self)
        if not room.take(body_bytes):
            raise Overloaded("too many large batches are under way; try again, or send lines (application/x-ndjson)")
        try:
            yield room
        finally:
            self._free += room.taken

    def take(self, size_bytes: int) -> bool:
        """Takes so many bytes if they are there; says whether they were."""
        if size_bytes > self._free:
            return False
        self._free -= size_bytes
        return True


class BatchRoom:
    """What one batch has taken of the memory for all."""

    def __init__(self, memory: BatchMemory) -> None:
        self.taken = 0
        self._memory = memory

    def take(self, size_bytes: int) -> bool:
        """Takes more, for as long as the batch is there; says whether there was so much."""
        granted = self._memory.take(size_bytes)
        self.taken += size_bytes if granted else 0
        return granted


class BatchService:
    """Runs batches through the engine."""

    def __init__(
        self, engine: ExecutionEngine, metrics: BatchMetrics, default_timeout_ms: int, memory: BatchMemory
    ) -> None:
        self.memory = memory
        self._engine = engine
        self._metrics = metrics
        self._default_timeout_ms = default_timeout_ms

    async def run(self, task: str, batch: BatchBody, context: RequestContext, room: BatchRoom) -> bytes:
        """Runs all items and returns the body of the response; raises what keeps the program from running at all.

        The outputs take of ``room``. The first item goes ahead alone: it tells whether there is a program, and settles
        the version for all.
        """
        started, clock = datetime.now(UTC), time.monotonic()
        plan = self._plan(task, batch.version, batch.timeout_ms, context)
        # Of a batch the first item is traced: of thousands, spans of all would say no more.
        first = await self._run(replace(plan, traceparent=context.sampled_traceparent), batch.items[0])
        if first.obstacle is not None:
            raise first.obstacle
        results = _Results(batch, room)
        results.put(0, first.result)
        await self._run_others(replace(plan, version=first.version), batch, results)
        return results.answer(first, started, time.monotonic() - clock)

    def stream(
        self,
        task: str,
        lines: AsyncIterator[tuple[int, bytes | None]],
        options: BatchStreamOptions,
        context: RequestContext,
    ) -> "BatchStream":
        """Runs one item a line. A line is its number and its text, ``None`` when it is too long to be kept.

        Without ``version`` every item runs the version that is active at its time.
        """
        plan = self._plan(task, options.version, options.timeout_ms, context)
        return BatchStream(self, plan, lines, options.max_concurrency)

    async def run_line(self, plan: _Plan, line: bytes | None) -> _Outcome:
        """The outcome of one line; never raises a :class:`LoopaiError`."""
        if line is None:
            return self._counted(_Outcome(_failed(None, PayloadTooLarge("the line is too long"))))
        item = parse_item(line)
        if isinstance(item, BrokenItem):
            return self._counted(_Outcome(_failed(item.id, item.error)))
        return await self._run(plan, item)

    async def _run_others(self, plan: _Plan, batch: BatchBody, results: "_Results") -> None:
        positions = iter(range(1, len(batch.items)))

        async def work() -> None:
            for index in positions:  # shared: each turn takes the next item that nobody has
                if results.stopped:
                    return
                results.put(index, (await self._run(plan, batch.items[index])).result)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(batch.max_concurrency, len(batch.items) - 1)):
                group.create_task(work())

    async def _run(self, plan: _Plan, item: BatchItem) -> _Outcome:
        try:
            outcome = await self._when_there_is_room(plan, item)
        except LoopaiError as error:
            outcome = _Outcome(_failed(item.id, error), obstacle=error)
        return self._counted(outcome)

    async def _when_there_is_room(self, plan: _Plan, item: BatchItem) -> _Outcome:
        program = plan.task, plan.version, plan.timeout_ms
        mark = FrameMark(plan.correlation_id, item.force_validation, plan.traceparent)
        execution_id = new_id()
        give_up = time.monotonic() + _ROOM_PATIENCE_SECONDS
        while True:
            execution = AwaitedExecution()
            try:
                self._engine.submit(execution, program, execution_id, item.input, mark)
                return _outcome(item, execution_id, *await execution.outcome)
            except Overloaded:
                if time.monotonic() >= give_up:
                    raise
            self._metrics.waits += 1
            await asyncio.sleep(_ROOM_POLL_SECONDS)

    def _counted(self, outcome: _Outcome) -> _Outcome:
        self._metrics.items[outcome.result.status] += 1
        return outcome

    def _plan(self, task: str, version: int | None, timeout_ms: int | None, context: RequestContext) -> _Plan:
        return _Plan(task, version or 0, timeout_ms or self._default_timeout_ms, context.correlation_id)


class BatchStream:
    """Chunks of result lines, in the order of the lines that came, while more of them come.

    Lines are read only while fewer than ``concurrency`` results are outstanding, so what is kept is bounded however
    fast the client sends and however slowly it reads. Whoever iterates closes it, whatever happens.
    """

    def __init__(
        self,
        service: BatchService,
        plan: _Plan,
        lines: AsyncIterator[tuple[int, bytes | None]],
        concurrency: int,
    ) -> None:
        self._service = service
        self._plan = plan
        self._lines = lines
        self._room = asyncio.Semaphore(concurrency)
        self._running: deque[tuple[int, asyncio.Task[_Outcome]]] = deque()
        self._changed = asyncio.Event()
        self._begun = False
        self._reader = asyncio.create_task(self._read())
        self._reader.add_done_callback(lambda _: self._changed.set())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """The next result and those behind it that are there already.

        Raises what ended the lines early, and, instead of the first chunk, what keeps the program from running at all.
        """
        while not self._running:
            if self._reader.done():
                await self._reader
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        chunk = bytearray()
        while not chunk or (self._running and self._running[0][1].done() and len(chunk) < _CHUNK_BYTES):
            line, task = self._running.popleft()
            outcome = await task
            if outcome.obstacle is not None and not self._begun:
                raise outcome.obstacle
            self._begun = True
            self._room.release()
            chunk += b'%b,"line":%d}\n' % (_encode(outcome.result)[:-1], line)
        if self._reader.done():
            await self._reader  # a client that has gone needs no more results
        return bytes(chunk)

    async def close(self) -> None:
        """Ends the reading and every item that is still under way."""
        tasks: list[asyncio.Task[Any]] = [self._reader, *(task for _, task in self._running)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self) -> None:
        await self._room.acquire()
        async for number, line in self._lines:
            task = asyncio.create_task(self._service.run_line(self._plan, line))
            self._running.append((number, task))
            self._changed.set()
            await self._room.acquire()


class _Results:
    """Collects the results of a batch that is answered as a whole."""

    def __init__(self, batch: BatchBody, room: BatchRoom) -> None:
        self.stopped = False
        self._batch = batch
        self._room = room
        self._results: list[ItemResult | None] = [None] * len(batch.items)
        self._room_bytes = MAX_OUTPUT_BYTES

    def put(self, index: int, result: ItemResult) -> None:
        """Takes the result of the item at ``index``."""
        size = len(memoryview(result.output))
        self._room_bytes -= size
        if not self._room.take(size):
            result = _failed(
                result.id, Overloaded("too many large batches are under way to keep the output; try again")
            )
        elif self._room_bytes < 0:
            limit = f"the outputs are larger than {MAX_OUTPUT_BYTES} bytes together"
            result = _failed(result.id, PayloadTooLarge(f"{limit}; send the batch as application/x-ndjson"))
        self._results[index] = result
        if result.status != "success" and self._batch.stop_on_first_error:
            self.stopped = True

    def answer(self, first: _Outcome, started: datetime, seconds: float) -> bytes:
        """The body of the response."""
        items = self._batch.items
        results = [result or _not_run(item) for result, item in zip(self._results, items, strict=True)]
        latencies = [result.latency_ms for result in results if result.latency_ms is not None]
        succeeded = sum(result.status == "success" for result in results)
        return _encode(
            BatchAnswer(
                batch_id=new_id(),
                task_id=first.task_id,
                version=first.version,
                total_items=len(items),
                success_count=succeeded,
                failure_count=len(items) - succeeded,
                total_duration_ms=round(seconds * 1000, 3),
                avg_latency_ms=round(sum(latencies) / len(latencies), 4) if latencies else None,
                results=results,
                started_at=format_timestamp(started),
                completed_at=format_timestamp(datetime.now(UTC)),
            )
        )


def _outcome(item: BatchItem, execution_id: str, origin: Origin, payload: msgspec.Raw) -> _Outcome:
    """What an answer means for its item; raises :class:`Overloaded` when an executor had no room for it."""
    if origin.kind == AnswerKind.REFUSED:
        error = refusal(bytes(payload))
        if isinstance(error, Overloaded):
            raise error
        # A refusal that names the program is about this item's input.
        obstacle = None if origin.version else error
        return _Outcome(_failed(item.id, error), origin.task_id, origin.version, obstacle)
    code: str | None = None
    message: str | None = None
    if origin.kind != AnswerKind.SUCCESS:
        try:
            code, message = _decode_reason(payload)
        except msgspec.MsgspecError as error:
            raise Internal("the executor's answer cannot be read") from error
    result = ItemResult(
        id=item.id,
        status=_STATUSES.get(origin.kind, "error"),
        output=payload if code is None else _NULL,
        error_code=code,
        error_message=message,
        latency_ms=origin.latency_ms,
        execution_id=execution_id,
        sampled_for_validation=origin.sampled,
    )
    return _Outcome(result, origin.task_id, origin.version)


def _failed(item_id: str | None, error: LoopaiError) -> ItemResult:
    """The result of an item that never ran; its message names each path and rule."""
    named = [f"{d.field} {d.message} ({d.code})" for d in error.details[:_MAX_NAMED_VIOLATIONS]]
    message = f"{error.message}: {'; '.join(named)}" if named else error.message
    return ItemResult(item_id, "error", _NULL, error.code, message, None, None, False)


def _not_run(item: BatchItem) -> ItemResult:
    message = "not run, because another item failed and the batch stops on the first error"
    return ItemResult(item.id, "error", _NULL, "not_run", message, None, None, False)
