"""MongoDB that fails, freezes, dies and fails over: old or new, never a part, and recovery unaided."""

import asyncio
import json
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from bson import Binary
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import PyMongoError

from loopai_artifact_store.adapters import mongo as adapter
from loopai_artifact_store.adapters.mongo_backends import MongoBackends, open_mongo
from loopai_artifact_store.domain import Event, digest_of
from loopai_artifact_store.outbox import Outbox
from loopai_artifact_store.service import ArtifactStore
from loopai_common.contracts.artifacts import FetchProgram, ListArtifacts, ProgramArtifact, PublishArtifact
from loopai_common.contracts.base import TaskId
from loopai_common.contracts.tasks import GetTask
from loopai_common.errors import ArtifactCorrupt, StoreUnavailable
from loopai_common.runtime.background import running
from loopai_common.runtime.service import StartRefused
from tests.contract.artifact_store.builders import (
    creating,
    labeller_on,
    metrics,
    mongodb_of,
    open_mongodb,
    publishing,
    record,
    store_on,
)
from tests.integration.artifact_store.publishers import Publisher
from tests.support.servers import Mongo, MongoReplicaSet

PARAMETERS = {
    "enableTestCommands": 1,  # fail points
    "transactionLifetimeLimitSeconds": 1,  # what a client that died left open ends soon
    "ttlMonitorSleepSecs": 1,
}
WRITES = ["update", "insert", "commitTransaction"]
COMMANDS = ["find", "findAndModify", *WRITES]
CLOSED = {"closeConnection": True}
SHUTTING_DOWN, NOT_PRIMARY, CONFLICT = 91, 10107, 112


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mongo]:
    """A MongoDB that can be told to fail; these tests break it, and leave it running."""
    with Mongo(tmp_path_factory.mktemp("failing-mongo"), parameters=PARAMETERS) as running:
        yield running


@pytest.fixture
async def mongodb(server: Mongo) -> AsyncIterator[MongoBackends]:
    async with mongodb_of(server) as opened:
        yield opened


@pytest.fixture
def store(mongodb: MongoBackends) -> ArtifactStore:
    return store_on(mongodb.catalog, mongodb.storage)


@pytest.fixture
def database(server: Mongo) -> Iterator[Database[dict[str, Any]]]:
    """What is in there, seen past the adapters."""
    with MongoClient[dict[str, Any]](server.url) as client:
        yield client["loopai"]


@dataclass
class Fault:
    """A fail point of the server. It met ``count`` commands since it was set, when ``before`` was its own count."""

    before: int
    count: int = 0


@contextmanager
def failing(server: Mongo, mode: Any, commands: list[str], **data: Any) -> Iterator[Fault]:
    told = {"failCommands": commands, "appName": "loopai-artifact-store", **data}
    fault = Fault(server.admin("configureFailPoint", "failCommand", mode=mode, data=told)["count"])
    try:
        yield fault
    finally:
        fault.count = server.admin("configureFailPoint", "failCommand", mode="off")["count"] - fault.before


async def check_invariants(opened: MongoBackends, task_id: TaskId) -> int:
    """Looks at everything that belongs to the task, and returns how many versions it has."""
    store = store_on(opened.catalog, opened.storage)
    task = await store.get_task(GetTask(task=str(task_id)))
    versions: list[ProgramArtifact] = []
    cursor = None
    while True:
        page = await store.list_artifacts(ListArtifacts(task=task.name, include_code=True, limit=200, cursor=cursor))
        versions += page.items
        cursor = page.next_cursor
        if cursor is None:
            break
    history = (await opened.catalog.activations(task_id, before=None, limit=10_000)).items
    events = [event for event in await opened.catalog.pending_events(100_000) if event.task_id == task_id]
    assert [artifact.version for artifact in versions] == list(range(1, task.total_versions + 1))
    assert all(digest_of((artifact.code or "").encode()) == artifact.digest for artifact in versions)
    assert task.active_version == (task.total_versions or None)
    assert [move.to_version for move in history[::-1]] == list(range(1, task.total_versions + 1))
    assert len(events) == 1 + 2 * task.total_versions
    await labeller_on(opened.catalog, opened.storage).catch_up()
    assert (await opened.catalog.undocumented(after=None, limit=1)).items == ()
    labels = await opened.storage.labels(task_id)
    assert (sorted(labels.documents), labels.active) == ([a.version for a in versions], task.active_version)
    assert f'"revision":{(await opened.catalog.task(task_id)).revision},' in (labels.task or "")
    return task.total_versions


async def insistently(store: ArtifactStore, command: PublishArtifact, seconds: float = 30.0) -> int:
    """Publishes as a caller does whom a typed error told to try again."""
    async with asyncio.timeout(seconds):
        while True:
            with suppress(StoreUnavailable):
                return (await store.publish(command)).version
            await asyncio.sleep(0.05)


class TestFaults:
    async def test_a_fault_at_any_command_leaves_the_old_or_the_new(
        self,
        server: Mongo,
        mongodb: MongoBackends,
        store: ArtifactStore,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        task_id = (await store.create_task(creating())).id
        refused = 0
        for number in range(40):
            before = await check_invariants(mongodb, task_id)
            command = publishing(task_id)
            with failing(server, {"skip": number}, COMMANDS, **CLOSED) as fault, monkeypatch.context() as patch:
                patch.setattr(adapter, "_DEADLINE_SECONDS", 0.2)
                try:
                    await store.publish(command)
                except StoreUnavailable:
                    refused += 1
            if fault.count == 0:
                break
            assert await check_invariants(mongodb, task_id) in {before, before + 1}
            assert await insistently(store, command) == before + 1
            assert await check_invariants(mongodb, task_id) == before + 1
        assert refused >= 8
        assert fault.count == 0, "every command was the first to fail once"

    @pytest.mark.parametrize(
        ("command", "fault"),
        [
            *product(COMMANDS, [CLOSED, {"errorCode": SHUTTING_DOWN}, {"errorCode": NOT_PRIMARY}]),
            *product(["findAndModify", "insert", "commitTransaction"], [{"errorCode": CONFLICT}]),
        ],
    )
    async def test_a_fault_that_passes_is_not_seen(
        self, server: Mongo, mongodb: MongoBackends, store: ArtifactStore, command: str, fault: dict[str, Any]
    ) -> None:
        task_id = (await store.create_task(creating())).id
        with failing(server, {"times": 1}, [command], **fault) as met:
            assert (await store.publish(publishing(task_id))).version == 1
        assert met.count == 1
        assert await check_invariants(mongodb, task_id) == 1

    @pytest.mark.parametrize("mode", [{"times": 1}, {"times": 2}, "alwaysOn"], ids=["once", "twice", "always"])
    async def test_a_commit_whose_answer_is_lost_counts_once(
        self,
        server: Mongo,
        mongodb: MongoBackends,
        store: ArtifactStore,
        monkeypatch: pytest.MonkeyPatch,
        mode: Any,
    ) -> None:
        task_id = (await store.create_task(creating())).id
        command = publishing(task_id)
        lost = {"writeConcernError": {"code": 91, "errmsg": "shutting down"}}  # committed all the same
        with failing(server, mode, ["commitTransaction"], **lost) as met:
            if mode == "alwaysOn":
                monkeypatch.setattr(adapter, "_DEADLINE_SECONDS", 1.0)
                with pytest.raises(StoreUnavailable):
                    await store.publish(command)
            else:
                assert (await store.publish(command)).version == 1
        assert met.count >= 1
        assert (await store.publish(command)).version == 1
        assert await check_invariants(mongodb, task_id) == 1

    async def test_a_write_that_no_majority_has_is_not_acknowledged(
        self, server: Mongo, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(adapter, "_DEADLINE_SECONDS", 1.0)
        unconfirmed = {"writeConcernError": {"code": 64, "errmsg": "waiting for replication timed out"}}
        with failing(server, "alwaysOn", ["commitTransaction"], **unconfirmed) as met, pytest.raises(StoreUnavailable):
            await store.create_task(creating())
        assert met.count >= 1

    async def test_a_cancelled_change_leaves_the_old_or_the_new_and_nothing_locked(
        self, mongodb: MongoBackends, store: ArtifactStore
    ) -> None:
        task_id = (await store.create_task(creating())).id
        chance = random.Random(7)
        cancelled = 0
        for _ in range(40):
            attempt = asyncio.create_task(store.publish(publishing(task_id)))
            await asyncio.sleep(chance.uniform(0, 0.03))
            attempt.cancel()
            with suppress(asyncio.CancelledError):
                await attempt
            cancelled += attempt.cancelled()
        assert cancelled >= 5
        before = await check_invariants(mongodb, task_id)
        assert await insistently(store, publishing(task_id)) == before + 1

    async def test_a_flipped_bit_is_found_named_and_never_served(
        self, store: ArtifactStore, database: Database[dict[str, Any]]
    ) -> None:
        task = await store.create_task(creating())
        artifact = await store.publish(publishing(task.id))
        content = bytearray(database["programs"].find_one({})["content"])  # type: ignore[index]
        content[10] ^= 1
        assert database["programs"].update_one({}, {"$set": {"content": Binary(bytes(content))}}).modified_count == 1
        with pytest.raises(ArtifactCorrupt, match=f"{artifact.digest} of task {task.id}"):
            await store.fetch_program(FetchProgram(task_id=task.id, digest=artifact.digest))
        await store.publish(publishing(task.id))  # publishing the same code heals it
        await store.fetch_program(FetchProgram(task_id=task.id, digest=artifact.digest))

    async def test_bytes_without_a_version_are_swept_after_a_day(
        self, mongodb: MongoBackends, store: ArtifactStore, database: Database[dict[str, Any]]
    ) -> None:
        task = await store.create_task(creating())
        artifact = await store.publish(publishing(task.id))
        await mongodb.storage.put(task.id, digest_of(b"orphan"), b"orphan")
        assert await store.sweep_orphans(datetime.now(UTC)) == 0
        database["programs"].update_many({}, {"$set": {"touched_at": datetime.now(UTC) - timedelta(days=2)}})
        assert await store.sweep_orphans(datetime.now(UTC)) == 1
        assert [stored.digest async for stored in mongodb.storage.stored()] == [artifact.digest]


class TestSeveralProcesses:
    async def test_they_publish_without_gaps(self, server: Mongo, mongodb: MongoBackends, store: ArtifactStore) -> None:
        task_id = (await store.create_task(creating())).id
        publishers = [Publisher(server.url, task_id, 10) for _ in range(3)]
        for publisher in publishers:
            publisher.go()
        published = [int(version) for publisher in publishers for version in await asyncio.to_thread(publisher.finish)]
        assert sorted(published) == list(range(1, 31))
        assert await check_invariants(mongodb, task_id) == 30

    @pytest.mark.parametrize("command", ["insert", "commitTransaction"])
    async def test_one_that_is_killed_in_the_middle_of_a_write_leaves_the_old_or_the_new(
        self, server: Mongo, mongodb: MongoBackends, store: ArtifactStore, command: str
    ) -> None:
        task_id = (await store.create_task(creating())).id
        publisher = Publisher(server.url, task_id, 10_000)
        publisher.go()
        acknowledged = await asyncio.to_thread(publisher.next_version)
        with failing(server, "alwaysOn", [command], blockConnection=True, blockTimeMS=500) as met:
            server.admin("waitForFailPoint", "failCommand", timesEntered=met.before + 1, maxTimeMS=30_000)
            publisher.process.kill()
            acknowledged = max([acknowledged, *map(int, publisher.finish())])
        assert publisher.process.returncode == -signal.SIGKILL
        assert met.count >= 1
        # What it left open holds the task until the server ends it; then another goes on where it was.
        assert await insistently(store, publishing(task_id)) >= acknowledged + 1
        assert await check_invariants(mongodb, task_id) >= acknowledged + 1

    async def test_any_number_of_outboxes_keeps_the_order_of_each_task(
        self, server: Mongo, mongodb: MongoBackends, store: ArtifactStore
    ) -> None:
        delivered: list[Event] = []

        class Stream:
            async def publish(self, event: Event) -> None:
                await asyncio.sleep(random.uniform(0, 0.002))
                delivered.append(event)

        others = [open_mongodb(server.url, "loopai") for _ in range(2)]
        stores = [store, *(store_on(other.catalog, other.storage) for other in others)]
        tasks = [(await store.create_task(creating())).id for _ in range(3)]
        outboxes = [Outbox(each.catalog, Stream(), poll_seconds=0.001) for each in (mongodb, *others)]
        async with AsyncExitStack() as draining, asyncio.timeout(60):
            for outbox in outboxes:
                await draining.enter_async_context(running(outbox.run))
            await asyncio.gather(
                *(each.publish(publishing(task)) for each in stores for task in tasks for _ in range(4))
            )
            while (await mongodb.catalog.backlog()).events:
                await asyncio.sleep(0.01)
        for other in others:
            await other.database.close()

        first_copies = list({event.id: event for event in delivered}.values())
        assert len(first_copies) == 3 * (1 + 2 * 12)
        for task_id in tasks:
            told = [json.loads(event.body).get("version") for event in first_copies if event.task_id == task_id]
            assert told == [None, *(version for version in range(1, 13) for _ in range(2))]


class TestOutages:
    """Each breaks the server, and has it back at its end."""

    async def test_what_was_acknowledged_survives_kills_under_load(self, server: Mongo) -> None:
        opened = open_mongodb(server.url, "loopai")
        await survives(opened, lambda: crash(server), times=3)
        await opened.database.close()

    async def test_a_frozen_server_is_a_typed_error_soon_and_passes(self, server: Mongo) -> None:
        opened = open_mongodb(server.url, "loopai")
        store = store_on(opened.catalog, opened.storage)
        task = await store.create_task(creating())
        server.pause()
        try:
            started = time.monotonic()
            operations = [
                store.publish(publishing(task.id)),
                store.get_task(GetTask(task=task.name)),
                store.create_task(creating()),
                opened.executions.add([record(task.id)]),
                opened.catalog.check(),
                opened.storage.check(),
                opened.executions.check(),
                *(store.publish(publishing(task.id)) for _ in range(20)),
            ]
            outcomes = await asyncio.gather(*operations, return_exceptions=True)
            took = time.monotonic() - started
        finally:
            server.resume()
        assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
        assert took < 3 * adapter._DEADLINE_SECONDS
        before = await check_invariants(opened, task.id)
        assert await insistently(store, publishing(task.id)) >= before + 1
        for part in (opened.catalog, opened.storage, opened.executions):
            await part.check()
        await opened.database.close()


async def survives(opened: MongoBackends, disrupt: Callable[[], None], *, times: int) -> None:
    """Publishes to several tasks while ``disrupt`` is called, and finds all that was acknowledged."""
    store = store_on(opened.catalog, opened.storage)
    tasks = [await store.create_task(creating()) for _ in range(4)]
    acknowledged: dict[TaskId, list[int]] = {task.id: [] for task in tasks}
    refused = 0
    stopped = asyncio.Event()

    async def work(task_id: TaskId) -> None:
        nonlocal refused
        command = publishing(task_id)
        while not stopped.is_set():
            try:
                acknowledged[task_id].append((await store.publish(command)).version)
                command = publishing(task_id)
            except StoreUnavailable:
                refused += 1
                await asyncio.sleep(0.05)

    workers = [asyncio.create_task(work(task_id)) for task_id in acknowledged]
    for _ in range(times):
        goal = sum(map(len, acknowledged.values())) + 20
        async with asyncio.timeout(60):
            while sum(map(len, acknowledged.values())) < goal:
                await asyncio.sleep(0.01)
        await asyncio.to_thread(disrupt)
    goal = sum(map(len, acknowledged.values())) + 20
    async with asyncio.timeout(60):
        while sum(map(len, acknowledged.values())) < goal:
            await asyncio.sleep(0.01)
    stopped.set()
    await asyncio.gather(*workers)
    for task_id, versions in acknowledged.items():
        # The same command was sent again until it was answered: no version went to two, and none is missing.
        assert versions == list(range(1, len(versions) + 1))
        assert await check_invariants(opened, task_id) == len(versions)


def crash(server: Mongo) -> None:
    server.kill()
    server.start()


class TestFailover:
    async def test_no_acknowledged_write_is_lost_when_the_primary_goes(self, tmp_path: Path) -> None:
        with MongoReplicaSet(tmp_path, parameters=PARAMETERS) as servers:
            opened = open_mongodb(servers.url, "loopai")
            primaries = []

            def step_down() -> None:
                primaries.append(servers.primary)
                with suppress(PyMongoError):  # it may close the connection that asked
                    servers.primary.admin("replSetStepDown", 60, force=True)
                assert servers.primary is not primaries[-1]

            def kill() -> None:
                primaries.append(servers.primary)
                primaries[-1].kill()
                assert servers.primary is not primaries[-1]
                primaries[-1].start()

            await survives(opened, step_down, times=1)
            await survives(opened, kill, times=2)
            assert len(primaries) == 3
            await opened.database.close()


class TestStarting:
    def test_a_server_without_transactions_is_refused_with_a_sentence(self, tmp_path: Path) -> None:
        with Mongo(tmp_path, standalone=True) as alone, pytest.raises(StartRefused, match=r"run rs\.initiate\(\)"):
            open_mongodb(alone.url, "loopai")

    @pytest.mark.parametrize("url", ["http://x", "mongodb://", "mongodb://h:99999/", "mongodb://me:p@ss@h/"])
    def test_an_address_that_is_none_is_refused_with_a_sentence(self, url: str) -> None:
        with pytest.raises(StartRefused, match="connection string"):
            open_mongodb(url, "loopai")

    def test_a_password_that_is_wrong_is_refused_with_a_sentence_that_does_not_tell_it(self, server: Mongo) -> None:
        with pytest.raises(StartRefused, match="check the user and the password") as refusal:
            open_mongodb(server.url.replace("//", "//me:secret-word@"), "loopai")
        assert "secret-word" not in str(refusal.value)

    def test_records_go_when_they_are_old_and_the_setting_may_change(
        self, server: Mongo, database: Database[dict[str, Any]]
    ) -> None:
        def opening(days: int) -> MongoBackends:
            return open_mongo(server.url, "loopai", metrics(), executions_kept_for=timedelta(days=days))

        async def with_days(days: int, *ages: int) -> None:
            opened = opening(days)
            now = datetime.now(UTC)
            await opened.executions.add([record(None, executed_at=now - timedelta(days=age)) for age in ages])
            await opened.database.close()

        asyncio.run(with_days(30, 29, 31))
        until(lambda: database["executions"].count_documents({}) == 1)
        asyncio.run(with_days(10))
        until(lambda: database["executions"].count_documents({}) == 0)
        asyncio.run(with_days(10_000))

    async def test_many_that_start_at_once_prepare_one_database(self, server: Mongo) -> None:
        opened = await asyncio.gather(*(asyncio.to_thread(open_mongodb, server.url, "fresh") for _ in range(6)))
        stores = [store_on(each.catalog, each.storage) for each in opened]
        task = await stores[0].create_task(creating())
        published = await asyncio.gather(*(store.publish(publishing(task.id)) for store in stores))
        assert sorted(artifact.version for artifact in published) == [1, 2, 3, 4, 5, 6]
        for each in opened:
            await each.database.close()
        with MongoClient[dict[str, Any]](server.url) as client:
            client.drop_database("fresh")


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
