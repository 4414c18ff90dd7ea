"""Following tasks: who is told what, in which order, and what becomes of a client that does not keep up."""

import asyncio
import json
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

import pytest

from loopai_api import clients
from loopai_api.clients import StoreClient, TaskWatcher
from loopai_api.events.feed import ACTIVATED, ARCHIVED, FAILED, TaskEvent, TaskEventFeed
from loopai_api.events.streams import MOST_WAITING, EventStream, EventStreams
from loopai_api.execution.metrics import SLOW_READERS, HttpMetrics
from loopai_api.protocol import CONNECTION_EXTENSION
from loopai_api.routes.events import EventStreamResponse
from loopai_common.contracts.base import TaskId
from loopai_common.contracts.tasks import TaskSpecification, TaskStatus
from loopai_common.errors import Overloaded, ShuttingDown, TaskNotFound
from loopai_common.identifiers import new_id, new_uuid

TASK, OTHER = TaskId(new_uuid()), TaskId(new_uuid())


def event(kind: str = ACTIVATED, task: TaskId = TASK, event_id: str | None = None) -> TaskEvent:
    return TaskEvent(event_id or new_id(), kind, task, json.dumps({"task_id": str(task)}))


def specification(status: TaskStatus) -> TaskSpecification:
    now = datetime.now(UTC)
    fields: dict[str, Any] = {
        **{"id": TASK, "name": "followed", "description": "Whatever.", "input_schema": True, "output_schema": True},
        **{"total_examples": 0, "accuracy_target": 0.9, "latency_target_ms": 10, "sampling_rate": 0.1},
        **{"status": status, "active_version": None, "total_versions": 0, "created_at": now, "updated_at": now},
    }
    return TaskSpecification(**fields)


class Bench:
    """The use case, with a store of one task and a past that the test decides on. What happens ``meanwhile`` comes
    while the state or the past is read.
    """

    def __init__(self, *, most: int = 10, heartbeat_seconds: float = 60.0) -> None:
        self.feed = TaskEventFeed()
        self.metrics = HttpMetrics()
        self.status = TaskStatus.READY
        self.past: list[TaskEvent] = []
        self.meanwhile: list[TaskEvent] = []
        self.reads = 0
        self.streams = EventStreams(
            cast(StoreClient, self), self.feed, self, self.metrics, most=most, heartbeat_seconds=heartbeat_seconds
        )

    async def get_task(self, task: str, *, include_examples: bool = True) -> TaskSpecification:
        self.reads += 1
        if task not in {"followed", str(TASK)}:
            raise TaskNotFound("there is no such task")
        if self.reads == 2:
            self._tell()
        return specification(self.status)

    async def since(self, event_id: str, task_id: TaskId) -> tuple[TaskEvent, ...] | None:
        self._tell()
        ids = [known.id for known in self.past]
        return tuple(self.past[ids.index(event_id) :]) if event_id in ids else None

    def _tell(self) -> None:
        for happened in self.meanwhile:
            self.feed.tell(happened)


async def texts(stream: EventStream, count: int) -> list[dict[str, str]]:
    """The next texts of a stream as their fields."""
    found: list[dict[str, str]] = []
    async with asyncio.timeout(30):
        async for text in stream:
            assert text.endswith(b"\n\n")
            found.append(dict(line.split(": ", 1) for line in text.decode().splitlines() if line))
            if len(found) == count:
                break
    return found


async def rest(stream: EventStream) -> list[dict[str, str]]:
    return await texts(stream, -1)


async def test_the_state_comes_first_and_what_happens_meanwhile_is_told() -> None:
    bench = Bench()
    bench.meanwhile = [event(), event(task=OTHER), event(FAILED)]
    stream = await bench.streams.open("followed", None)
    first, *others = await texts(stream, 3)
    assert (sorted(first), first["event"]) == (["data", "event"], "task")
    assert "examples" not in json.loads(first["data"])
    assert [(other["event"], other["id"]) for other in others] == [
        (happened.kind, happened.id) for happened in bench.meanwhile if happened.task_id == TASK
    ]


async def test_a_copy_of_an_event_is_told_once() -> None:
    bench = Bench()
    stream = await bench.streams.open("followed", None)
    first, second = event(), event()
    for happened in (first, first, second, first, second):
        bench.feed.tell(happened)
    stream.end()
    assert [told.get("id") for told in await rest(stream)] == [None, first.id, second.id]


async def test_the_past_and_what_happens_meanwhile_are_one_story() -> None:
    bench = Bench()
    bench.past = [event() for _ in range(4)]
    bench.meanwhile = [bench.past[3], event()]
    stream = await bench.streams.open("followed", bench.past[1].id)
    stream.end()
    assert [told["id"] for told in await rest(stream)] == [bench.past[2].id, bench.past[3].id, bench.meanwhile[1].id]


async def test_it_ends_when_the_task_is_archived() -> None:
    bench = Bench()
    stream = await bench.streams.open("followed", None)
    last = event(ARCHIVED)
    for happened in (last, event()):
        bench.feed.tell(happened)
    assert [told["event"] for told in await rest(stream)] == ["task", ARCHIVED]
    bench.past = [last]
    assert (await bench.streams.open("followed", last.id)).over
    bench.status = TaskStatus.ARCHIVED
    assert [told["event"] for told in await rest(await bench.streams.open("followed", None))] == ["task"]


async def test_a_silence_is_filled_with_comments() -> None:
    bench = Bench(heartbeat_seconds=0.01)
    stream = await bench.streams.open("followed", None)
    assert [list(text) for text in await texts(stream, 3)] == [["event", "data"], [""], [""]]


async def test_open_streams_are_bounded_and_one_that_fails_is_none() -> None:
    bench = Bench(most=2)
    with pytest.raises(TaskNotFound):
        await bench.streams.open("nobody", None)
    first, second = [await bench.streams.open("followed", None) for _ in range(2)]
    with pytest.raises(Overloaded):
        await bench.streams.open("followed", None)
    assert bench.metrics.event_streams == 2
    first.close()
    first.close()
    assert bench.metrics.event_streams == 1
    third = await bench.streams.open("followed", None)
    for stream in (second, third):
        stream.close()
    assert (bench.metrics.event_streams, bench.feed._hearers) == (0, {})


async def test_a_stop_ends_what_is_open_after_what_waits_and_takes_nothing_new() -> None:
    bench = Bench()
    stream = await bench.streams.open("followed", None)
    bench.feed.tell(event())
    bench.streams.stop()
    bench.feed.tell(event())
    assert [told["event"] for told in await rest(stream)] == ["task", ACTIVATED]
    with pytest.raises(ShuttingDown):
        await bench.streams.open("followed", None)


class Client:
    """The other side of a response: takes what is sent while ``reads`` is set, and says so when it has gone."""

    def __init__(self) -> None:
        self.reads, self.gone = asyncio.Event(), asyncio.Event()
        self.reads.set()
        self.aborted = False
        self.taken: list[Any] = []

    async def send(self, message: Any) -> None:
        await self.reads.wait()
        self.taken.append(message)

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    def answer(self, stream: EventStream) -> "asyncio.Task[None]":
        scope = {"type": "http", "extensions": {CONNECTION_EXTENSION: {"abort": self._abort}}}
        return asyncio.create_task(EventStreamResponse(stream)(scope, self.receive, self.send))

    def _abort(self) -> None:
        self.aborted = True


@pytest.fixture
async def client() -> Client:
    return Client()


async def taken(client: Client, count: int) -> None:
    async with asyncio.timeout(30):
        while len(client.taken) < count:
            await asyncio.sleep(0)


async def test_a_client_that_does_not_keep_up_is_cut_off_and_others_are_not(client: Client) -> None:
    bench, quick = Bench(), Client()
    answers = [each.answer(await bench.streams.open("followed", None)) for each in (client, quick)]
    await taken(client, 2)
    client.reads.clear()
    for count in range(MOST_WAITING + 2):  # one is being sent
        bench.feed.tell(event())
        await taken(quick, 3 + count)
    async with asyncio.timeout(30):
        await answers[0]
    assert (client.aborted, len(client.taken)) == (True, 2)
    assert (bench.metrics.event_streams, bench.metrics.rejected[SLOW_READERS]) == (1, 1)
    bench.streams.end_all()
    async with asyncio.timeout(30):
        await answers[1]
    assert (quick.aborted, quick.taken[-1]["more_body"]) == (False, False)


async def test_all_is_free_when_the_client_has_gone(client: Client) -> None:
    bench = Bench()
    answer = client.answer(await bench.streams.open("followed", None))
    await taken(client, 2)
    client.reads.clear()
    bench.feed.tell(event())
    client.gone.set()
    async with asyncio.timeout(30):
        await answer
    assert (bench.metrics.event_streams, bench.feed._hearers, client.aborted) == (0, {}, False)
    assert bench.metrics.rejected[SLOW_READERS] == 0


async def test_who_waits_for_a_generation_is_woken_by_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "_WAIT_POLL_SECONDS", 3600.0)
    bench = Bench()
    bench.status = TaskStatus.GENERATING
    watcher = TaskWatcher(cast(StoreClient, bench), bench.feed)
    waiting = asyncio.create_task(watcher.wait(specification(TaskStatus.GENERATING), 3600))
    while not bench.reads:
        await asyncio.sleep(0)
    bench.status = TaskStatus.FAILED
    bench.feed.tell(event(FAILED))
    async with asyncio.timeout(30):
        assert (await waiting).status is TaskStatus.FAILED
    assert bench.feed._hearers == {}


@pytest.mark.parametrize(
    ("subject", "headers", "body"),
    [
        ("loopai.evt.v1.task.failed", None, {"task_id": str(TASK)}),
        ("loopai.evt.v1.task.failed", {"ce-id": ""}, {"task_id": str(TASK)}),
        ("loopai.evt.v1.task.failed", {"ce-id": "1"}, {"task_id": "x"}),
        ("loopai.evt.v1.task.failed", {"ce-id": "1"}, {}),
        ("loopai.evt.v1.task.failed", {"ce-id": "1"}, []),
        ("loopai.cmd.v1.task.generate", {"ce-id": "1"}, {"task_id": str(TASK)}),
    ],
    ids=["no headers", "no id", "no uuid", "no task", "no object", "no event"],
)
def test_a_message_that_is_no_event_is_none(subject: str, headers: dict[str, str] | None, body: Any) -> None:
    assert TaskEvent.read(subject, headers, body) is None


def test_an_event_takes_one_line_whatever_is_in_it() -> None:
    body = {"task_id": str(TASK), "reason": "a\nb\rc\u2028d", "added_later": [1, None]}
    read = TaskEvent.read("loopai.evt.v1.task.failed", {"ce-id": "1"}, body)
    assert read is not None
    assert (read.kind, read.task_id, json.loads(read.data)) == (FAILED, UUID(str(TASK)), body)
    assert not {"\n", "\r"} & set(read.data)
