"""Asynchronous executions and records of the executor: real JetStream, real sandbox, kills between any two steps."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from nats.js.api import ConsumerConfig

from loopai_client.local.nats_server import NatsServer
from loopai_common.contracts import subjects
from loopai_common.contracts.execution import ExecutionRecord, RecordStatus
from loopai_common.contracts.frames import FRAME_FORMAT, Frame, FrameMark
from loopai_common.identifiers import new_id
from loopai_executor.handlers import COMMANDS_CONSUMER
from tests.integration.executor.test_executor_over_nats import Stage
from tests.integration.executor.test_executor_over_nats import executor as executor_here
from tests.integration.executor.test_executor_process import executor as executor_process
from tests.support.bus import jetstream_of, new_bus, running
from tests.support.frames import frame_group
from tests.support.sandbox import PATIENCE_SECONDS
from tests.support.stub_store import StubStore

FORCED = FrameMark("from-a-frame", force_validation=True)
ECHO = "def run(x):\n    return x\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A server of the module's own: these tests look at what is left in the streams."""
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server
    server.stop()


class Office:
    """Sends commands and reads the events that come of them."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.store = stage.store
        self.jetstream = jetstream_of(stage.bus.client)
        self.events: list[tuple[dict[str, str], ExecutionRecord]] = []

    async def listen(self) -> None:
        async def on_event(message: Any) -> None:
            self.events.append((dict(message.headers), ExecutionRecord.model_validate_json(message.data)))

        await self.stage.bus.client.subscribe(subjects.EXECUTION_COMPLETED, cb=on_event)
        await self.stage.bus.client.flush()

    async def send(self, body: Any, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        await self.jetstream.publish(subjects.EXECUTE_COMMAND, data, headers=headers or None)

    async def outcome(self, execution_id: str) -> ExecutionRecord:
        await until(lambda: any(str(record.id) == execution_id for _, record in self.events))
        return next(record for _, record in self.events if str(record.id) == execution_id)

    async def run(self, body: dict[str, Any]) -> ExecutionRecord:
        execution_id = new_id()
        await self.send({"execution_id": execution_id, **body})
        return await self.outcome(execution_id)

    async def settled(self) -> bool:
        """Whether every command was acknowledged."""
        info = await self.jetstream.consumer_info(subjects.COMMANDS_STREAM, COMMANDS_CONSUMER)
        return not info.num_pending and not info.num_ack_pending

    async def stored(self, execution_id: str) -> int:
        """How many events of the execution the stream holds."""
        subscription = await self.jetstream.subscribe(subjects.EXECUTION_COMPLETED, ordered_consumer=True)
        info = await self.jetstream.stream_info(subjects.EXECUTIONS_STREAM)
        found = [await subscription.next_msg(timeout=10) for _ in range(info.state.messages)]
        await subscription.unsubscribe()
        return sum((message.headers or {})["ce-id"] == execution_id for message in found)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            value = condition()
            if asyncio.iscoroutine(value):
                value = await value
            if value:
                return
            await asyncio.sleep(0.02)


@pytest.fixture
async def office(server: NatsServer) -> AsyncIterator[Office]:
    """A store and a client, without an executor."""
    store = StubStore()
    async with running(new_bus("tests", server.url)) as bus, store.serving(server.url):
        office = Office(Stage(bus, store))
        await office.listen()
        yield office


@pytest.fixture
async def staffed(office: Office, server: NatsServer) -> AsyncIterator[Office]:
    """As ``office``, with an executor in this process."""
    async with executor_here(server.url):
        yield office


class TestCommands:
    async def test_a_command_runs_and_its_event_says_how_it_ended(self, staffed: Office) -> None:
        task = staffed.store.add("echo", ECHO, ECHO, active=2)
        execution_id = new_id()
        await staffed.send(
            {"execution_id": execution_id, "task": "echo", "input": {"n": 1.5}, "unknown": 1},
            **{subjects.CORRELATION_HEADER: "order-7"},
        )
        record = await staffed.outcome(execution_id)
        assert (record.status, record.input, record.output) == (RecordStatus.SUCCESS, {"n": 1.5}, {"n": 1.5})
        assert (record.task_id, record.version, record.sampled_for_validation) == (task.id, 2, False)
        assert record.latency_ms is not None
        headers = staffed.events[0][0]
        assert headers["ce-id"] == headers[subjects.MESSAGE_ID_HEADER] == execution_id
        assert (headers["ce-type"], headers["ce-source"]) == ("loopai.execution.completed.v1", "/loopai/executor")
        assert headers["ce-subject"] == str(task.id)
        assert headers[subjects.CORRELATION_HEADER] == record.correlation_id == "order-7"
        await until(staffed.settled)

    async def test_task_and_input_are_enough_and_the_id_comes_from_the_message(self, staffed: Office) -> None:
        staffed.store.add("bare", ECHO)
        await staffed.send({"task": "bare", "input": [1]})
        await until(lambda: any(record.output == [1] for _, record in staffed.events))

    async def test_a_version_a_time_and_a_forced_sample_are_kept_to(self, staffed: Office) -> None:
        staffed.store.add("slow", "def run(x):\n    while True: pass\n", ECHO, active=2)
        record = await staffed.run(
            {"task": "slow", "input": 1, "version": 1, "timeout_ms": 50, "force_validation": True}
        )
        assert (record.status, record.error_code, record.version) == (RecordStatus.TIMEOUT, "limit_time", 1)
        assert record.sampled_for_validation

    @pytest.mark.parametrize(
        ("change", "code"),
        [
            ({"task": "nobody"}, "task_not_found"),
            ({"task": "unready"}, "task_not_ready"),
            ({"version": 9}, "artifact_not_found"),
            ({"input": "no number"}, "input_schema_violation"),
            ({"timeout_ms": 0}, "validation_error"),
            ({"version": 0}, "validation_error"),
            ({"task": "no name"}, "validation_error"),
        ],
        ids=lambda value: "-".join(value) if isinstance(value, dict) else value,
    )
    async def test_what_can_never_run_ends_in_a_record_at_once(
        self, staffed: Office, change: dict[str, Any], code: str
    ) -> None:
        staffed.store.add("number", ECHO, input_schema={"type": "integer"})
        staffed.store.add("unready", active=None)
        record = await staffed.run({"task": "number", "input": 1, **change})
        assert (record.status, record.error_code) == (RecordStatus.ERROR, code)
        assert record.error_message
        assert (record.output, record.latency_ms) == (None, None)
        await until(staffed.settled)

    @pytest.mark.parametrize(
        ("body", "code"),
        [
            (b"", "malformed_json"),
            (b'{"task":"x"', "malformed_json"),
            (b"[]", "validation_error"),
            (b'{"task":"x"}', "validation_error"),
            (b'{"task":"x","input":1,"input":2}', "malformed_json"),
            (b'{"task":"x","input":"\xff"}', "malformed_json"),
            (b'{"task":"x","input":1,"execution_id":"mine"}', "validation_error"),
        ],
        ids=["empty", "cut", "list", "no-input", "key-twice", "encoding", "bad-id"],
    )
    async def test_a_command_that_is_none_ends_in_a_record_too(self, staffed: Office, body: bytes, code: str) -> None:
        known = len(staffed.events)
        await staffed.send(body, **{subjects.CORRELATION_HEADER: "bad-one"})
        await until(lambda: len(staffed.events) > known)
        record = staffed.events[-1][1]
        assert (record.status, record.error_code, record.correlation_id) == (RecordStatus.ERROR, code, "bad-one")
        await until(staffed.settled)

    async def test_a_store_that_comes_back_is_waited_for(self, server: NatsServer) -> None:
        store = StubStore()
        store.add("later", ECHO)
        async with running(new_bus("tests", server.url)) as bus, executor_here(server.url):
            office = Office(Stage(bus, store))
            await office.listen()
            execution_id = new_id()
            await office.send({"execution_id": execution_id, "task": "later", "input": 5})
            await until(lambda: _was_delivered(office))
            async with store.serving(server.url):
                record = await office.outcome(execution_id)
        assert (record.status, record.output) == (RecordStatus.SUCCESS, 5)

    async def test_the_same_execution_sent_twice_is_one_event(self, staffed: Office) -> None:
        staffed.store.add("twice", ECHO)
        execution_id = new_id()
        for _ in range(2):
            await staffed.send({"execution_id": execution_id, "task": "twice", "input": 1})
        await staffed.outcome(execution_id)
        await until(staffed.settled)
        assert await staffed.stored(execution_id) == 1

    async def test_many_commands_all_end(self, staffed: Office) -> None:
        staffed.store.add("many", ECHO)
        ids = [new_id() for _ in range(500)]
        await asyncio.gather(
            *(staffed.send({"execution_id": id_, "task": "many", "input": n}) for n, id_ in enumerate(ids))
        )
        records = [await staffed.outcome(id_) for id_ in ids]
        assert [record.output for record in records] == list(range(500))
        await until(staffed.settled)


async def _was_delivered(office: Office) -> bool:
    info = await office.jetstream.consumer_info(subjects.COMMANDS_STREAM, COMMANDS_CONSUMER)
    return bool(info.num_redelivered or info.num_ack_pending)


async def test_a_busy_executor_leaves_commands_alone_and_answers_who_waits(office: Office, server: NatsServer) -> None:
    office.store.add("slow", "def run(x):\n    while True: pass\n")
    office.store.add("echo", ECHO)
    async with executor_here(server.url, max_queued_items=20):
        await office.stage.execute("echo", {"input": 0})
        slow = [{"input": n, "timeout_ms": 400} for n in range(10)]
        busy = asyncio.create_task(office.stage.execute("slow", {"executions": slow}))
        await asyncio.sleep(0.2)
        execution_id = new_id()
        await office.send({"execution_id": execution_id, "task": "echo", "input": 1})
        assert (await office.stage.execute("echo", {"input": 2}))["output"] == 2, "somebody waits for this one"
        assert not busy.done(), "it must still be busy to prove anything"
        assert office.events == []
        await busy
        assert (await office.outcome(execution_id)).output == 1


async def test_a_kill_between_the_run_and_its_acknowledgement_leaves_one_record(
    office: Office, server: NatsServer
) -> None:
    office.store.add("slow", "def run(x):\n    for _ in range(10 ** 9): pass\n    return x\n", ECHO, active=1)
    task = office.store.tasks["slow"]
    execution_id = new_id()
    with executor_process(server.url) as first:
        await first.ready()
        config = (await office.jetstream.consumer_info(subjects.COMMANDS_STREAM, COMMANDS_CONSUMER)).config
        await office.jetstream.add_consumer(subjects.COMMANDS_STREAM, _sooner(config))
        await office.send({"execution_id": execution_id, "task": "slow", "input": 9, "timeout_ms": 60_000})
        await until(lambda: _was_delivered(office))
        await until(lambda: office.store.fetched)
        first.process.send_signal(signal.SIGKILL)
        first.process.wait(PATIENCE_SECONDS)
    assert office.events == []
    task.active = 2
    with executor_process(server.url) as second:
        await second.ready()
        record = await office.outcome(execution_id)
        await until(office.settled)
    assert (record.status, record.output, record.version) == (RecordStatus.SUCCESS, 9, 2)
    assert await office.stored(execution_id) == 1


def _sooner(config: ConsumerConfig) -> ConsumerConfig:
    """As the executor declares it, but what is not acknowledged comes again after two seconds instead of thirty."""
    config.ack_wait = 2.0
    return config


class TestSampling:
    async def test_forced_items_of_requests_and_frames_are_recorded_and_no_others(self, staffed: Office) -> None:
        task = staffed.store.add("echo", ECHO, input_schema={"type": "integer"})
        single, framed, refused = new_id(), new_id(), new_id()
        body = {"input": 1, "execution_id": single, "force_validation": True}
        assert (await staffed.stage.execute("echo", body))["sampled_for_validation"]
        await staffed.stage.execute("echo", {"executions": [{"input": 2}, {"input": 3, "force_validation": True}]})
        frame = Frame(
            FRAME_FORMAT,
            [
                frame_group("echo", 4, 5, ids=[new_id(), framed], marks={1: FORCED}),
                frame_group("echo", "x", 6, version=1, ids=[refused, new_id()], marks={0: FORCED}),
            ],
        )
        answers, _ = await staffed.stage.frame(frame, 4)
        assert [answers[i].sampled for i in range(4)] == [False, True, True, False]
        await until(lambda: len(staffed.events) >= 3)
        assert sorted(record.output for _, record in staffed.events) == [1, 3, 5]  # type: ignore[type-var]  # integers
        record = await staffed.outcome(framed)
        assert (record.task_id, record.version, record.correlation_id) == (task.id, 1, "from-a-frame")
        assert record.sampled_for_validation

    async def test_the_sampling_rate_picks_up_to_the_bound(self, office: Office, server: NatsServer) -> None:
        office.store.add("echo", ECHO, sampling_rate=1.0)
        async with executor_here(server.url, max_sampled_per_second=5):
            executions = [{"input": n} for n in range(100)]
            results = (await office.stage.execute("echo", {"executions": executions}))["results"]
            sampled = [r["output"] for r in results if r["sampled_for_validation"]]
            await until(lambda: len(office.events) >= len(sampled))
        assert sampled[:5] == [0, 1, 2, 3, 4]
        assert len(sampled) <= 7, "the bucket refills a little meanwhile"
        assert sorted(record.output for _, record in office.events) == sampled  # type: ignore[type-var]  # integers

    async def test_records_leave_before_the_executor_does(self, office: Office, server: NatsServer) -> None:
        office.store.add("echo", ECHO)
        async with executor_here(server.url):
            executions = [{"input": n, "force_validation": True} for n in range(300)]
            await office.stage.execute("echo", {"executions": executions})
        await until(lambda: len(office.events) == 300)
