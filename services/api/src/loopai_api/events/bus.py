"""Events over NATS: those that come, for the feed, and those that came, from the stream that keeps them."""

import asyncio
import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final
from uuid import UUID

from faststream import Context
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from loopai_api.events.feed import TaskEvent, TaskEventFeed
from loopai_common.contracts import subjects
from loopai_common.contracts.base import TaskId
from loopai_common.errors import BusUnavailable
from loopai_common.runtime.broker import Bus

_CLOCK_SKEW: Final = timedelta(minutes=1)
"""An event may be stored this much before the time in its id: the clocks of two machines differ."""

_MOST_LOOKED_AT: Final = 10_000
_LOOKS_AT_A_TIME: Final = 4
_FETCHED_AT_A_TIME: Final = 500
_FETCH_SECONDS: Final = 5.0
_CONSUMER_SECONDS: Final = 30.0


def register(bus: Bus, feed: TaskEventFeed) -> None:
    """Declares what the feed hears: every event about tasks and artifacts, in every instance."""

    async def on_event(body: dict[str, Any], message: Annotated[Any, Context()]) -> None:
        event = TaskEvent.read(message.raw_message.subject, message.headers, body)
        if event is not None:
            feed.tell(event)

    for subject in subjects.EVENTS_ALL:
        bus.on_every_instance(subject)(on_event)


class BusEventHistory:
    """The :class:`~loopai_api.events.streams.EventHistory` of a running service."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._turns = asyncio.Semaphore(_LOOKS_AT_A_TIME)

    async def since(self, event_id: str, task_id: TaskId) -> tuple[TaskEvent, ...] | None:
        moment = _moment_of(event_id)
        if moment is None:
            return None
        try:
            async with self._turns:
                events = await self._events_from(moment - _CLOCK_SKEW, task_id)
        except NatsError as error:
            raise BusUnavailable("the events that were missed cannot be read; try again") from error
        ids = [event.id for event in events]
        return tuple(events[ids.index(event_id) :]) if event_id in ids else None

    async def _events_from(self, moment: datetime, task_id: TaskId) -> list[TaskEvent]:
        """The task's events that the stream stored from ``moment`` on; none when there are too many to look at."""
        jetstream = self._bus.jetstream
        config = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_TIME,
            opt_start_time=moment,
            ack_policy=AckPolicy.NONE,
            inactive_threshold=_CONSUMER_SECONDS,
            mem_storage=True,
        )
        consumer = await jetstream.add_consumer(subjects.EVENTS_STREAM, config)
        try:
            left = consumer.num_pending or 0
            if left > _MOST_LOOKED_AT:
                return []
            found: list[TaskEvent] = []
            subscription = await jetstream.pull_subscribe_bind(consumer.name, subjects.EVENTS_STREAM)
            try:
                while left > 0:
                    messages = await subscription.fetch(min(left, _FETCHED_AT_A_TIME), timeout=_FETCH_SECONDS)
                    left -= len(messages)
                    for message in messages:
                        event = _read(message.subject, message.headers, message.data)
                        if event is not None and event.task_id == task_id:
                            found.append(event)
            finally:
                await subscription.unsubscribe()
            return found
        finally:
            with suppress(NatsError):  # the server removes it by itself when nobody asks it for more
                await jetstream.delete_consumer(subjects.EVENTS_STREAM, consumer.name)


def _read(subject: str, headers: dict[str, str] | None, data: bytes) -> TaskEvent | None:
    try:
        return TaskEvent.read(subject, headers, json.loads(data))
    except (ValueError, RecursionError):
        return None


def _moment_of(event_id: str) -> datetime | None:
    """When an event was made, which its id (a UUIDv7) tells; ``None`` for what is no such id."""
    try:
        made = UUID(event_id)
        return datetime.fromtimestamp((made.int >> 80) / 1000, UTC) if made.version == 7 else None
    except (ValueError, OverflowError, OSError):
        return None
