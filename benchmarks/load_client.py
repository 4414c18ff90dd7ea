"""A minimal HTTP/1.1 keep-alive load client on raw sockets. Run by :mod:`benchmarks.load`, prints one line of JSON.

Without a rate each connection posts when it has its answer (a closed loop). With one, requests are due at fixed times
on whichever connection is free, wait in line when none is, and count their latency from when they were due.
"""

import asyncio
import itertools
import json
import sys
import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from math import ceil
from pathlib import Path
from typing import cast

import uvloop


class Connection(asyncio.Protocol):
    """Posts, waits for the whole answer, and posts again until the deadline."""

    def __init__(self, requests: Iterator[bytes], deadline: float, done: "asyncio.Future[None]") -> None:
        self.latencies: list[float] = []
        self.errors = 0
        self._requests = requests
        self._deadline = deadline
        self._done = done
        self._buffer = b""
        self._sent_at = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Sends the first request."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not subclasses
        self._send()

    def data_received(self, data: bytes) -> None:
        """Sends the next request when the answer is complete."""
        self._buffer = self._buffer + data if self._buffer else data
        head_end = self._buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = self._buffer[:head_end].lower()
        length_at = head.find(b"\r\ncontent-length:")
        length = int(head[length_at + 17 :].split(b"\r\n", 1)[0]) if length_at >= 0 else 0
        if len(self._buffer) < head_end + 4 + length:
            return
        now = time.perf_counter()
        self.latencies.append(now - self._sent_at)
        self.errors += not head.startswith(b"http/1.1 200")
        self._buffer = b""
        if now < self._deadline:
            self._send()
        else:
            self._finish()

    def connection_lost(self, exc: Exception | None) -> None:
        """A connection that breaks before the deadline is an error."""
        if not self._done.done():
            self.errors += 1
            self._finish()

    def end(self) -> None:
        """Closes a connection that has no request."""
        self._done.set_result(None)
        if self._transport is not None:
            self._transport.close()

    def _send(self) -> None:
        assert self._transport is not None
        self._sent_at = time.perf_counter()
        self._transport.write(next(self._requests))

    def _finish(self) -> None:
        self.end()


class RatedConnection(Connection):
    """Posts what is due, and is given to ``free`` when nothing is."""

    def __init__(self, requests: Iterator[bytes], done: "asyncio.Future[None]", line: "Line") -> None:
        super().__init__(requests, 0.0, done)
        self._line = line

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Waits for its first request."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not subclasses
        self._line.free.append(self)

    def send_due(self, due: float) -> None:
        """Posts the next request, which was due at ``due``."""
        self._send()
        self._sent_at = due

    def _finish(self) -> None:
        if self._transport is not None and self._transport.is_closing():
            super()._finish()
        elif self._line.waiting:
            self.send_due(self._line.waiting.popleft())
        elif self._line.over:
            super()._finish()
        else:
            self._line.free.append(self)


class Line:
    """Connections without a request, and the times at which requests without a connection were due."""

    def __init__(self) -> None:
        self.free: list[RatedConnection] = []
        self.waiting: deque[float] = deque()
        self.over = False

    async def run(self, rate: float, seconds: float) -> None:
        """Makes ``rate`` requests a second due, evenly spaced, for ``seconds``."""
        started = time.perf_counter()
        made, total = 0, int(rate * seconds)
        while made < total:
            reached = min(total, int((time.perf_counter() - started) * rate) + 1)
            for number in range(made, reached):
                due = started + number / rate
                if self.free:
                    self.free.pop().send_due(due)
                else:
                    self.waiting.append(due)
            made = reached
            await asyncio.sleep(0.0005)
        self.over = True
        for connection in self.free:
            connection.end()


def _same(client: Connection) -> Connection:
    return client


async def run(host: str, port: int, lines: list[bytes], connections: int, seconds: float, rate: float) -> str:
    """Puts load on the server, at ``rate`` requests a second unless it is 0; returns the result as JSON."""
    loop = asyncio.get_running_loop()
    encoded = []
    for line in lines:
        path, _, body = line.partition(b"\t")
        head = f"POST {path.decode()} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        encoded.append(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    requests = itertools.cycle(encoded)
    due = Line()
    started = time.perf_counter()
    waiting = [loop.create_future() for _ in range(connections)]
    clients: list[Connection]
    if rate:
        clients = [RatedConnection(requests, done, due) for done in waiting]
    else:
        clients = [Connection(requests, started + seconds, done) for done in waiting]
    await asyncio.gather(*(loop.create_connection(partial(_same, client), host, port) for client in clients))
    if rate:
        started = time.perf_counter()
        await due.run(rate, seconds)
    await asyncio.gather(*waiting)
    elapsed = time.perf_counter() - started
    ordered = sorted(itertools.chain.from_iterable(client.latencies for client in clients))

    def percentile(share: float) -> float:
        return ordered[max(0, ceil(share * len(ordered)) - 1)] * 1000 if ordered else 0.0

    return json.dumps(
        {
            "requests": len(ordered),
            "errors": sum(client.errors for client in clients),
            "seconds": elapsed,
            "p50_ms": percentile(0.50),
            "p95_ms": percentile(0.95),
            "p99_ms": percentile(0.99),
        }
    )


if __name__ == "__main__":
    host, port, requests_file, connections, seconds, *more = sys.argv[1:]
    rate = float(more[0]) if more else 0.0
    lines = Path(requests_file).read_bytes().splitlines()
    print(uvloop.run(run(host, int(port), lines, int(connections), float(seconds), rate)))
