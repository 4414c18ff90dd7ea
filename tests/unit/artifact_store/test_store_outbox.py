"""The outbox: at least once, in order within a task, and patient."""

import asyncio

import pytest

from loopai_artifact_store.adapters.jetstream_events import headers_of
from loopai_artifact_store.adapters.memory_catalog import MemoryCatalog
from loopai_artifact_store.domain import Event
from loopai_artifact_store.outbox import Outbox
from loopai_common.contracts import subjects
from loopai_common.contracts.base import TaskId
from loopai_common.errors import BusUnavailable
from loopai_common.runtime import context
from loopai_common.runtime.background import running
from tests.contract.artifact_store.builders import creating, publishing, store_on

FOREVER = 3600.0


class Stream:
    """Where events arrive; refuses those of ``refused`` and everything while ``away``."""

    def __init__(self) -> None:
        self.received: list[Event] = []
        self.refused: set[TaskId] = set()
        self.away = False
        self.arrived = asyncio.Event()
        self.turned_away = asyncio.Event()

    async def publish(self, event: Event) -> None:
        await asyncio.sleep(0)
        if self.away or event.task_id in self.refused:
            self.turned_away.set()
            raise BusUnavailable("away")
        self.received.append(event)
        self.arrived.set()


@pytest.fixture
def catalog() -> MemoryCatalog:
    return MemoryCatalog()


async def publish_versions(catalog: MemoryCatalog, count: int) -> TaskId:
    store = store_on(catalog)
    task = await store.create_task(creating())
    for _ in range(count):
        await store.publish(publishing(task.id))
    return task.id


async def test_events_are_delivered_in_order_and_then_forgotten(catalog: MemoryCatalog) -> None:
    tasks = [await publish_versions(catalog, 3) for _ in range(3)]
    waiting = await catalog.pending_events(1000)
    stream = Stream()
    outbox = Outbox(catalog, stream, poll_seconds=FOREVER)
    assert await outbox.deliver_some()
    assert not await outbox.deliver_some()
    for task_id in tasks:
        expected = [event.id for event in waiting if event.task_id == task_id]
        assert [event.id for event in stream.received if event.task_id == task_id] == expected


async def test_more_events_than_a_batch_are_all_delivered(catalog: MemoryCatalog) -> None:
    await publish_versions(catalog, 100)
    expected = [event.id for event in await catalog.pending_events(1000)]
    stream = Stream()
    outbox = Outbox(catalog, stream, poll_seconds=FOREVER)
    while await outbox.deliver_some():
        pass
    assert [event.id for event in stream.received] == expected


async def test_one_task_that_is_stuck_holds_back_no_other_and_loses_nothing(catalog: MemoryCatalog) -> None:
    stuck, free = await publish_versions(catalog, 2), await publish_versions(catalog, 2)
    stream = Stream()
    stream.refused = {stuck}
    outbox = Outbox(catalog, stream, poll_seconds=FOREVER)
    with pytest.raises(BusUnavailable):
        await outbox.deliver_some()
    assert {event.task_id for event in stream.received} == {free}
    assert {event.task_id for event in await catalog.pending_events(100)} == {stuck}
    stream.refused = set()
    await outbox.deliver_some()
    assert len(stream.received) == 10
    assert (await catalog.backlog()).events == 0


async def test_two_outboxes_on_one_catalog_keep_the_order(catalog: MemoryCatalog) -> None:
    await publish_versions(catalog, 20)
    expected = [event.id for event in await catalog.pending_events(100)]
    stream = Stream()
    one, two = (Outbox(catalog, stream, poll_seconds=FOREVER) for _ in range(2))
    await asyncio.gather(one.deliver_some(), two.deliver_some())
    without_copies = list(dict.fromkeys(event.id for event in stream.received))
    assert without_copies == expected


async def test_it_is_woken_at_once(catalog: MemoryCatalog) -> None:
    stream = Stream()
    outbox = Outbox(catalog, stream, poll_seconds=FOREVER)
    async with running(outbox.run):
        await asyncio.sleep(0)
        await publish_versions(catalog, 0)
        outbox.wake()
        await asyncio.wait_for(stream.arrived.wait(), 10)


async def test_it_delivers_when_the_bus_is_back(catalog: MemoryCatalog) -> None:
    stream = Stream()
    stream.away = True
    await publish_versions(catalog, 1)
    async with running(Outbox(catalog, stream, poll_seconds=0.001).run):
        await asyncio.wait_for(stream.turned_away.wait(), 10)
        assert stream.received == []
        stream.away = False
        await asyncio.wait_for(stream.arrived.wait(), 10)


async def test_headers_are_those_of_a_cloud_event_in_binary_mode(catalog: MemoryCatalog) -> None:
    request = context.new_context(correlation_id="order-17")
    with context.bound(request):
        task_id = await publish_versions(catalog, 1)
    for event, kind in zip(
        await catalog.pending_events(10),
        ["loopai.task.created.v1", "loopai.artifact.published.v1", "loopai.artifact.activated.v1"],
        strict=True,
    ):
        headers = headers_of(event, event.origin.traceparent)
        assert headers["ce-time"].endswith("Z")
        assert headers == {
            "ce-specversion": "1.0",
            "ce-id": event.id,
            "ce-type": kind,
            "ce-source": "/loopai/artifact-store",
            "ce-subject": str(task_id),
            "ce-time": headers["ce-time"],
            "content-type": "application/json",
            subjects.MESSAGE_ID_HEADER: event.id,
            subjects.CORRELATION_HEADER: "order-17",
            subjects.TRACEPARENT_HEADER: request.traceparent,
        }
