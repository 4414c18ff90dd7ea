"""The bus boundary against a real nats-server: every request answered, every durable message settled."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from nats.aio.msg import Msg

from loopai_client.local.nats_server import NatsServer
from loopai_common.contracts import subjects
from loopai_common.contracts.base import Contract
from loopai_common.contracts.tasks import CreateTask, FailTask, GetTask, TaskPage
from loopai_common.errors import (
    BusUnavailable,
    DeadlineExceeded,
    Internal,
    LoopaiError,
    NoExecutor,
    NoGeneratorProxy,
    PayloadTooLarge,
    StoreUnavailable,
    TaskNotFound,
    ValidationFailed,
)
from loopai_common.identifiers import new_uuid
from loopai_common.runtime import broker as broker_module
from loopai_common.runtime import context
from loopai_common.runtime.broker import Bus
from loopai_common.runtime.rpc import RpcClient
from tests.support.builders import definition
from tests.support.bus import jetstream_of, new_bus, running


class Text(Contract):
    """A message of the tests."""

    text: str


async def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def until_stored(bus: Bus, stream: str, messages: int) -> None:
    """Waits until the stream holds that many messages."""
    async with asyncio.timeout(60):
        while (await jetstream_of(bus.client).stream_info(stream)).state.messages != messages:
            await asyncio.sleep(0.02)


@pytest.fixture
async def own_server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    server = NatsServer(tmp_path / "nats")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def url(nats_server: NatsServer) -> str:
    return nats_server.url


def echo(bus: Bus, subject: str) -> None:
    async def handler(query: GetTask) -> Text:
        match query.task:
            case "missing":
                raise TaskNotFound("there is no such task")
            case "bug":
                raise KeyError("secret-canary")
            case "slow":
                await asyncio.sleep(0.5)
            case "huge":
                return Text(text="x" * (9 * 1024 * 1024))
            case "context":
                return Text(text=context.current().correlation_id)
        return Text(text=query.task)

    bus.on(subject)(handler)


async def test_an_answer_is_typed(url: str) -> None:
    bus = new_bus("echo", url)
    echo(bus, "loopai.rpc.v1.test.a")
    async with running(bus):
        answer = await RpcClient(bus).call("loopai.rpc.v1.test.a", GetTask(task="x"), Text, timeout=5)
    assert answer.text == "x"


@pytest.mark.parametrize(("task", "kind"), [("missing", TaskNotFound), ("bug", Internal), ("huge", PayloadTooLarge)])
async def test_a_handlers_error_is_answered_and_leaks_nothing(url: str, task: str, kind: type[LoopaiError]) -> None:
    bus = new_bus("echo", url)
    echo(bus, "loopai.rpc.v1.test.b")
    async with running(bus):
        started = time.monotonic()
        with pytest.raises(kind) as caught:
            await RpcClient(bus).call("loopai.rpc.v1.test.b", GetTask(task=task), Text, timeout=30)
    assert time.monotonic() - started < 25
    assert "canary" not in caught.value.message


@pytest.mark.parametrize("body", [b"", b"not json", b"[]", b'{"task": 5}', b'{"task": "a.b/c"}', b"\xff\xfe"])
async def test_a_broken_message_is_a_typed_error_and_the_connection_lives(url: str, body: bytes) -> None:
    bus = new_bus("echo", url)
    echo(bus, "loopai.rpc.v1.test.c")
    async with running(bus):
        with pytest.raises(ValidationFailed):
            await RpcClient(bus).send("loopai.rpc.v1.test.c", body, timeout=5)
        answer = await RpcClient(bus).call("loopai.rpc.v1.test.c", GetTask(task="x"), Text, timeout=5)
    assert answer.text == "x"


async def test_errors_stand_in_adr32_headers_and_in_the_body(url: str) -> None:
    bus = new_bus("echo", url)
    echo(bus, "loopai.rpc.v1.test.d")
    async with running(bus):
        reply = await bus.client.request("loopai.rpc.v1.test.d", b'{"task":"missing"}', timeout=5)
    assert reply.headers is not None
    assert reply.headers["Nats-Service-Error-Code"] == "task_not_found"
    assert json.loads(reply.data)["code"] == "task_not_found"


async def test_the_correlation_id_travels(url: str) -> None:
    bus = new_bus("echo", url)
    echo(bus, "loopai.rpc.v1.test.e")
    async with running(bus):
        with context.bound(context.new_context(correlation_id="order-66")):
            answer = await RpcClient(bus).call("loopai.rpc.v1.test.e", GetTask(task="context"), Text, timeout=5)
    assert answer.text == "order-66"


async def test_a_request_past_its_deadline_is_not_handled(url: str) -> None:
    bus = new_bus("echo", url)
    echo(bus, "loopai.rpc.v1.test.f")
    async with running(bus):
        headers = {subjects.DEADLINE_HEADER: str(int((time.time() - 1) * 1000))}
        reply = await bus.client.request("loopai.rpc.v1.test.f", b'{"task":"x"}', timeout=5, headers=headers)
        with context.bound(context.new_context(deadline=time.time() - 1)), pytest.raises(DeadlineExceeded):
            await RpcClient(bus).call("loopai.rpc.v1.test.f", GetTask(task="x"), Text, timeout=5)
    assert json.loads(reply.data)["code"] == "deadline_exceeded"


async def test_a_slow_answer_is_a_typed_timeout(url: str) -> None:
    bus = new_bus("echo", url)
    echo(bus, "loopai.rpc.v1.test.g")
    async with running(bus):
        with pytest.raises(DeadlineExceeded):
            await RpcClient(bus).call("loopai.rpc.v1.test.g", GetTask(task="slow"), Text, timeout=0.05)


async def test_who_is_missing_is_told_at_once(url: str) -> None:
    bus = new_bus("alone", url)
    async with running(bus):
        rpc = RpcClient(bus)
        with pytest.raises(StoreUnavailable):
            await rpc.call("loopai.rpc.v1.tasks.nobody", GetTask(task="x"), Text, timeout=30)
        with pytest.raises(NoExecutor):
            await rpc.send(subjects.execute("nobody-listens", None), b"{}", timeout=30)
        with pytest.raises(NoGeneratorProxy):
            await rpc.send(subjects.PROGRAMS_SUBMIT, b"{}", timeout=30)


async def test_a_message_over_the_limit_is_refused_before_it_is_sent(url: str) -> None:
    bus = new_bus("alone", url)
    async with running(bus):
        with pytest.raises(PayloadTooLarge):
            await RpcClient(bus).send("loopai.rpc.v1.test.h", b"x" * (8 * 1024 * 1024 + 1), timeout=5)
        assert bus.connected


async def test_drain_answers_what_was_taken(url: str) -> None:
    served, caller = new_bus("echo", url), new_bus("caller", url)
    echo(served, "loopai.rpc.v1.test.i")
    async with running(caller):
        await served.start()
        rpc = RpcClient(caller)
        calls = [
            asyncio.create_task(rpc.call("loopai.rpc.v1.test.i", GetTask(task="slow"), Text, timeout=20))
            for _ in range(40)
        ]
        await eventually(lambda: served.in_flight > 0)
        await served.drain()
        answers = await asyncio.gather(*calls)
    assert [a.text for a in answers] == ["slow"] * 40


async def test_a_durable_command_that_raises_comes_again_until_it_succeeds(
    own_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module, "_RETRY_DELAYS_SECONDS", (0.05,))
    tries: list[float] = []
    bus = new_bus("worker", own_server.url)

    async def handler(message: CreateTask) -> None:
        tries.append(time.monotonic())
        if len(tries) < 3:
            raise StoreUnavailable("not now")

    bus.on_durable(subjects.TASK_CREATE_COMMAND, stream=subjects.COMMANDS_STREAM, name="w", concurrency=1)(handler)
    async with running(bus):
        body = CreateTask(definition=definition()).model_dump_json().encode()
        await jetstream_of(bus.client).publish(subjects.TASK_CREATE_COMMAND, body)
        await eventually(lambda: len(tries) >= 3)
        await until_stored(bus, subjects.COMMANDS_STREAM, 0)
    assert len(tries) == 3


@pytest.mark.parametrize(
    ("error", "deliveries", "expected_tries", "code"),
    [
        (KeyError, 5, 5, "internal"),
        (StoreUnavailable, 7, 7, "store_unavailable"),
        (KeyError, 7, 5, "internal"),
    ],
    ids=["poison", "away", "patience-is-not-for-poison"],
)
async def test_a_poisonous_command_ends_as_a_readable_dead_letter(
    own_server: NatsServer,
    monkeypatch: pytest.MonkeyPatch,
    error: type[Exception],
    deliveries: int,
    expected_tries: int,
    code: str,
) -> None:
    monkeypatch.setattr(broker_module, "_RETRY_DELAYS_SECONDS", (0.02,))
    tries = 0
    bus = new_bus("worker", own_server.url)

    async def handler(message: FailTask) -> None:
        nonlocal tries
        tries += 1
        raise error("always")  # one anew: the traceback of one that is raised again grows, and so the log

    bus.on_durable(
        subjects.TASK_GENERATE_COMMAND,
        stream=subjects.COMMANDS_STREAM,
        name="p",
        concurrency=1,
        deliveries=deliveries,
    )(handler)
    async with running(bus):
        body = FailTask(task_id=new_uuid(), generation_id=new_uuid(), reason="r").model_dump_json().encode()
        await jetstream_of(bus.client).publish(
            subjects.TASK_GENERATE_COMMAND, body, headers={"X-Correlation-ID": "c-1"}
        )
        subject = subjects.dead_letter(subjects.TASK_GENERATE_COMMAND)
        await until_stored(bus, subjects.DEAD_LETTERS_STREAM, 1)
        letter = await jetstream_of(bus.client).get_last_msg(subjects.DEAD_LETTERS_STREAM, subject)
        await until_stored(bus, subjects.COMMANDS_STREAM, 0)  # the letter is stored before the message is given up
    assert tries == expected_tries
    assert letter.data == body
    assert letter.headers is not None
    assert letter.headers["Loopai-Dead-Letter-Subject"] == subjects.TASK_GENERATE_COMMAND
    assert letter.headers["Nats-Service-Error-Code"] == code
    assert letter.headers["X-Correlation-ID"] == "c-1"


async def test_a_command_that_can_never_succeed_is_not_tried_again(own_server: NatsServer) -> None:
    tries = 0
    bus = new_bus("worker", own_server.url)

    async def handler(message: FailTask) -> None:
        nonlocal tries
        tries += 1

    bus.on_durable(subjects.TASK_GENERATE_COMMAND, stream=subjects.COMMANDS_STREAM, name="n", concurrency=1)(handler)
    async with running(bus):
        await jetstream_of(bus.client).publish(subjects.TASK_GENERATE_COMMAND, b"{broken")
        await until_stored(bus, subjects.DEAD_LETTERS_STREAM, 1)
        await until_stored(bus, subjects.COMMANDS_STREAM, 0)  # the letter is stored before the message is given up
    assert tries == 0


def test_a_handler_whose_message_would_not_be_checked_is_refused() -> None:
    async def handler(_: FailTask) -> None: ...

    with pytest.raises(TypeError, match="not validated"):
        new_bus("worker", "nats://127.0.0.1:1").on("loopai.rpc.v1.test.k")(handler)


async def test_every_instance_hears_an_event(url: str) -> None:
    heard: list[str] = []

    async def handler_a(event: TaskPage) -> None:
        heard.append("a")

    async def handler_b(event: TaskPage) -> None:
        heard.append("b")

    one, two = new_bus("same", url), new_bus("same", url)
    one.on_every_instance("loopai.test.event")(handler_a)
    two.on_every_instance("loopai.test.event")(handler_b)
    async with running(one), running(two):
        await one.client.publish("loopai.test.event", b'{"items":[]}')
        await eventually(lambda: sorted(heard) == ["a", "b"])


class Heard:
    """What a bus was told directly; some of it raises."""

    def __init__(self) -> None:
        self.texts: list[bytes] = []
        self.headers: list[dict[str, str] | None] = []

    def take(self, message: Msg) -> None:
        self.texts.append(message.data)
        self.headers.append(message.headers)
        if message.data == b"bug":
            raise KeyError("secret-canary")


async def test_direct_messages_arrive_in_order_whatever_waits_before_them(url: str) -> None:
    heard = Heard()
    sent = [b"%d" % number for number in range(100)]
    async with running(new_bus("sender", url)) as sender, running(new_bus("listener", url)) as listener:
        await listener.listen("tests.direct", heard.take)
        await listener.client.flush()
        for number, text in enumerate(sent):
            if number % 10 == 0:  # waits for the flusher, so that the next ones wait too
                await sender.client.publish("tests.other", b"something else")
            if number % 25 == 0:  # gives it time
                await asyncio.sleep(0.01)
            sender.send("tests.direct", text, headers={"number": str(number)})
        await eventually(lambda: len(heard.texts) == 100)
    assert heard.texts == sent
    assert heard.headers[7] == {"number": "7"}


async def test_a_direct_handler_that_raises_hears_the_next_message(url: str) -> None:
    heard = Heard()
    async with running(new_bus("listener", url)) as bus:
        await bus.listen("tests.raising", heard.take)
        for text in (b"bug", b"next"):
            bus.send("tests.raising", text)
        await eventually(lambda: heard.texts == [b"bug", b"next"])
        assert bus.metrics.errors._value.get() == 1
        assert bus.connected


async def test_a_direct_message_that_cannot_go_is_counted(url: str) -> None:
    bus = new_bus("sender", url)
    bus.send("tests.lost", b"before it is connected")
    assert bus.metrics.errors._value.get() == 1
    async with running(bus):
        bus.send("tests.lost", b"x" * (bus.max_payload_bytes + 1))
        await eventually(lambda: bus.metrics.errors._value.get() == 2)
        assert (bus.connected, bus.in_flight) == (True, 0)


async def test_direct_messages_go_on_after_the_server_was_away(own_server: NatsServer) -> None:
    heard = Heard()
    async with running(new_bus("listener", own_server.url)) as bus:
        await bus.listen("tests.away", heard.take)
        own_server.stop()
        await eventually(lambda: not bus.connected)
        bus.send("tests.away", b"meanwhile")
        own_server.start()
        await eventually(lambda: bus.connected)
        bus.send("tests.away", b"afterwards")
        await eventually(lambda: heard.texts == [b"meanwhile", b"afterwards"])


async def test_the_bus_comes_back_after_the_server_was_away(own_server: NatsServer) -> None:
    bus = new_bus("echo", own_server.url)
    echo(bus, "loopai.rpc.v1.test.j")
    async with running(bus):
        rpc = RpcClient(bus)
        own_server.kill()
        await eventually(lambda: not bus.connected)
        with pytest.raises(BusUnavailable):
            await rpc.call("loopai.rpc.v1.test.j", GetTask(task="x"), Text, timeout=30)
        own_server.start()
        await eventually(lambda: bus.connected)

        async def answered() -> bool:
            try:
                return (await rpc.call("loopai.rpc.v1.test.j", GetTask(task="x"), Text, timeout=1)).text == "x"
            except LoopaiError:
                return False

        async with asyncio.timeout(20):
            while not await answered():
                await asyncio.sleep(0.05)
