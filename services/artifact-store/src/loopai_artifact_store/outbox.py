"""The outbox: every event that was stored reaches its consumers, at least once and in order within a task."""

import asyncio
from typing import Final

from loopai_artifact_store.domain import Event
from loopai_artifact_store.following import Follower
from loopai_artifact_store.ports import Catalog, EventPublisher
from loopai_common.contracts.base import TaskId

_BATCH: Final = 64


class Outbox(Follower):
    """Carries events from the catalog to where they go.

    Several may share a catalog: each keeps the order of a task, and the receiving side drops the copies.
    """

    def __init__(self, catalog: Catalog, publisher: EventPublisher, *, poll_seconds: float) -> None:
        super().__init__(waiting="outbox_waiting", poll_seconds=poll_seconds)
        self._catalog = catalog
        self._publisher = publisher

    async def catch_up(self) -> None:
        """Delivers until nothing is left; raises what :meth:`deliver_some` raises."""
        while await self.deliver_some():
            pass

    async def deliver_some(self) -> bool:
        """Delivers the oldest events and returns whether there were any.

        Raises :class:`~loopai_common.errors.BusUnavailable` and :class:`~loopai_common.errors.StoreUnavailable`; what
        was delivered by then is not kept.
        """
        events = await self._catalog.pending_events(_BATCH)
        by_task: dict[TaskId, list[Event]] = {}
        for event in events:
            by_task.setdefault(event.task_id, []).append(event)
        delivered: list[str] = []
        outcomes = await asyncio.gather(
            *(self._deliver_in_order(queue, delivered) for queue in by_task.values()), return_exceptions=True
        )
        if delivered:
            await self._catalog.remove_events(delivered)
        for outcome in outcomes:
            if outcome is not None:
                raise outcome
        return bool(events)

    async def _deliver_in_order(self, events: list[Event], delivered: list[str]) -> None:
        for event in events:
            await self._publisher.publish(event)
            delivered.append(event.id)
