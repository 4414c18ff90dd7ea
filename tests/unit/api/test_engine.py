"""The execution engine with a sender that only remembers."""

import asyncio
from typing import Any

import msgspec
import pytest

from loopai_api.execution.engine import Execution, ExecutionEngine
from loopai_api.execution.metrics import ExecutionMetrics
from loopai_api.execution.rendering import Origin
from loopai_common.contracts.frames import MAX_FRAME_BYTES, MAX_FRAME_ITEMS, Frame, FrameMark
from loopai_common.errors import BusUnavailable, DeadlineExceeded, Internal, LoopaiError, NoExecutor, Overloaded
from tests.support.frames import part


class RememberingSender:
    def __init__(self) -> None:
        self.connected = True
        self.frames: dict[int, Frame] = {}

    def send(self, frame_id: int, payload: bytes, deadline: float) -> None:
        self.frames[frame_id] = msgspec.json.decode(payload, type=Frame)


class Remembered(Execution):
    __slots__ = ("caller", "name")

    def __init__(self, caller: "Caller", name: str) -> None:
        self.caller = caller
        self.name = name

    def answered(self, origin: Origin, payload: msgspec.Raw) -> None:
        assert self.name not in self.caller.outputs | self.caller.errors
        self.caller.outputs[self.name] = bytes(payload)

    def failed(self, error: LoopaiError) -> None:
        assert self.name not in self.caller.outputs | self.caller.errors
        self.caller.errors[self.name] = error


class Caller:
    """Collects what became of the executions it submitted."""

    def __init__(self, engine: ExecutionEngine) -> None:
        self.engine = engine
        self.outputs: dict[str, bytes] = {}
        self.errors: dict[str, LoopaiError] = {}

    def submit(
        self,
        name: str,
        *,
        task: str = "t",
        version: int = 0,
        value: bytes = b"1",
        seconds: float = 1.0,
        mark: FrameMark | None = None,
    ) -> None:
        program = task, version, int(seconds * 1000)
        self.engine.submit(Remembered(self, name), program, name, msgspec.Raw(value), mark)


@pytest.fixture
def sender() -> RememberingSender:
    return RememberingSender()


def make_engine(sender: RememberingSender, **changes: Any) -> ExecutionEngine:
    options: dict[str, Any] = {"queue_seconds": 0.5, "max_pending": 10_000, "max_frames": 4, **changes}
    engine = ExecutionEngine(sender, ExecutionMetrics(), **options)
    engine.start()
    return engine


async def one_turn() -> None:
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_what_arrives_in_one_turn_leaves_as_one_frame_grouped_by_program(sender: RememberingSender) -> None:
    caller = Caller(make_engine(sender))
    for name, task, version in (("a", "x", 0), ("b", "y", 0), ("c", "x", 0), ("d", "x", 2)):
        caller.submit(name, task=task, version=version, value=name.encode().join((b'"', b'"')))
    caller.submit("e", task="x", seconds=2)
    await one_turn()
    (frame,) = sender.frames.values()
    shape = [(g.task, g.version, g.timeout_ms, g.execution_ids) for g in frame.groups]
    assert shape == [("x", 0, 1000, ["a", "c"]), ("y", 0, 1000, ["b"]), ("x", 2, 1000, ["d"]), ("x", 0, 2000, ["e"])]
    assert [bytes(value) for value in frame.groups[0].inputs] == [b'"a"', b'"c"']


async def test_what_few_executions_have_goes_along_with_them_alone(sender: RememberingSender) -> None:
    caller = Caller(make_engine(sender))
    mark = FrameMark("mine", force_validation=True)
    for name, its in (("a", None), ("b", mark), ("c", None)):
        caller.submit(name, mark=its)
    await one_turn()
    assert [group.marks for group in sender.frames[0].groups] == [{1: mark}]


async def test_a_request_alone_does_not_wait_for_company(sender: RememberingSender) -> None:
    caller = Caller(make_engine(sender))
    caller.submit("a")
    await one_turn()
    assert len(sender.frames) == 1


async def test_answers_in_parts_reach_their_own_callers(sender: RememberingSender) -> None:
    engine = make_engine(sender)
    caller = Caller(engine)
    for name in "abc":
        caller.submit(name)
    await one_turn()
    engine.on_part(0, part((2, b"3")))
    assert caller.outputs == {"c": b"3"}
    engine.on_part(0, part((0, b"1"), (1, b"2")))
    assert caller.outputs == {"a": b"1", "b": b"2", "c": b"3"}
    assert engine.pending == 0


async def test_a_second_answer_and_an_unknown_index_are_ignored(sender: RememberingSender) -> None:
    engine = make_engine(sender)
    caller = Caller(engine)
    caller.submit("a")
    caller.submit("b")
    await one_turn()
    engine.on_part(0, part((0, b"1"), (0, b"9"), (7, b"9"), (-1, b"9")))
    engine.on_part(99, part((0, b"9")))
    assert caller.outputs == {"a": b"1"}
    assert engine.pending == 1


async def test_frames_are_bounded_in_items_and_bytes(sender: RememberingSender) -> None:
    caller = Caller(make_engine(sender, max_frames=100))
    for i in range(MAX_FRAME_ITEMS + 1):
        caller.submit(f"small-{i}")
    big = b'"' + b"x" * (MAX_FRAME_BYTES // 2) + b'"'
    for i in range(3):
        caller.submit(f"big-{i}", value=big)
    await one_turn()
    counts = [sum(len(g.inputs) for g in f.groups) for f in sender.frames.values()]
    assert sum(counts) == MAX_FRAME_ITEMS + 4
    assert max(counts) <= MAX_FRAME_ITEMS
    assert len(sender.frames) >= 4


async def test_load_makes_frames_larger_instead_of_more(sender: RememberingSender) -> None:
    engine = make_engine(sender, max_frames=2, slot_seconds=60, slot_seconds_an_item=60)
    caller = Caller(engine)
    for i in range(2):
        caller.submit(f"first-{i}")
        await one_turn()
    for i in range(50):
        caller.submit(f"later-{i}")
        await asyncio.sleep(0)
    assert len(sender.frames) == 2
    engine.on_part(0, part((0, b"1")))
    await one_turn()
    assert [len(g.inputs) for g in sender.frames[2].groups] == [50]


async def test_what_fills_a_frame_waits_for_no_other(sender: RememberingSender) -> None:
    caller = Caller(make_engine(sender, max_frames=1, slot_seconds=60, slot_seconds_an_item=60))
    caller.submit("first")
    await one_turn()
    for i in range(MAX_FRAME_ITEMS - 1):
        caller.submit(f"gathered-{i}")
    await one_turn()
    assert len(sender.frames) == 1
    for i in range(3):
        caller.submit(f"more-{i}")
    await one_turn()
    assert [sum(len(g.inputs) for g in frame.groups) for frame in sender.frames.values()] == [1, MAX_FRAME_ITEMS]


async def test_an_unanswered_frame_stops_holding_others_back(sender: RememberingSender) -> None:
    caller = Caller(make_engine(sender, max_frames=1))
    caller.submit("slow")
    await one_turn()
    caller.submit("next")
    async with asyncio.timeout(5):
        while len(sender.frames) < 2:
            await asyncio.sleep(0.001)


async def test_overload_is_refused_at_once(sender: RememberingSender) -> None:
    caller = Caller(make_engine(sender, max_pending=2))
    caller.submit("a")
    caller.submit("b")
    with pytest.raises(Overloaded):
        caller.submit("c")


async def test_no_connection_is_refused_at_once(sender: RememberingSender) -> None:
    caller = Caller(make_engine(sender))
    sender.connected = False
    with pytest.raises(BusUnavailable):
        caller.submit("a")


async def test_no_executor_is_told_after_one_short_retry(sender: RememberingSender) -> None:
    engine = make_engine(sender)
    caller = Caller(engine)
    caller.submit("a")
    await one_turn()
    engine.on_no_responders(0)
    assert caller.errors == {}
    async with asyncio.timeout(5):
        while len(sender.frames) < 2:
            await asyncio.sleep(0.001)
    engine.on_no_responders(1)
    assert isinstance(caller.errors["a"], NoExecutor)
    assert engine.pending == 0


async def test_a_lost_frame_is_sent_once_more_and_then_given_up(sender: RememberingSender) -> None:
    engine = make_engine(sender, queue_seconds=0.05)
    caller = Caller(engine)
    caller.submit("a", seconds=0.05)
    async with asyncio.timeout(10):
        while not caller.errors:
            await asyncio.sleep(0.005)
    assert isinstance(caller.errors["a"], DeadlineExceeded)
    assert len(sender.frames) == 2
    assert engine.pending == 0


async def test_an_answer_after_the_second_sending_counts(sender: RememberingSender) -> None:
    engine = make_engine(sender, queue_seconds=0.05)
    caller = Caller(engine)
    caller.submit("a", seconds=0.05)
    async with asyncio.timeout(10):
        while len(sender.frames) < 2:
            await asyncio.sleep(0.001)
    engine.on_part(0, part((0, b"9")))  # too late, and of the frame that was given up
    engine.on_part(1, part((0, b"1")))
    assert caller.outputs == {"a": b"1"}


UNREADABLE = [
    b"[2,[[",
    b"",
    b'[2,[["\xff","p",1,0,5,false,[],[]]]]',
    b'[2,[["t","p",1,0,5,false,[0],[]]]]',
    b"[" * 100_000,
]


@pytest.mark.parametrize("data", UNREADABLE, ids=range(len(UNREADABLE)))
async def test_an_unreadable_answer_fails_the_frame(sender: RememberingSender, data: bytes) -> None:
    engine = make_engine(sender)
    caller = Caller(engine)
    caller.submit("a")
    await one_turn()
    engine.on_part(0, data)
    assert isinstance(caller.errors["a"], Internal)


async def test_close_answers_whoever_still_waits(sender: RememberingSender) -> None:
    engine = make_engine(sender)
    caller = Caller(engine)
    caller.submit("a")
    await one_turn()
    caller.submit("b")
    engine.close()
    assert {type(e) for e in caller.errors.values()} == {BusUnavailable}
    assert set(caller.errors) == {"a", "b"}
    assert engine.pending == 0
