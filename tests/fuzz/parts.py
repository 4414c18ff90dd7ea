"""The api reads any part of a frame's reply, and tells every caller exactly once."""

import asyncio

import msgspec

from loopai_api.execution.engine import Execution, ExecutionEngine
from loopai_api.execution.metrics import ExecutionMetrics
from loopai_api.execution.rendering import Origin, render_execution
from loopai_common.contracts.frames import FRAME_FORMAT, FrameAnswerGroup, FramePart
from loopai_common.errors import LoopaiError
from tests.fuzz.invariants import Choices, Stage, require

_EXECUTIONS = 4
_PAYLOADS = (
    b'"spam"',
    b'["limit_time","no time"]',
    b'["crashed",1]',
    b'{"code":"input_schema_violation","message":"m","details":[{"field":"a","message":"x","code":"type"}]}',
    b'{"code":"nobody knows","message":"m"}',
    b'"\xff"',
    b"null",
    b"[" * 500 + b"]" * 500,
)


def _part(kind: int, latency_us: int, indexes: list[int], payload: bytes) -> bytes:
    payloads = [msgspec.Raw(payload)] * len(indexes)
    group = FrameAnswerGroup("id", "program", 1, kind, latency_us, kind > 0, indexes, payloads)
    return b"\x00" + msgspec.json.encode(FramePart(FRAME_FORMAT, [group]))


SEEDS = (
    *(_part(i % 5, 5, [i % 4], payload) for i, payload in enumerate(_PAYLOADS)),
    _part(0, 10, [0, 0, 1, -1, 7, 2, 3], b"1"),
    b'\x00[2,[["i","p",1,0,5,false,[0,1],[1]]]]',
    b"\x00[2,[" + b"[" * 2000,
    b"\x01" + bytes(range(64)),
)
DICTIONARY = (
    b"[2,[",
    b'["i","p",1,0,5,false,',
    b"[0,1],",
    b"]]]",
    b"-1",
    b"1e999",
    b"18446744073709551616",
    b"\\u0000",
)

_stage = Stage()


class _NullSender:
    """A :class:`~loopai_api.execution.engine.FrameSender`; answers come from the fuzzer."""

    connected = True

    def send(self, frame_id: int, payload: bytes, deadline: float) -> None:
        """Nobody is there."""


class _Caller(Execution):
    __slots__ = ("told",)

    def __init__(self) -> None:
        self.told = 0

    def answered(self, origin: Origin, payload: msgspec.Raw) -> None:
        self.told += 1
        try:
            render_execution(origin, payload, self.execution_id, None, "spam")
        except LoopaiError:
            return

    def failed(self, error: LoopaiError) -> None:
        self.told += 1


def fuzz(data: bytes) -> None:
    """Reading parts raises nothing; each caller is told once, at the latest when the engine closes."""
    _stage.run(_scenario(Choices(data)))


async def _scenario(choices: Choices) -> None:
    engine = ExecutionEngine(_NullSender(), ExecutionMetrics(), queue_seconds=10, max_pending=100, max_frames=2)
    engine.start()
    callers = [_Caller() for _ in range(_EXECUTIONS)]
    for caller in callers:
        engine.submit(caller, ("t", 0, 1000), "e", msgspec.Raw(b"1"))
    await asyncio.sleep(0)
    raw = choices.below(2) == 0
    while not choices.exhausted:
        engine.on_part(choices.below(2) if not raw else 0, choices.rest() if raw else _built(choices))
        require(engine.pending == sum(not c.told for c in callers), "what is pending is what nobody was told yet")
    engine.close()
    require(all(caller.told == 1 for caller in callers), "every caller is told exactly once")
    require(engine.pending == 0, "nothing is pending in a closed engine")


def _built(choices: Choices) -> bytes:
    """A part with the right shape and odd content."""
    groups = []
    for _ in range(choices.below(5)):
        count = choices.below(3)
        names = choices.some(6).decode("latin-1")
        group = FrameAnswerGroup(
            names,
            names,
            choices.below(3),
            (0, 1, 2, 3, 4, -1, 2**70)[choices.below(7)],
            (0, 5, -1, 2**63)[choices.below(4)],
            bool(choices.below(2)),
            [choices.below(7) - 1 for _ in range(count)],
            [msgspec.Raw(_PAYLOADS[choices.below(len(_PAYLOADS))]) for _ in range(count)],
        )
        if choices.below(20) == 0:
            group.indexes.append(0)
        groups.append(group)
    return msgspec.json.encode(FramePart(choices.below(4), groups))
