"""Batches on the engine, with a sender that answers as the test says."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from loopai_api.execution.batch_requests import BatchItem, BrokenItem, parse_batch, parse_item
from loopai_api.execution.batches import BatchMemory, BatchService, BatchStream
from loopai_api.execution.engine import ExecutionEngine
from loopai_api.execution.metrics import BatchMetrics, ExecutionMetrics
from loopai_api.models import BatchStreamOptions
from loopai_common.contracts.frames import AnswerKind, Frame
from loopai_common.errors import MalformedJson, Overloaded, TaskNotFound, ValidationFailed
from loopai_common.runtime.context import new_context
from tests.support.frames import asked, part

MEMORY_BYTES = 1_000_000

Lines = AsyncIterator[tuple[int, bytes | None]]


class Executor:
    """Answers each item with its input, once it is let; by default at once."""

    def __init__(self) -> None:
        self.connected = True
        self.engine: ExecutionEngine
        self.held = False
        self.under_way: dict[str, tuple[int, int]] = {}
        self.most_under_way = 0
        self.versions: list[int] = []
        self.refuse_with: str | None = None
        self.refusals = 0

    def send(self, frame_id: int, payload: bytes, deadline: float) -> None:
        frame = msgspec.json.decode(payload, type=Frame)
        for index, group, _, value in asked(frame):
            self.versions.append(group.version)
            self.under_way[bytes(value).decode()] = (frame_id, index)
        self.most_under_way = max(self.most_under_way, len(self.under_way))
        if not self.held:
            for name in list(self.under_way):
                asyncio.get_running_loop().call_soon(self.answer, name)

    def answer(self, name: str) -> None:
        frame_id, index = self.under_way.pop(name)
        if self.refuse_with is None:
            answer = part((index, name.encode()), origin=("id", "program", 3))
        else:
            self.refusals += 1
            failure = {"code": self.refuse_with, "message": "refused", "retryable": True, "details": []}
            payload = json.dumps(failure).encode()
            answer = part((index, payload), kind=AnswerKind.REFUSED, latency_us=0, origin=("", "", 0))
        self.engine.on_part(frame_id, answer)


@pytest.fixture
def executor() -> Executor:
    return Executor()


def make_service(executor: Executor, *, max_pending: int = 10_000) -> BatchService:
    metrics = ExecutionMetrics()
    engine = ExecutionEngine(executor, metrics, queue_seconds=30, max_pending=max_pending, max_frames=1000)
    engine.start()
    executor.engine = engine
    return BatchService(engine, BatchMetrics(), 1000, BatchMemory(MEMORY_BYTES))


def body(count: int, **more: Any) -> bytes:
    return json.dumps({"items": [{"id": f"i{n}", "input": n} for n in range(count)], **more}).encode()


async def run(service: BatchService, data: bytes) -> dict[str, Any]:
    with service.memory.reserved(len(data)) as room:
        answer: dict[str, Any] = json.loads(await service.run("t", parse_batch(data), new_context(), room))
    return answer


async def lines(count: int) -> Lines:
    for number in range(count):
        yield number + 1, b'{"id":"i%d","input":%d}' % (number, number)


def stream(service: BatchService, source: Lines, concurrency: int = 100) -> BatchStream:
    return service.stream("t", source, BatchStreamOptions(max_concurrency=concurrency), new_context())


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


async def test_no_more_items_are_under_way_than_the_batch_allows(executor: Executor) -> None:
    answer = await run(make_service(executor), body(200, max_concurrency=7))
    assert answer["success_count"] == 200
    assert executor.most_under_way == 7


async def test_the_first_item_settles_the_version_for_all(executor: Executor) -> None:
    answer = await run(make_service(executor), body(20))
    assert answer["version"] == 3
    assert executor.versions == [0] + [3] * 19


async def test_a_batch_waits_for_room_in_the_engine(executor: Executor) -> None:
    service = make_service(executor, max_pending=3)
    answer = await run(service, body(50))
    assert answer["success_count"] == 50
    assert executor.most_under_way == 3


async def test_a_batch_waits_for_room_in_the_executors(executor: Executor) -> None:
    executor.refuse_with = "overloaded"
    service = make_service(executor)
    running = asyncio.create_task(run(service, body(5)))
    await until(lambda: executor.refusals >= 2)
    executor.refuse_with = None
    assert (await running)["success_count"] == 5


async def test_a_task_that_is_not_there_ends_the_batch_before_its_second_item(executor: Executor) -> None:
    executor.refuse_with = "task_not_found"
    with pytest.raises(TaskNotFound):
        await run(make_service(executor), body(5))
    assert executor.refusals == 1


async def test_outputs_beyond_the_bound_are_left_out(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loopai_api.execution.batches.MAX_OUTPUT_BYTES", 5)
    answer = await run(make_service(executor), body(8, max_concurrency=1))
    assert [r["output"] for r in answer["results"]] == [0, 1, 2, 3, 4, None, None, None]
    assert {r["error_code"] for r in answer["results"][5:]} == {"body_too_large"}


async def test_a_stream_answers_in_order_whatever_finishes_first(executor: Executor) -> None:
    executor.held = True
    found = stream(make_service(executor), lines(3))
    await until(lambda: len(executor.under_way) == 3)
    executor.answer("2")
    executor.answer("1")
    first = asyncio.create_task(anext(found))
    done, _ = await asyncio.wait({first}, timeout=0.05)
    assert not done, "a later line was answered before the first one"
    executor.answer("0")
    said = await first
    async for chunk in found:
        said += chunk
    assert [json.loads(line)["output"] for line in said.splitlines()] == [0, 1, 2]
    await found.close()


async def test_a_stream_reads_no_further_than_its_window(executor: Executor) -> None:
    executor.held = True
    taken = 0

    async def endless() -> Lines:
        nonlocal taken
        while True:
            taken += 1
            yield taken, b'{"id":"x","input":%d}' % taken

    found = stream(make_service(executor), endless(), 5)
    await until(lambda: len(executor.under_way) == 5)
    executor.answer("3")  # is done, but its result cannot be sent before the first one's
    await asyncio.sleep(0.05)
    assert taken == 5
    executor.answer("1")
    assert json.loads((await anext(found)).splitlines()[0])["output"] == 1
    await until(lambda: taken == 6)
    await found.close()
    assert taken == 6


async def test_closing_a_stream_ends_everything_that_it_began(executor: Executor) -> None:
    executor.held = True
    before = asyncio.all_tasks()
    found = stream(make_service(executor), lines(10), 4)
    await until(lambda: len(executor.under_way) == 4)
    await found.close()
    assert asyncio.all_tasks() == before


async def test_lines_that_end_early_end_the_stream_with_their_error(executor: Executor) -> None:
    async def broken() -> Lines:
        yield 1, b'{"id":"a","input":1}'
        raise ConnectionResetError

    found = stream(make_service(executor), broken())
    with pytest.raises(ConnectionResetError):
        async for _ in found:
            pass
    await found.close()


def test_a_line_says_what_is_wrong_with_it() -> None:
    item = parse_item(b'{"id":"a","input": {"x": 1.50} }')
    assert isinstance(item, BatchItem)
    assert bytes(item.input) == b'{"x": 1.50}'
    for line, item_id, error in (
        (b"{", None, MalformedJson),
        (b"[1]", None, MalformedJson),
        (b'{"id":"a","input":1,"input":2}', None, MalformedJson),
        (b'{"id":"a","input":1e999}', None, MalformedJson),
        (b'{"id":"a"}', "a", ValidationFailed),
        (b'{"id":"a","input":1,"force_validation":"yes"}', "a", ValidationFailed),
        (b'{"id":"","input":1}', None, ValidationFailed),
    ):
        broken = parse_item(line)
        assert isinstance(broken, BrokenItem), line
        assert (broken.id, type(broken.error)) == (item_id, error), line


def test_very_many_violations_are_counted_and_the_first_ones_listed() -> None:
    with pytest.raises(ValidationFailed) as caught:
        parse_batch(json.dumps({"items": [{"id": "same", "input": 1}] * 1001}).encode())
    assert "1000 rules" in caught.value.message
    assert len(caught.value.details) == 100


async def test_batches_share_the_memory_and_give_it_back(executor: Executor) -> None:
    memory = make_service(executor).memory
    with memory.reserved(600_000), pytest.raises(Overloaded), memory.reserved(600_000):
        pytest.fail("there was room for both")
    with pytest.raises(KeyError), memory.reserved(MEMORY_BYTES):
        raise KeyError
    with memory.reserved(MEMORY_BYTES):
        pass


async def test_outputs_take_of_the_memory_and_fail_alone_when_there_is_none(executor: Executor) -> None:
    service = make_service(executor)
    data = json.dumps({"items": [{"id": f"i{n}", "input": f"{n}" + "x" * 297} for n in range(10)]}).encode()
    with service.memory.reserved(MEMORY_BYTES - len(data) - 1_000):
        results = (await run(service, data))["results"]
    assert [r["error_code"] for r in results] == [None] * 3 + ["overloaded"] * 7
    with service.memory.reserved(MEMORY_BYTES):
        pass
