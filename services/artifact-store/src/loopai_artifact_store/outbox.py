"""The outbox: every event that was stored reaches its consumers, at least once and in order within a task."""

import asyncio
from contextlib import suppress
from typing import Final

from loopai_artifact_store.domain import Event
from loopai_artifact_store.ports import Catalog, EventPublisher
from loopai_common.contracts.base import TaskId
from loopai_common.errors import BusUnavailable, StoreUnavailable
from loopai_common.runtime.logging import get_logger

_BATCH: Final = 64

log = get_logger()


class Outbox:
    """Carries events from the catalog to where they go.

    Several may share a catalog: each keeps the order of a task, and the receiving side drops the copies.
    """

    def __init__(self, catalog: Catalog, publisher: EventPublisher, *, poll_seconds: float) -> None:
        self._catalog = catalog
        self._publisher = publisher
        self._poll_seconds = poll_seconds
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Says that there may be something to deliver. Without it the next poll finds out."""
        self._woken.set()

    async def run(self) -> None:
        """Delivers for as long as it is not cancelled; a bus or a catalog that is away is waited for."""
        while True:
            self._woken.clear()
            try:
                while await self.deliver_some():
                    pass
            except (BusUnavailable, StoreUnavailable) as error:
                log.warning("outbox_waiting", code=error.code, reason=error.message)
                await asyncio.sleep(self._poll_seconds)
            else:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), self._poll_seconds)

    async def deliver_some(self) -> bool:
        """Delivers the oldest events and returns whether there were any.

        Raises :class:`BusUnavailable` and :class:`StoreUnavailable`; what was delivered by then is not kept.
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
