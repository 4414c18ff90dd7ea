"""The whole service as a process on a real nats-server, spoken to as another system would."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import RawStreamMsg
from nats.js.errors import NotFoundError

from loopai_artifact_store.adapters.memory_executions import MemoryExecutionLog
from loopai_artifact_store.operations.verification import verify
from loopai_artifact_store.ports import Store
from loopai_client.local.nats_server import NatsServer, free_port
from loopai_common.contracts import subjects
from loopai_common.contracts.artifacts import (
    ActivateArtifact,
    ActivationPage,
    ArtifactActivated,
    ArtifactPage,
    ArtifactPublished,
    FetchProgram,
    GetArtifact,
    ListActivations,
    ListArtifacts,
    ProgramArtifact,
    ProgramCode,
    PublishArtifact,
    ResolvedProgram,
    ResolveProgram,
)
from loopai_common.contracts.base import Contract, GenerationId, TaskId, Version
from loopai_common.contracts.failure import ERROR_CODE_HEADER
from loopai_common.contracts.generation import (
    GenerateProgram,
    GenerationStarted,
    GenerationState,
    GetGeneration,
    StartGeneration,
)
from loopai_common.contracts.tasks import (
    ArchiveTask,
    CreateTask,
    FailTask,
    GetTask,
    ListTasks,
    TaskArchived,
    TaskCreated,
    TaskFailed,
    TaskPage,
    TaskSpecification,
    TaskStatus,
    TaskSummary,
    UpdateTask,
)
from loopai_common.errors import (
    LoopaiError,
    PreconditionFailed,
    StoreUnavailable,
    TaskAlreadyExists,
    TaskNotFound,
    TaskNotReady,
    ValidationFailed,
)
from loopai_common.identifiers import new_id, new_uuid
from loopai_common.runtime.errors import raise_failure
from tests.contract.artifact_store.builders import creating, definition, open_files, open_sqlite, publishing, store_on
from tests.support.bus import jetstream_of
from tests.support.servers import Mongo

T = TypeVar("T", bound=Contract)

PATIENCE_SECONDS = 30.0
TEXT = definition().model_dump_json().encode()


class Service:
    """An artifact store in a process of its own."""

    def __init__(self, nats_url: str, data_dir: Path, **backends: str) -> None:
        self.port = free_port()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "loopai_artifact_store.main"],
            env={
                **os.environ,
                "LOOPAI_NATS_URL": nats_url,
                "LOOPAI_DATA_DIR": str(data_dir),
                "LOOPAI_ARTIFACT_STORE_PORT": str(self.port),
                "LOOPAI_LOG_LEVEL": "error",
                **{f"LOOPAI_ARTIFACT_STORE_{name.upper()}": value for name, value in backends.items()},
            },
        )

    def get(self, path: str) -> tuple[int, str]:
        """Status and body; status 0 while nobody listens."""
        try:
            with urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()
        except (URLError, ConnectionError):
            return 0, ""

    async def until_ready(self) -> "Service":
        await eventually(lambda: self.process.poll() is not None or self.get("/health/ready")[0] == 200)
        assert self.process.poll() is None, "it did not start"
        return self

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(60)


async def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.02)


async def until_documented(data_dir: Path) -> None:
    """Returns when no document is behind, and asserts that they say what the catalog says."""
    catalog = open_sqlite(data_dir)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (await catalog.backlog()).changes:
        assert time.monotonic() < deadline, "it did not catch up in time"
        await asyncio.sleep(0.02)
    assert (await verify(Store(catalog, MemoryExecutionLog(), open_files(data_dir)))).problems == ()
    await catalog.close()


class Caller:
    """Another system on the bus."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.timeout_seconds = 20.0

    async def call(self, subject: str, request: Contract, answer: type[T], headers: dict[str, str] | None = None) -> T:
        body = request.model_dump_json().encode()
        message = await self.client.request(subject, body, timeout=self.timeout_seconds, headers=headers)
        if message.headers is not None and ERROR_CODE_HEADER in message.headers:
            raise_failure(message.data)
        return answer.model_validate_json(message.data)

    async def create(self, command: CreateTask | None = None) -> TaskSpecification:
        return await self.call(subjects.TASKS_CREATE, command or creating(), TaskSpecification)

    async def publish(self, command: PublishArtifact) -> ProgramArtifact:
        return await self.call(subjects.ARTIFACTS_PUBLISH, command, ProgramArtifact)

    async def task(self, name: str) -> TaskSpecification:
        return await self.call(subjects.TASKS_GET, GetTask(task=name), TaskSpecification)

    async def stream(self, name: str, count: int) -> list[Msg]:
        """The messages of a stream, once there are ``count`` of them."""
        jetstream = jetstream_of(self.client)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (state := (await jetstream.stream_info(name)).state).messages < count:
            assert time.monotonic() < deadline, f"{state.messages} of {count} messages arrived in {name}"
            await asyncio.sleep(0.02)
        subscription = await jetstream.subscribe("loopai.>", stream=name, ordered_consumer=True)
        messages = [await subscription.next_msg(timeout=10) for _ in range(state.messages)]
        await subscription.unsubscribe()
        return messages

    async def waiting(self, subject: str) -> RawStreamMsg:
        """The command that waits on ``subject``, once there is one."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return await jetstream_of(self.client).get_last_msg(subjects.COMMANDS_STREAM, subject)
            except NotFoundError:
                assert time.monotonic() < deadline, f"no command arrived on {subject}"
                await asyncio.sleep(0.02)

    async def events(self, count: int) -> list[Msg]:
        return await self.stream(subjects.EVENTS_STREAM, count)

    async def command(self, body: bytes, headers: dict[str, str] | None = None) -> None:
        await jetstream_of(self.client).publish(subjects.TASK_CREATE_COMMAND, body, headers=headers)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    """A server of the test's own: these tests count what is in the streams."""
    server = NatsServer(tmp_path / "nats")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
async def start(server: NatsServer, data_dir: Path) -> AsyncIterator[Callable[[], Service]]:
    started: list[Service] = []

    def start() -> Service:
        started.append(Service(server.url, data_dir))
        return started[-1]

    yield start
    for service in started:
        service.end(signal.SIGKILL)


@pytest.fixture
async def caller(server: NatsServer) -> AsyncIterator[Caller]:
    client = await nats.connect(server.url, max_reconnect_attempts=-1, reconnect_time_wait=0.1)
    yield Caller(client)
    await client.close()


@pytest.fixture
async def service(start: Callable[[], Service]) -> Service:
    return await start().until_ready()


@pytest.mark.usefixtures("service")
class TestOverTheBus:
    async def test_a_task_lives_from_its_creation_to_a_rollback(self, caller: Caller) -> None:
        task = await caller.create(creating("spam-detection"))
        with pytest.raises(TaskNotReady):
            await caller.call(subjects.ARTIFACTS_RESOLVE, ResolveProgram(task=task.name), ResolvedProgram)
        first = await caller.publish(publishing(task.id, code="def run(input): return 1"))
        await caller.publish(publishing(task.id, code="def run(input): return 2"))
        back = ActivateArtifact(task=task.name, version=Version(1), expected_version=Version(2), actor="ann")
        await caller.call(subjects.ARTIFACTS_ACTIVATE, back, ProgramArtifact)

        resolved = await caller.call(subjects.ARTIFACTS_RESOLVE, ResolveProgram(task=str(task.id)), ResolvedProgram)
        assert (resolved.version, resolved.digest) == (1, first.digest)
        fetch = FetchProgram(task_id=task.id, digest=resolved.digest)
        assert (await caller.call(subjects.PROGRAMS_FETCH, fetch, ProgramCode)).code == "def run(input): return 1"
        listed = await caller.call(subjects.ARTIFACTS_LIST, ListArtifacts(task=task.name), ArtifactPage)
        assert [(a.version, a.status.value) for a in listed.items] == [(1, "active"), (2, "deprecated")]
        got = await caller.call(subjects.ARTIFACTS_GET, GetArtifact(task=task.name, include_code=True), ProgramArtifact)
        assert got.code == "def run(input): return 1"
        page = await caller.call(subjects.TASKS_LIST, ListTasks(status=TaskStatus.READY), TaskPage)
        assert [(t.name, t.active_version, t.total_versions) for t in page.items] == [("spam-detection", 1, 2)]

    async def test_a_task_is_changed_improved_and_archived(self, caller: Caller) -> None:
        task = await caller.create()
        change = UpdateTask.model_validate(
            {"task": task.name, "changes": {"sampling_rate": 0.5}, "expected_revisions": [task.revision]}
        )
        changed = await caller.call(subjects.TASKS_UPDATE, change, TaskSpecification)
        assert (changed.sampling_rate, changed.revision) == (0.5, task.revision + 1)
        with pytest.raises(PreconditionFailed):
            await caller.call(subjects.TASKS_UPDATE, change, TaskSpecification)
        order = StartGeneration(task=task.name, constraints="be short")
        started = await caller.call(subjects.TASKS_GENERATE, order, GenerationStarted)
        command = await caller.waiting(subjects.TASK_GENERATE_COMMAND)
        assert GenerateProgram.model_validate_json(command.data or b"") == GenerateProgram(
            task_id=task.id, generation_id=started.generation_id, constraints="be short"
        )
        assert (command.headers or {})["ce-type"] == "loopai.task.generate.v1"
        await caller.publish(publishing(task.id, generation_id=started.generation_id))
        query = GetGeneration(task_id=task.id, generation_id=started.generation_id)
        assert (await caller.call(subjects.GENERATIONS_GET, query, GenerationState)).version == 1
        history = await caller.call(subjects.ARTIFACTS_ACTIVATIONS, ListActivations(task=task.name), ActivationPage)
        assert [activation.to_version for activation in history.items] == [1]
        ended = await caller.call(subjects.TASKS_ARCHIVE, ArchiveTask(task=task.name), TaskSummary)
        assert ended.status is TaskStatus.ARCHIVED
        archived = (await caller.events(5))[-1]
        assert archived.subject == subjects.TASK_ARCHIVED
        assert TaskArchived.model_validate_json(archived.data).name == task.name

    async def test_events_are_cloud_events_tied_to_their_request(self, caller: Caller) -> None:
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        headers = {subjects.CORRELATION_HEADER: "order-17", subjects.TRACEPARENT_HEADER: trace}
        task = await caller.call(subjects.TASKS_CREATE, creating(), TaskSpecification, headers)
        command = publishing(task.id)
        artifact = await caller.publish(command)
        failing = FailTask(task_id=task.id, generation_id=GenerationId(new_uuid()), reason="no better one")
        await caller.call(subjects.TASKS_FAIL, failing, TaskSummary)

        messages = await caller.events(4)
        assert [message.subject for message in messages] == [
            subjects.TASK_CREATED,
            subjects.ARTIFACT_PUBLISHED,
            subjects.ARTIFACT_ACTIVATED,
            subjects.TASK_FAILED,
        ]
        sent = dict(messages[0].headers or {})
        assert sent.pop("ce-time").endswith("Z")
        assert sent.pop("ce-id") == sent.pop(subjects.MESSAGE_ID_HEADER)
        assert sent == {
            "ce-specversion": "1.0",
            "ce-type": "loopai.task.created.v1",
            "ce-source": "/loopai/artifact-store",
            "ce-subject": str(task.id),
            "content-type": "application/json",
            **headers,
        }
        assert TaskCreated.model_validate_json(messages[0].data).name == task.name
        published = ArtifactPublished.model_validate_json(messages[1].data)
        assert (published.digest, published.generation_id) == (artifact.digest, command.generation_id)
        activated = ArtifactActivated.model_validate_json(messages[2].data)
        assert (activated.version, activated.previous_version) == (1, None)
        assert TaskFailed.model_validate_json(messages[3].data).reason == "no better one"

    async def test_errors_are_typed_answers(self, caller: Caller) -> None:
        await caller.create(creating("spam"))
        with pytest.raises(TaskAlreadyExists):
            await caller.create(creating("spam"))
        with pytest.raises(TaskNotFound):
            await caller.task("nobody")
        with pytest.raises(ValidationFailed) as failed:
            await caller.create(creating(input_schema={"type": "nonsense"}, examples=[]))
        assert failed.value.details[0].field.startswith("input_schema")

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"task": "a b"}', b'{"task": "../x"}', b"\xff\xfe"])
    async def test_a_body_that_breaks_the_contract_is_a_validation_error(self, caller: Caller, body: bytes) -> None:
        answer = await caller.client.request(subjects.TASKS_GET, body, timeout=20)
        assert json.loads(answer.data)["code"] == "validation_error"

    async def test_fifty_parallel_creations_with_one_key_make_one_task(self, caller: Caller) -> None:
        command = creating(key="k1")
        tasks = await asyncio.gather(*(caller.create(command) for _ in range(50)))
        assert len({task.id for task in tasks}) == 1
        assert len((await caller.call(subjects.TASKS_LIST, ListTasks(), TaskPage)).items) == 1
        assert len(await caller.events(1)) == 1

    async def test_ten_thousand_examples_are_taken_and_given_back(self, caller: Caller) -> None:
        examples = [{"input": {"text": f"{number:06d}" + "x" * 80}, "output": "ham"} for number in range(10_000)]
        command = creating("large", examples=examples)
        started = time.perf_counter()
        await caller.create(command)
        seconds = time.perf_counter() - started
        task = await caller.task("large")
        assert len(task.examples) == task.total_examples == 10_000
        assert task.examples == command.definition.examples
        assert seconds < 5  # measured: 0.1 to 0.2; the machine may be busy


class TestCommands:
    async def test_a_command_creates_a_task(self, caller: Caller, service: Service) -> None:
        said = definition("from-elsewhere")
        await caller.command(said.model_dump_json().encode(), {"content-type": "application/json"})
        (event,) = await caller.events(1)
        assert TaskCreated.model_validate_json(event.data).name == "from-elsewhere"
        assert (await caller.task("from-elsewhere")).examples == said.examples

    async def test_a_command_that_was_done_before_its_ack_was_lost_is_done_once(
        self, caller: Caller, service: Service, start: Callable[[], Service], data_dir: Path
    ) -> None:
        assert service.end() == 0
        said = definition("once")
        catalog = open_sqlite(data_dir)
        await store_on(catalog).create_task(CreateTask(definition=said, idempotency_key="command:m1"))
        await catalog.close()
        await caller.command(said.model_dump_json().encode(), {subjects.MESSAGE_ID_HEADER: "m1"})
        await caller.command(definition("after").model_dump_json().encode())

        await start().until_ready()
        events = await caller.events(2)
        assert [TaskCreated.model_validate_json(event.data).name for event in events] == ["once", "after"]
        assert await caller.stream(subjects.DEAD_LETTERS_STREAM, 0) == []

    @pytest.mark.parametrize(
        ("body", "code"),
        [
            (b'{"name": "x"', "validation_error"),
            (b'{"name": "x"}', "validation_error"),
            (TEXT.replace(b'"ham"', b"NaN"), "malformed_json"),
            (TEXT.replace(b'"text"', b'"text":1,"text"'), "malformed_json"),
            (definition(input_schema={"type": 7}, examples=[]).model_dump_json().encode(), "validation_error"),
        ],
    )
    async def test_a_definition_that_can_never_be_stored_is_a_dead_letter_at_once(
        self, caller: Caller, service: Service, body: bytes, code: str
    ) -> None:
        await caller.command(body, {"content-type": "application/json"})
        (letter,) = await caller.stream(subjects.DEAD_LETTERS_STREAM, 1)
        assert letter.subject == subjects.dead_letter(subjects.TASK_CREATE_COMMAND)
        assert letter.data == body
        assert (letter.headers or {})[ERROR_CODE_HEADER] == code
        assert (await caller.call(subjects.TASKS_LIST, ListTasks(), TaskPage)).items == ()

    async def test_a_name_that_is_taken_is_a_dead_letter(self, caller: Caller, service: Service) -> None:
        await caller.create(creating("taken"))
        await caller.command(definition("taken").model_dump_json().encode())
        (letter,) = await caller.stream(subjects.DEAD_LETTERS_STREAM, 1)
        assert (letter.headers or {})[ERROR_CODE_HEADER] == "task_already_exists"


class TestCrashesAndOutages:
    async def test_nothing_acknowledged_is_lost_by_kills_under_load(
        self, caller: Caller, start: Callable[[], Service], data_dir: Path
    ) -> None:
        acknowledged: dict[str, list[int]] = {}
        stopped = asyncio.Event()
        caller.timeout_seconds = 2.0  # what a killed instance had taken is never answered

        async def work() -> None:
            while not stopped.is_set():
                try:
                    task = await caller.create()
                    acknowledged[task.name] = []
                    for _ in range(3):
                        acknowledged[task.name].append((await caller.publish(publishing(task.id))).version)
                except (NatsError, LoopaiError):
                    await asyncio.sleep(0.05)

        service = await start().until_ready()
        workers = [asyncio.create_task(work()) for _ in range(4)]
        for goal in (10, 20, 30):
            deadline = time.monotonic() + PATIENCE_SECONDS
            while len(acknowledged) < goal:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.005)
            assert service.end(signal.SIGKILL) == -signal.SIGKILL
            service = await start().until_ready()
        stopped.set()
        await asyncio.gather(*workers)

        stored: dict[str, tuple[TaskId, int]] = {}
        cursor = None
        while True:
            page = await caller.call(subjects.TASKS_LIST, ListTasks(limit=200, cursor=cursor), TaskPage)
            stored |= {task.name: (task.id, task.total_versions) for task in page.items}
            cursor = page.next_cursor
            if cursor is None:
                break
        for name, versions in acknowledged.items():
            assert versions == list(range(1, len(versions) + 1))
            assert stored[name][1] >= len(versions)
        # Every fact is in the stream once, in order within its task, whatever was killed in between.
        expected = sum(1 + 2 * count for _, count in stored.values())
        messages = await caller.events(expected)
        assert len(messages) == expected
        for task_id, count in stored.values():
            of_task = [m.subject for m in messages if (m.headers or {})["ce-subject"] == str(task_id)]
            assert of_task == [
                subjects.TASK_CREATED,
                *[subjects.ARTIFACT_PUBLISHED, subjects.ARTIFACT_ACTIVATED] * count,
            ]
        await until_documented(data_dir)

    async def test_documents_that_a_killed_store_left_behind_are_written_after_a_start(
        self, start: Callable[[], Service], data_dir: Path
    ) -> None:
        catalog = open_sqlite(data_dir)
        store = store_on(catalog, open_files(data_dir))
        for _ in range(20):
            await store.publish(publishing((await store.create_task(creating())).id))
        assert (await catalog.backlog()).changes == 40
        await catalog.close()
        service = await start().until_ready()
        await until_documented(data_dir)
        await eventually(lambda: "loopai_undocumented_changes 0.0" in service.get("/metrics")[1])

    async def test_a_storage_of_documents_that_fails_fails_no_request_and_heals(
        self, caller: Caller, service: Service, data_dir: Path
    ) -> None:
        task = await caller.create()
        await until_documented(data_dir)
        in_the_way = data_dir / "artifacts" / str(task.id) / "versions"
        in_the_way.rename(data_dir / "aside")
        in_the_way.write_text("no directory")
        assert (await caller.publish(publishing(task.id))).version == 1
        await eventually(lambda: "loopai_undocumented_changes 1.0" in service.get("/metrics")[1])
        assert 'operation="label_tags",outcome="store_unavailable"' in service.get("/metrics")[1]
        in_the_way.unlink()
        await until_documented(data_dir)

    async def test_events_that_waited_are_delivered_after_a_start(
        self, caller: Caller, start: Callable[[], Service], data_dir: Path
    ) -> None:
        catalog = open_sqlite(data_dir)
        store = store_on(catalog, open_files(data_dir))
        task = await store.create_task(creating())
        await store.publish(publishing(task.id))
        waiting = [event.id for event in await catalog.pending_events(10)]
        await catalog.close()
        service = await start().until_ready()
        messages = await caller.events(3)
        assert [(message.headers or {})["ce-id"] for message in messages] == waiting
        await eventually(lambda: "loopai_outbox_events 0.0" in service.get("/metrics")[1])

    async def test_it_recovers_when_nats_is_killed_and_comes_back(
        self, server: NatsServer, caller: Caller, service: Service, data_dir: Path
    ) -> None:
        await caller.create(creating("before"))
        await caller.events(1)
        server.kill()
        await eventually(lambda: service.get("/health/ready")[0] == 503)
        assert service.get("/health/live")[0] == 200
        catalog = open_sqlite(data_dir)  # another process stores while the bus is away
        await store_on(catalog, open_files(data_dir)).create_task(creating("meanwhile"))
        await catalog.close()
        server.start()
        await eventually(lambda: service.get("/health/ready")[0] == 200)
        await eventually(lambda: caller.client.is_connected)
        assert (await caller.task("meanwhile")).status is TaskStatus.GENERATING
        names = [TaskCreated.model_validate_json(message.data).name for message in await caller.events(2)]
        assert names == ["before", "meanwhile"]

    async def test_it_waits_for_mongodb_and_recovers_when_that_freezes(
        self, server: NatsServer, caller: Caller, data_dir: Path, tmp_path: Path
    ) -> None:
        mongo = Mongo(tmp_path / "mongo")
        service = Service(server.url, data_dir, catalog="mongodb", programs="mongodb", mongo_url=mongo.url)
        try:
            await asyncio.sleep(0.5)
            assert (service.process.poll(), service.get("/health/ready")[0]) == (None, 0)
            await asyncio.to_thread(mongo.start)
            await service.until_ready()
            task = await caller.create(creating("before"))

            mongo.pause()
            await eventually(lambda: service.get("/health/ready")[0] == 503)
            checks = json.loads(service.get("/health/ready")[1])["checks"]
            assert [checks[name]["status"] for name in ("catalog", "storage")] == ["unhealthy"] * 2
            assert service.get("/health/live")[0] == 200
            with pytest.raises(StoreUnavailable):
                await caller.publish(publishing(task.id))
            mongo.resume()
            await eventually(lambda: service.get("/health/ready")[0] == 200)
            assert (await caller.publish(publishing(task.id))).version == 1
            messages = await caller.events(3)
            assert [message.subject for message in messages] == [
                subjects.TASK_CREATED,
                subjects.ARTIFACT_PUBLISHED,
                subjects.ARTIFACT_ACTIVATED,
            ]
            assert service.end() == 0
        finally:
            service.end(signal.SIGKILL)
            mongo.stop()

    async def test_two_instances_on_one_directory_are_one_store(
        self, caller: Caller, start: Callable[[], Service], data_dir: Path
    ) -> None:
        services = [start(), start()]
        for service in services:
            await service.until_ready()
        task = await caller.create()
        published = await asyncio.gather(*(caller.publish(publishing(task.id)) for _ in range(40)))
        assert sorted(artifact.version for artifact in published) == list(range(1, 41))
        answered = [service.get("/metrics")[1] for service in services]
        assert all('loopai_artifacts_published_total{strategy="auto"}' in metrics for metrics in answered)
        messages = await caller.events(81)
        versions = [
            ArtifactPublished.model_validate_json(message.data).version
            for message in messages
            if message.subject == subjects.ARTIFACT_PUBLISHED
        ]
        assert versions == list(range(1, 41))
        await until_documented(data_dir)


class TestOperations:
    async def test_a_directory_that_cannot_be_used_is_refused_with_a_sentence(
        self, server: NatsServer, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("not a directory")
        refused = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "loopai_artifact_store.main"],
            env={**os.environ, "LOOPAI_NATS_URL": server.url, "LOOPAI_DATA_DIR": str(tmp_path / "file" / "data")},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert refused.returncode == 2
        (line,) = refused.stdout.splitlines()
        said: dict[str, Any] = json.loads(line)
        assert said["event"] == "start_refused"
        assert "set LOOPAI_DATA_DIR to another one" in said["reason"]

    async def test_a_storage_that_fails_makes_it_unready_until_it_is_back(
        self, service: Service, data_dir: Path
    ) -> None:
        programs = data_dir / "artifacts"
        programs.rename(data_dir / "away")
        status, body = service.get("/health/ready")
        assert (status, json.loads(body)["checks"]["storage"]["status"]) == (503, "unhealthy")
        (data_dir / "away").rename(programs)
        assert service.get("/health/ready")[0] == 200

    async def test_a_consumer_that_somebody_deleted_shows(self, service: Service, caller: Caller) -> None:
        await jetstream_of(caller.client).delete_consumer(subjects.COMMANDS_STREAM, "artifact-store-task-create")
        status, body = service.get("/health/ready")
        assert (status, json.loads(body)["checks"]["commands"]["status"]) == (200, "degraded")

    async def test_what_happens_is_counted(self, service: Service, caller: Caller) -> None:
        task = await caller.create()
        for _ in range(2):
            await caller.publish(publishing(task.id, synthesis_strategy="ml"))
        back = ActivateArtifact(task=task.name, version=Version(1), expected_version=Version(2))
        await caller.call(subjects.ARTIFACTS_ACTIVATE, back, ProgramArtifact)
        metrics = service.get("/metrics")[1]
        assert 'loopai_artifacts_published_total{strategy="ml"} 2.0' in metrics
        assert 'loopai_activations_total{direction="forward"} 2.0' in metrics
        assert 'loopai_activations_total{direction="back"} 1.0' in metrics
        labels = 'backend="files",operation="put",outcome="ok",port="storage"'
        assert f"loopai_store_operation_duration_seconds_count{{{labels}}} 2.0" in metrics
        await eventually(lambda: 'loopai_tasks{status="ready"} 1.0' in service.get("/metrics")[1])
        assert 'loopai_artifacts{status="deprecated"} 1.0' in service.get("/metrics")[1]
        assert str(task.id) not in metrics

    async def test_a_stop_under_load_answers_what_was_taken_and_exits_zero(
        self, service: Service, caller: Caller
    ) -> None:
        calls = [asyncio.create_task(caller.create(creating(f"task-{new_id()[-8:]}x"))) for _ in range(50)]
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        assert await asyncio.to_thread(service.end) == 0
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        # A request that nobody took any more is told so at once; one that was taken is answered.
        assert {type(outcome).__name__ for outcome in outcomes} <= {"TaskSpecification", "NoRespondersError"}
