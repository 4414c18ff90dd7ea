"""The sandbox without a bus: to fork a worker, to load a program into it, and what isolation costs an execution."""

import asyncio
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from benchmarks import programs
from benchmarks.bench import Bench, Figure
from benchmarks.processes import cpu_seconds
from loopai_client import demo
from loopai_common.contracts.frames import AnswerKind
from loopai_common.contracts.tasks import Isolation
from loopai_executor.domain import Jobs, Program
from loopai_executor.sandbox.loading import load
from loopai_executor.sandbox.pool import Pool
from tests.support.sandbox import LIMITS, PATIENCE_SECONDS, program, started_pool

NAME = "sandbox"

_WORKERS = 20
_BATCH = 64
_SECONDS = 1.0


def run(bench: Bench) -> Iterator[Figure]:
    """Forks and loads workers, then runs full batches in one, beside the same program in this process."""
    yield from asyncio.run(_measure())


async def _measure() -> list[Figure]:
    forks, loads = [], []
    async with started_pool() as pool:
        for number in range(_WORKERS):
            started = time.perf_counter()
            worker = await pool._fork()
            forked = time.perf_counter()
            answer = await load(worker, 0, program(programs.classifier(number)), LIMITS)
            loads.append((time.perf_counter() - forked) * 1000)
            forks.append((forked - started) * 1000)
            worker.kill()
            if answer[0] != AnswerKind.SUCCESS:
                raise RuntimeError(f"a program does not load: {answer!r}")
        isolated = await _isolated(pool, program(programs.TINY, task="tiny"))
        renewed = program(programs.TINY, task="renewed", isolation=Isolation.PROCESS)
        inputs = _inputs()
        own_worker = [await _batch_ms(pool, renewed, inputs) for _ in range(_WORKERS)]
        own_worker_cpu = await _isolated(pool, renewed)
    alone = _alone()
    note = f"median of {_WORKERS}"
    batch = f"CPU of executor and worker, batches of {_BATCH}, one in flight"
    return [
        Figure(NAME, "fork a locked worker", statistics.median(forks), "ms", note),
        Figure(NAME, "load a program into it", statistics.median(loads), "ms", note),
        Figure(NAME, "execution in the sandbox", isolated, "µs", batch),
        Figure(NAME, "execution in process", alone, "µs", "the same program, JSON decoded and encoded"),
        Figure(NAME, "isolation", isolated - alone, "µs", batch),
        Figure(NAME, "batch in a worker of its own, one after the other", statistics.median(own_worker), "ms", note),
        Figure(NAME, "execution under isolation: process", own_worker_cpu, "µs", batch),
    ]


class _Batch:
    """A sink that says when a whole batch is answered."""

    deadline = float("inf")

    def __init__(self) -> None:
        self._left = _BATCH
        self.done = asyncio.get_running_loop().create_future()

    def answer(self, indexes: Sequence[int], kind: int, payloads: Sequence[msgspec.Raw], latency_us: int) -> None:
        if kind != AnswerKind.SUCCESS:
            raise RuntimeError(f"an execution failed: {bytes(payloads[0])!r}")
        self._left -= len(indexes)
        if self._left == 0:
            self.done.set_result(None)


async def _batch_ms(pool: Pool, target: Program, inputs: list[msgspec.Raw]) -> float:
    started = time.perf_counter()
    await _run_batch(pool, target, inputs)
    return (time.perf_counter() - started) * 1000


async def _run_batch(pool: Pool, target: Program, inputs: list[msgspec.Raw]) -> None:
    sink = _Batch()
    pool.submit(target, [Jobs(sink, 1000, range(len(inputs)), inputs)])
    async with asyncio.timeout(PATIENCE_SECONDS):
        await sink.done


async def _isolated(pool: Pool, target: Program) -> float:
    """CPU microseconds an execution, of this process and all its descendants."""
    inputs = _inputs()
    executions, started, cpu = 0, 0.0, 0.0
    while not started or time.perf_counter() - started < _SECONDS:
        if executions == 2 * _BATCH and not started:
            executions, started, cpu = (
                0,
                time.perf_counter(),
                _cpu_seconds(),
            )  # loaded, and the size of its batches found
        await _run_batch(pool, target, inputs)
        executions += _BATCH
    return (_cpu_seconds() - cpu) * 1e6 / executions


def _cpu_seconds() -> float:
    return cpu_seconds({"all": [os.getpid()]})["all"]


def _alone() -> float:
    scope: dict[str, Any] = {}
    exec(compile(programs.TINY, "program.py", "exec"), scope)
    call: Callable[[Any], Any] = scope["run"]
    inputs = _inputs()
    executions, started, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - started < _SECONDS:
        for value in inputs:
            msgspec.json.encode(call(msgspec.json.decode(value)))
        executions += len(inputs)
    return (time.process_time() - cpu) * 1e6 / executions


def _inputs() -> list[msgspec.Raw]:
    return [msgspec.Raw(msgspec.json.encode({"text": message.text})) for message in demo.messages()[:_BATCH]]
