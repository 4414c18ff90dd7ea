"""The executor without the api: frames over NATS, a few in flight."""

import asyncio
import time
from collections.abc import Iterator

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg

from benchmarks import programs
from benchmarks.bench import Bench, Figure
from benchmarks.processes import cpu_seconds
from loopai_client import demo
from loopai_common.contracts import subjects
from loopai_common.contracts.frames import FRAME_FORMAT, AnswerKind, Frame, FrameGroup, FramePart

NAME = "executor_alone"

_SIZES = (64, 256)
_IN_FLIGHT = 4
_STALL_SECONDS = 20.0

_decode = msgspec.json.Decoder(FramePart).decode


def run(bench: Bench) -> Iterator[Figure]:
    """Throughput and CPU an execution of the executor (its workers included) and of nats-server, by size of frame."""
    tiny = programs.publish_tiny(bench.stack.nats_url)
    pids = {name: [bench.stack.pids[name]] for name in ("executor", "nats-server")}
    texts = [message.text for message in demo.messages()[: max(_SIZES)]]
    for size in _SIZES:
        inputs = [msgspec.Raw(msgspec.json.encode({"text": text})) for text in texts[:size]]
        payload = msgspec.json.encode(Frame(FRAME_FORMAT, [FrameGroup(tiny.task_id, 0, 1000, ["e"] * size, inputs)]))

        async def work(client: Client, payload: bytes = payload, size: int = size) -> tuple[int, float]:
            await _drive(client, payload, size, 0.5)
            return await _drive(client, payload, size, bench.seconds)

        before = cpu_seconds(pids)
        executions, seconds = programs.connected(bench.stack.nats_url, work)
        used = {name: spent - before[name] for name, spent in cpu_seconds(pids).items()}
        note = f"frames of {size}, {_IN_FLIGHT} in flight"
        yield Figure(NAME, f"executions, frames of {size}", executions / seconds, "1/s", note)
        # The warm-up's half second is part of the CPU; it is part of the executions too.
        share = (seconds + 0.5) / seconds
        for name, spent in used.items():
            yield Figure(NAME, f"{name}, frames of {size}", spent * 1e6 / (executions * share), "µs/execution", note)


async def _drive(client: Client, payload: bytes, size: int, seconds: float) -> tuple[int, float]:
    """Keeps frames in flight for ``seconds``; returns the executions that succeeded, and the seconds it took."""
    inbox = client.new_inbox()
    left: dict[str, int] = {}
    answered = 0
    numbers = iter(range(1 << 62))
    done = asyncio.Event()
    started = time.perf_counter()

    async def send() -> None:
        reply = f"{inbox}.{next(numbers)}"
        left[reply] = size
        await client.publish(subjects.FRAMES, payload, reply=reply)

    async def on_part(message: Msg) -> None:
        nonlocal answered
        groups = _decode(message.data).groups
        if any(group.kind != AnswerKind.SUCCESS for group in groups):
            raise RuntimeError(f"an execution failed: {message.data[:200]!r}")
        count = sum(len(group.payloads) for group in groups)
        answered += count
        left[message.subject] -= count
        if left[message.subject] > 0:
            return
        del left[message.subject]
        if time.perf_counter() - started < seconds:
            await send()
        elif not left:
            done.set()

    subscription = await client.subscribe(f"{inbox}.*", cb=on_part)
    await client.flush()
    for _ in range(_IN_FLIGHT):
        await send()
    async with asyncio.timeout(seconds + _STALL_SECONDS):
        await done.wait()
    await subscription.unsubscribe()
    return answered, time.perf_counter() - started
