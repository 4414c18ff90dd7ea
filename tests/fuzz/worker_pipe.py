"""The executor survives any bytes from a worker, and every execution gets exactly one well-formed answer.

The pool is the executor's own; its workers are pipes at whose other end the fuzzer sits.
"""

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from loopai_common.contracts.execution import ExecutionError
from loopai_common.contracts.failure import Failure
from loopai_common.contracts.frames import AnswerKind
from loopai_executor.domain import Counts, Jobs, Program
from loopai_executor.sandbox.limits import PoolLimits
from loopai_executor.sandbox.pool import Pool
from loopai_executor.sandbox.process import Ticker, WorkerProcess, death_of
from loopai_executor.sandbox.protocol import frame
from tests.fuzz.invariants import Choices, Stage, require

_LIMITS = PoolLimits(
    memory_bytes=64 << 20,
    output_bytes=2048,
    load_timeout_ms=1000,
    max_programs=2,
    max_queued_items=100,
    spare_workers=2,
    degraded=False,
)
_PROGRAM = Program("task", "task", "program", 1, "", "run", True, True, 0.0)
_JOBS = 10
_EXIT_CODES = (-9, -31, 0, 1, -24, -11)
_ANSWERS = (
    b'[0,["spam"]]',
    b"[0,[1]]",
    b"[0,[1,2,3]]",
    b"[0,[]]",
    b'[1,[["program_raised","x"]]]',
    b'[1,[["program_raised","x"],["program_raised","y"],["unknown","z"]]]',
    b'[2,[["limit_time","x"]]]',
    b'[1,[["unknown","x"]]]',
    b'[3,[{"code":"input_schema_violation","message":"m"}]]',
    b'[3,[{"code":"internal","message":"m"}]]',
    b'[0,["\xff"]]',
    b'[1,["\xff"]]',
    b"[0,[1e999]]",
    b"[-1,[1]]",
    b"[99999999999999999999,[1]]",
    b"[0,[" + b"[" * 300 + b"]" * 300 + b"]]",
)
_DONE = frame(b"[[0,[null]]]")
SEEDS = (
    bytes([1, 1, 1, 8, *[0] * 8, 1, 2, 1, 1]),
    bytes([1, 1, 1, 3, 1, 2, 3, 1, 5, 4, 5, 6, 7, 8]),
    b"\x00\x00" + _DONE + frame(b"[[0,[1]]]") + frame(b"[[0,[1]]]"),
    b"\x00\x02" + b"\xff\xff\xff\xff",
    b"\x00\x02" + frame(b"[" * 1500),
    bytes(range(2, 60)),
)
DICTIONARY = (b"[[0,[", b"]]]", b'[1,[["crashed","', b'"]]]', b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", b"1e999")

_stage = Stage()


def fuzz(data: bytes) -> None:
    """Nothing escapes, nothing hangs, nobody is answered twice."""
    _stage.run(_scenario(_script(Choices(data))))


class _Script:
    """What the workers say, one chunk for each time that they are written to, and how they end."""

    def __init__(self, chunks: list[bytes], exit_code: int) -> None:
        self.chunks = deque(chunks)
        self.exit_code = exit_code


def _script(choices: Choices) -> _Script:
    exit_code = _EXIT_CODES[choices.below(len(_EXIT_CODES))]
    chunks = [_DONE] if choices.below(4) else []
    while not choices.exhausted and len(chunks) < 30:
        chunks.append(_chunk(choices))
    return _Script(chunks, exit_code)


def _chunk(choices: Choices) -> bytes:
    match choices.below(5):
        case 0:
            return choices.rest()
        case 1 | 2:
            return frame(b"[%b]" % b",".join(_ANSWERS[choices.below(len(_ANSWERS))] for _ in range(choices.below(11))))
        case 3:
            return frame(choices.some(200))
        case _:
            whole = frame(b"[[0,[1]]]") * (1 + choices.below(3))
            return whole[: choices.below(len(whole) + 1)]


class _ScriptedPool(Pool):
    """The real pool, whose workers read from the fuzzer instead of from a fork of the zygote."""

    def __init__(self, script: _Script) -> None:
        super().__init__(_LIMITS, Counts())
        self._script = script
        self._ends: list[_Worker] = []

    async def take(self) -> WorkerProcess:
        end = _Worker(len(self._ends), self._script)
        self._ends.append(end)
        return end.process

    async def stop(self) -> None:
        await super().stop()
        for end in self._ends:
            end.close()


class _Worker:
    """A worker's end of its two pipes."""

    def __init__(self, number: int, script: _Script) -> None:
        self._reads, their_writes = os.pipe()
        their_reads, self._writes = os.pipe()
        os.set_blocking(self._reads, False)
        os.set_blocking(self._writes, False)
        self._script = script
        self._loop = asyncio.get_running_loop()
        self._open = True
        self.process = WorkerProcess(number, their_reads, their_writes, Ticker(), output_bytes=_LIMITS.output_bytes)
        # The kernel's word on how it ends, which otherwise the zygote brings.
        self.process.exited(death_of(script.exit_code))
        self._loop.add_reader(self._reads, self._asked)

    def _asked(self) -> None:
        if not os.read(self._reads, 1 << 20):
            self.close()
        else:
            self._speak()

    def _speak(self) -> None:
        """Says the next chunk, and the ones after it while the executor waits for more; then it dies."""
        if not self._open:
            return
        if not self._script.chunks:
            self.close()
            return
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self._writes, self._script.chunks.popleft())
        self._soon(self._speak_again, turns=4)

    def _speak_again(self) -> None:
        if self.process.busy:
            self._speak()

    def _soon(self, call: Callable[[], None], *, turns: int) -> None:
        self._loop.call_soon(call if turns == 0 else partial(self._soon, call, turns=turns - 1))

    def close(self) -> None:
        """Goes away, as a worker that died."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._reads)
            os.close(self._reads)
            os.close(self._writes)


class _Sink:
    """Checks each outcome as it comes."""

    deadline = float("inf")

    def __init__(self, count: int) -> None:
        self.left = set(range(count))
        self.done = asyncio.get_running_loop().create_future()

    def answer(self, indexes: Sequence[int], kind: int, payloads: Sequence[msgspec.Raw], latency_us: int) -> None:
        require(self.left.issuperset(indexes), "nobody is answered twice")
        self.left.difference_update(indexes)
        require(len(indexes) == len(payloads), "each has a payload of its own")
        for payload in payloads:
            _well_formed(kind, bytes(payload))
        require(latency_us >= 0, "time does not run backwards")
        if not self.left:
            self.done.set_result(None)


def _well_formed(kind: int, payload: bytes) -> None:
    payload.decode("utf-8")
    if kind == AnswerKind.SUCCESS:
        msgspec.json.decode(payload, type=msgspec.Raw)
    elif kind == AnswerKind.REFUSED:
        Failure.model_validate_json(payload)
    else:
        require(kind in (AnswerKind.ERROR, AnswerKind.TIMEOUT), "the kind of an answer is one of four")
        error: tuple[ExecutionError, Any] = msgspec.json.decode(payload, type=tuple[ExecutionError, str])
        require(len(error[1]) <= 1000, "what a worker says is bounded")


async def _scenario(script: _Script) -> None:
    pool = _ScriptedPool(script)
    sink = _Sink(_JOBS)
    try:
        inputs = [msgspec.Raw(b"1")] * _JOBS
        pool.submit(_PROGRAM, Jobs(sink, 500, range(_JOBS), inputs).split(_JOBS // 2))
        await sink.done
        require(pool.queued == 0, "what is queued is what was not answered")
    finally:
        await pool.stop()
