"""Programs, sinks and pools for the tests of the sandbox."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from loopai_common.contracts.frames import AnswerKind
from loopai_executor.domain import Counts, Jobs, Program
from loopai_executor.sandbox.limits import PoolLimits
from loopai_executor.sandbox.pool import Pool

PATIENCE_SECONDS = 30.0
"""Longer than anything takes on a busy machine; reached only when something hangs."""

LIMITS = PoolLimits(
    memory_bytes=64 << 20,
    output_bytes=1 << 20,
    load_timeout_ms=2000,
    max_programs=16,
    max_queued_items=10_000,
    spare_workers=2,
    degraded=False,
)


def program(code: str, *, task: str = "task", version: int = 1, **changes: Any) -> Program:
    """A program for the pool."""
    values: dict[str, Any] = {
        "task_id": task,
        "task_name": task,
        "program_id": f"program-of-{task}",
        "version": version,
        "code": code,
        "entry_point": "run",
        "input_schema": True,
        "output_schema": True,
        "sampling_rate": 0.0,
    }
    return Program(**(values | changes))


COUNTS_CALLS = "n = 0\ndef run(x):\n    global n\n    n += 1\n    return n\n"
"""A program that says how often it was called in the same globals."""


def worker_pid(pool: Pool, target: Program) -> int:
    """The process that the program is to run in, as the kernel numbers it; 0 while there is none."""
    worker = pool._residents[target.key].lane.worker
    if worker is None:
        return 0
    worker.resident_bytes()
    return worker._host_pid or 0


class Gathered:
    """A sink that keeps what it is told, as ``(kind, decoded payload)``."""

    def __init__(self, count: int, deadline: float = math.inf) -> None:
        self.deadline = deadline
        self.answers: list[tuple[int, Any]] = [(-1, None)] * count
        self._left = count
        self.done = asyncio.get_running_loop().create_future()

    def answer(self, indexes: Sequence[int], kind: int, payloads: Sequence[msgspec.Raw], latency_us: int) -> None:
        for index, payload in zip(indexes, payloads, strict=True):
            assert self.answers[index] == (-1, None), "answered twice"
            self.answers[index] = (AnswerKind(kind), msgspec.json.decode(payload))
            self._left -= 1
        if self._left == 0 and not self.done.done():
            self.done.set_result(None)


def submit(
    pool: Pool, target: Program, inputs: Sequence[Any], *, timeout_ms: int = 1000, deadline: float = math.inf
) -> Gathered:
    """Submits inputs, given as JSON bytes or as values."""
    sink = Gathered(len(inputs), deadline)
    raws = [msgspec.Raw(i if isinstance(i, bytes) else msgspec.json.encode(i)) for i in inputs]
    pool.submit(target, [Jobs(sink, timeout_ms, range(len(raws)), raws)])
    return sink


async def run(pool: Pool, target: Program, inputs: Sequence[Any], **options: Any) -> list[tuple[int, Any]]:
    """Submits inputs and waits for all answers."""
    sink = submit(pool, target, inputs, **options)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await sink.done
    return sink.answers


async def eventually(condition: Callable[[], Any]) -> None:
    """Waits until ``condition`` holds."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def started_pool(limits: PoolLimits = LIMITS, **options: Any) -> AsyncIterator[Pool]:
    """A pool that runs, with ``counts`` of its own."""
    pool = Pool(limits, Counts(), **options)
    await pool.start()
    try:
        yield pool
    finally:
        await pool.stop()
