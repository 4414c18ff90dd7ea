"""A minimal HTTP/1.1 keep-alive load client on raw sockets. Run by :mod:`benchmarks.load`, prints one line of JSON."""

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Iterator
from functools import partial
from math import ceil
from pathlib import Path

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
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
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

    def _send(self) -> None:
        assert self._transport is not None
        self._sent_at = time.perf_counter()
        self._transport.write(next(self._requests))

    def _finish(self) -> None:
        self._done.set_result(None)
        if self._transport is not None:
            self._transport.close()


def _same(client: Connection) -> Connection:
    return client


async def run(host: str, port: int, path: str, bodies: list[bytes], connections: int, seconds: float) -> str:
    """Puts load on the server; returns the result as JSON."""
    loop = asyncio.get_running_loop()
    head = f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\nContent-Length: "
    requests = itertools.cycle([f"{head}{len(body)}\r\n\r\n".encode() + body for body in bodies])
    started = time.perf_counter()
    waiting = [loop.create_future() for _ in range(connections)]
    clients = [Connection(requests, started + seconds, done) for done in waiting]
    await asyncio.gather(*(loop.create_connection(partial(_same, client), host, port) for client in clients))
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
    host, port, path, bodies_file, connections, seconds = sys.argv[1:]
    lines = Path(bodies_file).read_bytes().splitlines()
    print(uvloop.run(run(host, int(port), path, lines, int(connections), float(seconds))))
