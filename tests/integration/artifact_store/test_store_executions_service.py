"""Execution records over the bus: each event is one record, whatever happens to the service meanwhile."""

import asyncio
import signal
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import nats
import pytest
from nats.errors import Error as NatsError
from nats.js import JetStreamContext

from loopai_artifact_store.handlers import RECORDS_CONSUMER
from loopai_client.local.nats_server import NatsServer
from loopai_common.contracts import subjects
from loopai_common.contracts.base import ExecutionId, TaskId
from loopai_common.contracts.execution import (
    AcceptExecution,
    ExecutionPage,
    ExecutionRecord,
    GetExecution,
    ListExecutions,
    RecordStatus,
)
from loopai_common.errors import ExecutionNotFound, TaskNotReady, ValidationFailed
from loopai_common.identifiers import new_uuid
from loopai_common.runtime import context
from tests.contract.artifact_store.builders import creating, publishing, record
from tests.integration.artifact_store.test_store_service import Caller, Service, eventually
from tests.support.bus import jetstream_of

RECORDS = 10_000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path / "nats")
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def start(server: NatsServer, tmp_path: Path) -> AsyncIterator[Callable[[], Service]]:
    started: list[Service] = []

    def start() -> Service:
        started.append(Service(server.url, tmp_path / "data"))
        return started[-1]

    yield start
    for service in started:
        service.end(signal.SIGKILL)


@pytest.fixture
async def caller(server: NatsServer) -> AsyncIterator[Caller]:
    client = await nats.connect(server.url, max_reconnect_attempts=-1, reconnect_time_wait=0.1)
    yield Caller(client)
    await client.close()


async def tell(jetstream: JetStreamContext, ended: ExecutionRecord) -> None:
    """Publishes the event as an executor does."""
    headers = {subjects.MESSAGE_ID_HEADER: str(ended.id), **context.to_headers(context.new_context())}
    await jetstream.publish(subjects.EXECUTION_COMPLETED, ended.model_dump_json().encode(), headers=headers, timeout=20)


def stored(data_dir: Path) -> list[str]:
    with closing(sqlite3.connect(data_dir / "executions.sqlite3")) as connection:
        return [id_ for (id_,) in connection.execute("SELECT id FROM executions")]


async def acknowledged(jetstream: JetStreamContext) -> bool:
    try:
        info = await jetstream.consumer_info(subjects.EXECUTIONS_STREAM, RECORDS_CONSUMER)
    except NatsError:
        return False
    return not info.num_pending and not info.num_ack_pending


async def test_ten_thousand_events_are_ten_thousand_records_in_spite_of_a_kill(
    caller: Caller, start: Callable[[], Service], tmp_path: Path
) -> None:
    jetstream, task_id = jetstream_of(caller.client), TaskId(new_uuid())
    service = await start().until_ready()
    config = (await jetstream.consumer_info(subjects.EXECUTIONS_STREAM, RECORDS_CONSUMER)).config
    config.ack_wait = 2.0  # what was taken and not acknowledged comes again after two seconds instead of thirty
    await jetstream.add_consumer(subjects.EXECUTIONS_STREAM, config)

    records = [record(task_id, executed_at=datetime.now(UTC), output=n) for n in range(RECORDS)]
    for first in range(0, RECORDS, 500):
        await asyncio.gather(*(tell(jetstream, one) for one in records[first : first + 500]))
    await eventually(lambda: len(stored(tmp_path / "data")) > 500)
    service.end(signal.SIGKILL)
    killed_at = len(stored(tmp_path / "data"))
    assert 500 < killed_at < RECORDS, "it must have been killed in the middle to prove anything"

    await start().until_ready()
    async with asyncio.timeout(120):
        while not await acknowledged(jetstream):
            await asyncio.sleep(0.1)
    assert sorted(stored(tmp_path / "data")) == sorted(str(one.id) for one in records)
    assert await caller.stream(subjects.DEAD_LETTERS_STREAM, 0) == []


async def test_events_that_come_while_it_is_away_are_recorded_when_it_is_back(
    caller: Caller, start: Callable[[], Service]
) -> None:
    service = await start().until_ready()
    task = await caller.create(creating("spam"))
    assert service.end() == 0
    ended = record(task.id, executed_at=datetime.now(UTC))
    await tell(jetstream_of(caller.client), ended)
    await start().until_ready()

    async def recorded() -> ExecutionPage:
        async with asyncio.timeout(30):
            while True:
                page = await caller.call(subjects.EXECUTIONS_LIST, ListExecutions(task="spam"), ExecutionPage)
                if page.items:
                    return page
                await asyncio.sleep(0.05)

    (found,) = (await recorded()).items
    assert found.id == ended.id
    again = await caller.call(subjects.EXECUTIONS_GET, GetExecution(execution_id=ended.id), ExecutionRecord)
    assert again == found


async def test_questions_and_their_errors_cross_the_bus(caller: Caller, start: Callable[[], Service]) -> None:
    await start().until_ready()
    task = await caller.create(creating("spam"))
    accept = AcceptExecution(execution_id=ExecutionId(new_uuid()), task="spam")
    with pytest.raises(TaskNotReady):
        await caller.call(subjects.EXECUTIONS_ACCEPT, accept, ExecutionRecord)
    await caller.publish(publishing(task.id))
    accepted = await caller.call(
        subjects.EXECUTIONS_ACCEPT, accept, ExecutionRecord, {subjects.CORRELATION_HEADER: "order-9"}
    )
    assert (accepted.status, accepted.correlation_id) == (RecordStatus.ACCEPTED, "order-9")
    query = GetExecution(execution_id=accept.execution_id)
    assert await caller.call(subjects.EXECUTIONS_GET, query, ExecutionRecord) == accepted
    with pytest.raises(ExecutionNotFound):
        await caller.call(subjects.EXECUTIONS_GET, GetExecution(execution_id=ExecutionId(new_uuid())), ExecutionRecord)
    with pytest.raises(ValidationFailed):
        await caller.call(subjects.EXECUTIONS_LIST, ListExecutions(task="spam", cursor="nonsense"), ExecutionPage)


async def test_an_event_that_is_none_is_a_dead_letter_and_holds_nobody_up(
    caller: Caller, start: Callable[[], Service], tmp_path: Path
) -> None:
    await start().until_ready()
    jetstream = jetstream_of(caller.client)
    await jetstream.publish(subjects.EXECUTION_COMPLETED, b'{"id": 1}', timeout=10)
    ended = record(TaskId(new_uuid()), executed_at=datetime.now(UTC))
    await tell(jetstream, ended)
    await eventually(lambda: stored(tmp_path / "data") == [str(ended.id)])
    (letter,) = await caller.stream(subjects.DEAD_LETTERS_STREAM, 1)
    assert letter.subject == subjects.dead_letter(subjects.EXECUTION_COMPLETED)
