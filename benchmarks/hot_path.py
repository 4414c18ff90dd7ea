"""``python -m benchmarks.hot_path [api] [executor] [worker]``: what one process's own code costs on the hot path.

No stack, no bus: the api's protocol is fed requests through a transport that keeps nothing and is answered from canned
parts, the executor's service is fed frames that locked workers run, and a worker is fed batches over its pipes. Each
figure is the fastest of many short rounds, so that it can be compared on a busy machine, where the figures of whole
systems cannot; it leaves out nats-py, and what the kernel does for sockets.
"""

import asyncio
import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import MappingProxyType, SimpleNamespace
from typing import Any, Final

import msgspec
import uvloop
from uvicorn import Config
from uvicorn.server import ServerState

from benchmarks.bench import Figure
from benchmarks.programs import TINY
from loopai_api.execution.engine import ExecutionEngine
from loopai_api.execution.metrics import ExecutionMetrics, HttpMetrics
from loopai_api.fastlane.lane import FastLane
from loopai_api.fastlane.protocol import FastLaneProtocol
from loopai_api.protocol import ConnectionLimits
from loopai_api.security import Guard
from loopai_common.contracts.frames import (
    FRAME_FORMAT,
    AnswerKind,
    Frame,
    FrameAnswerGroup,
    FrameGroup,
    FramePart,
)
from loopai_executor.domain import Counts, Program
from loopai_executor.sandbox.limits import PoolLimits
from loopai_executor.sandbox.pool import Pool
from loopai_executor.sandbox.protocol import LENGTH, LoadRequest, encode, frame
from loopai_executor.sandbox.worker import Worker
from loopai_executor.sandbox.zygote import preload
from loopai_executor.service import ExecutionService

NAME: Final = "hot_path"

_ROUNDS: Final = 400
_CONNECTIONS: Final = (64, 256)
_FRAMES: Final = ((1, 1), (32, 1), (64, 1), (64, 32))
"""Items, and programs that share them."""
_BATCHES: Final = (1, 2, 8, 64)
_BATCHES_A_ROUND: Final = 10
"""The kernel brings the clock of another process up to date when that waits, which may be after its answer was read."""
_LIMITS: Final = PoolLimits(
    memory_bytes=64 << 20,
    output_bytes=1 << 20,
    load_timeout_ms=5000,
    max_programs=64,
    max_queued_items=20_000,
    spare_workers=2,
    degraded=False,
)
_ID: Final = "01938f5e-3a6b-7c4d-9e1f-2a3b4c5d6e7f"
_INPUT: Final = msgspec.Raw(b'{"text":"Hello, this is a text of usual length, will you come to lunch?"}')
_SCHEMA: Final = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
_BODY: Final = b'{"input":%b}' % bytes(_INPUT)
_REQUEST: Final = (
    b"POST /api/v1/tasks/%b/execute HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (_ID.encode(), len(_BODY), _BODY)
)


class _Transport(asyncio.Transport):
    """Keeps nothing."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def is_closing(self) -> bool:
        return False


class _Sender:
    connected = True

    def __init__(self) -> None:
        self.frames: list[int] = []

    def send(self, frame_id: int, payload: bytes, deadline: float) -> None:
        self.frames.append(frame_id)


def api() -> Iterator[Figure]:
    """From the bytes of a request to its frame, and from the part of the reply to the bytes of the answer."""
    for connections in _CONNECTIONS:
        yield from uvloop.run(_api(connections))


async def _api(connections: int) -> list[Figure]:
    sender = _Sender()
    engine = ExecutionEngine(sender, ExecutionMetrics(), queue_seconds=1.0, max_pending=10_000, max_frames=2)
    engine.start()
    protocols = [_connection(engine) for _ in range(connections)]
    outputs = [msgspec.Raw(b'"ham"')] * connections
    answers = FrameAnswerGroup(_ID, _ID, 1, AnswerKind.SUCCESS, 12, False, list(range(connections)), outputs)
    part = encode(FramePart(FRAME_FORMAT, [answers]))
    received, answered = [], []
    for _ in range(_ROUNDS):
        requests = [bytes(bytearray(_REQUEST)) for _ in protocols]
        started = time.perf_counter()
        for protocol, request in zip(protocols, requests, strict=True):
            protocol.data_received(request)
        received.append(time.perf_counter() - started)
        while not sender.frames:
            await asyncio.sleep(0)
        started = time.perf_counter()
        engine.on_part(sender.frames.pop(), part)
        answered.append(time.perf_counter() - started)
        await asyncio.sleep(0)
    engine.close()
    note = f"{connections} connections"
    return [
        _figure(f"api, receive ({note})", min(received) / connections, "request"),
        _figure(f"api, answer ({note})", min(answered) / connections, "request"),
    ]


def _connection(engine: ExecutionEngine) -> FastLaneProtocol:
    async def no_task(reference: str) -> tuple[str, str]:
        return reference, reference

    metrics = HttpMetrics()
    lane = FastLane(engine, metrics, 1000, Guard(no_task), MappingProxyType({}))
    app = SimpleNamespace(limits=ConnectionLimits(), metrics=metrics, lane=lane, notices={}, stop_streams=lambda: None)
    config = Config(app="unused:app", interface="asgi3")
    config.loaded, config.loaded_app = True, app
    config.ws_protocol_class = None
    protocol = FastLaneProtocol(config, ServerState(), {})
    protocol.connection_made(_Transport())
    return protocol


class _Source:
    """Where the executor's service finds its programs, and leaves the parts of its replies."""

    def __init__(self, programs: list[Program]) -> None:
        self._programs = {program.task_name: program for program in programs}
        self.answered = asyncio.Event()

    def cached(self, task: str, version: int | None) -> Program:
        return self._programs[task]

    def opened(self) -> None:
        self.answered.clear()

    def publish(self, reply: str, part: FramePart) -> None:
        encode(part)

    def closed(self) -> None:
        self.answered.set()


class _NoRecorder:
    def admits(self) -> bool:
        return False


def executor() -> Iterator[Figure]:
    """CPU of the executor's own process for a frame, from its bytes to the bytes of its parts; the workers are real."""
    yield from uvloop.run(_executor())


async def _executor() -> list[Figure]:
    programs = [
        Program(f"{_ID}{n}", f"task{n}", _ID, 1, TINY, "run", _SCHEMA, {"enum": ["spam", "ham"]}, sampling_rate=0.0)
        for n in range(max(count for _, count in _FRAMES))
    ]
    pool = Pool(_LIMITS, Counts())
    await pool.start()
    source: Any = _Source(programs)
    recorder: Any = _NoRecorder()
    service = ExecutionService(source, pool, source, recorder, Counts(), default_timeout_ms=1000)
    figures = []
    for items, count in _FRAMES:
        each = items // count
        groups = [FrameGroup(p.task_name, 0, 1000, [_ID] * each, [_INPUT] * each) for p in programs[:count]]
        payload = encode(Frame(FRAME_FORMAT, groups))
        spent = []
        for _ in range(_ROUNDS):
            started = time.process_time()
            service.run_frame(payload, "reply", deadline=None)
            await source.answered.wait()
            spent.append(time.process_time() - started)
        figures.append(_figure(f"executor, frame of {items} for {count} programs", min(spent), "frame"))
    await pool.stop()
    return figures


def worker() -> Iterator[Figure]:
    """CPU of a worker for a batch, without the lockdown, which costs it nothing once it runs."""
    zones = preload()
    gc.collect()
    gc.freeze()
    to_worker, from_worker = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(to_worker[0], 0)
            os.dup2(from_worker[1], 1)
            Worker().run()
        finally:
            os._exit(1)
    clock = ~pid << 3 | 2  # the clock of another process's CPU time: clock_getcpuclockid(3)
    try:
        reads, writes = from_worker[0], to_worker[1]
        _ask(reads, writes, encode(LoadRequest(0, TINY, "run", _SCHEMA, {"enum": ["spam", "ham"]}, 5000, 1 << 20)))
        for size in _BATCHES:
            batch = encode([(0, 1000, [_INPUT] * size)])
            spent = []
            for _ in range(_ROUNDS):
                started = time.clock_gettime(clock)
                for _ in range(_BATCHES_A_ROUND):
                    _ask(reads, writes, batch)
                spent.append((time.clock_gettime(clock) - started) / _BATCHES_A_ROUND)
            yield _figure(f"worker, batch of {size}", min(spent), "batch")
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        del zones


def _ask(reads: int, writes: int, payload: bytes) -> None:
    os.write(writes, frame(payload))
    data = os.read(reads, 1 << 18)
    while len(data) < LENGTH.size + LENGTH.unpack_from(data)[0]:
        data += os.read(reads, 1 << 18)


def _figure(what: str, seconds: float, unit: str) -> Figure:
    return Figure(NAME, what, seconds * 1e6, f"µs/{unit}", f"fastest of {_ROUNDS}")


def main() -> None:
    """Prints the figures of the parts that the command line names, of all without any."""
    gc.collect()
    gc.freeze()  # as the services do
    parts: dict[str, Callable[[], Iterator[Figure]]] = {"worker": worker, "executor": executor, "api": api}
    for name in sys.argv[1:] or parts:
        for figure in parts[name]():
            print(f"{figure.name:<50}{figure.value:8.2f} {figure.unit}", flush=True)


if __name__ == "__main__":
    main()
