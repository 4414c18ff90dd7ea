"""The use case of following a task: its present state or what was missed, then each event as it happens."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Final, Protocol

from loopai_api.clients import StoreClient
from loopai_api.events.feed import ARCHIVED, TaskEvent, TaskEventFeed
from loopai_api.execution.metrics import SLOW_READERS, HttpMetrics
from loopai_common.contracts.base import TaskId
from loopai_common.contracts.tasks import TaskSpecification, TaskStatus
from loopai_common.errors import Overloaded, ShuttingDown

HEARTBEAT_SECONDS: Final = 15.0
MOST_WAITING: Final = 100
"""Events that wait for a client at most; one that is slower than that is disconnected."""

_MOST_REMEMBERED: Final = 1_000
_HEARTBEAT: Final = b": still here\n\n"


class EventHistory(Protocol):
    """The events that happened."""

    async def since(self, event_id: str, task_id: TaskId) -> tuple[TaskEvent, ...] | None:
        """The task's events from the one with this id on, that one included; ``None`` when it is not kept any more.

        Raises :class:`~loopai_common.errors.BusUnavailable`.
        """


class EventStreams:
    """Lets clients follow tasks, at most ``most`` at a time."""

    def __init__(
        self,
        store: StoreClient,
        feed: TaskEventFeed,
        history: EventHistory,
        metrics: HttpMetrics,
        *,
        most: int,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        self._store = store
        self._feed = feed
        self._history = history
        self._metrics = metrics
        self._most = most
        self._heartbeat_seconds = heartbeat_seconds
        self._open: set[EventStream] = set()
        self._stopped = False

    async def open(self, task: str, last_event_id: str | None) -> "EventStream":
        """Begins to follow a task, behind the event with ``last_event_id`` where that is still known.

        The caller closes the stream. Raises :class:`Overloaded`, :class:`ShuttingDown`, ``TaskNotFound`` and what says
        that the store or the bus is away.
        """
        if self._stopped:
            raise ShuttingDown("this instance is stopping; try again")
        if len(self._open) >= self._most:
            raise Overloaded(f"{self._most} streams of events are open, which is the most; try again")
        stream = EventStream(self._heartbeat_seconds)
        self._open.add(stream)
        self._metrics.event_streams += 1
        stream.on_close(self._closed, stream)
        try:
            await self._begin(stream, task, last_event_id)
        except BaseException:
            stream.close()
            raise
        return stream

    def end_all(self) -> None:
        """Ends every stream, of which each client can have the rest where it connects next."""
        for stream in tuple(self._open):
            stream.end()

    def stop(self) -> None:
        """As :meth:`end_all`, for good."""
        self._stopped = True
        self.end_all()

    async def _begin(self, stream: "EventStream", task: str, last_event_id: str | None) -> None:
        found = await self._store.get_task(task, include_examples=False)
        # Heard before the state or the past is read: what happens meanwhile is in both, and told once.
        stream.hear(self._feed, found.id)
        missed = None if last_event_id is None else await self._history.since(last_event_id, found.id)
        if missed is None:
            stream.begin_with_state(await self._store.get_task(str(found.id), include_examples=False))
        else:
            stream.begin_behind(missed)

    def _closed(self, stream: "EventStream") -> None:
        self._open.discard(stream)
        self._metrics.event_streams -= 1
        if stream.overrun.is_set():
            self._metrics.rejected[SLOW_READERS] += 1


class EventStream:
    """One client's view of a task. Iterating gives its text (``text/event-stream``) until the task is archived or the
    stream ends.
    """

    def __init__(self, heartbeat_seconds: float) -> None:
        self.over = False
        """Whether the client has had the last event of the task already."""
        self.overrun = asyncio.Event()
        """Set when the client takes events more slowly than they happen; then there is nothing more for it."""
        self._heartbeat_seconds = heartbeat_seconds
        self._beginning: list[TaskEvent] = []
        self._state: TaskSpecification | None = None
        self._waiting: deque[TaskEvent] = deque()
        self._told: deque[str] = deque(maxlen=_MOST_REMEMBERED)
        self._woken = asyncio.Event()
        self._ended = False
        self._resources = ExitStack()
        self.on_close = self._resources.callback

    def hear(self, feed: TaskEventFeed, task_id: TaskId) -> None:
        """Takes what happens to the task from now on."""
        self._resources.enter_context(feed.heard_by(self._on_event, task_id))

    def begin_with_state(self, task: TaskSpecification) -> None:
        """Makes the present state of the task the first thing that the client is told."""
        self._state = task

    def begin_behind(self, known: tuple[TaskEvent, ...]) -> None:
        """Makes all but the first of ``known``, which the client has, the first things that it is told."""
        self.over = known[0].kind == ARCHIVED
        self._told.append(known[0].id)
        self._beginning = list(known[1:])

    def end(self) -> None:
        """Lets the client have what waits for it, and no more."""
        self._ended = True
        self._woken.set()

    def close(self) -> None:
        """Frees all that the stream holds; a second call does nothing."""
        self._waiting.clear()
        self._resources.close()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._state is not None:
            yield _text("task", self._state.model_dump_json(exclude={"examples"}))
            if self._state.status is TaskStatus.ARCHIVED:
                return
        async for event in self._events():
            if event is None:
                yield _HEARTBEAT
            elif event.id not in self._told:
                self._told.append(event.id)
                yield _text(event.kind, event.data, event.id)
                if event.kind == ARCHIVED:
                    return

    async def _events(self) -> AsyncIterator[TaskEvent | None]:
        """The events as they come; ``None`` for each silence."""
        for event in self._beginning:
            yield event
        while self._waiting or not self._ended:
            if self._waiting:
                yield self._waiting.popleft()
                continue
            self._woken.clear()
            try:
                async with asyncio.timeout(self._heartbeat_seconds):
                    await self._woken.wait()
            except TimeoutError:
                yield None

    def _on_event(self, event: TaskEvent) -> None:
        if self._ended:
            return
        if len(self._waiting) >= MOST_WAITING:
            self._waiting.clear()
            self.overrun.set()
            self.end()
            return
        self._waiting.append(event)
        self._woken.set()


def _text(kind: str, data: str, event_id: str | None = None) -> bytes:
    """An event as the HTML standard writes it; one without an id leaves the client's last one as it is."""
    named = "" if event_id is None else f"id: {event_id}\n"
    return f"{named}event: {kind}\ndata: {data}\n\n".encode()
