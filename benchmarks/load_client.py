"""A minimal HTTP/1.1 keep-alive load client on raw sockets, run by :mod:`benchmarks.load`.

Reads its plan, one line of JSON, prints its results as another. Without stages each connection posts when it has its
answer (a closed loop). With stages requests are due at set times (an open loop) on whichever connection is free, wait
in line when none is, and count their latency from when they were due; one that nobody could send within a second is
given up and counted as ``dropped``. A connection that breaks is made again.
"""

import asyncio
import itertools
import json
import ssl
import sys
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from typing import Any, cast

import uvloop

from benchmarks.schedule import Schedule, Stage
from benchmarks.tally import Tally

_PATIENCE_SECONDS = 1.0
_GRACE_SECONDS = 10.0
_RECONNECT_SECONDS = 0.1
_TICK_SECONDS = 0.001  # uvloop counts whole milliseconds: less would not sleep at all, and take a core


class Connection(asyncio.Protocol, ABC):
    """Posts requests, one at a time, and reads each answer whole."""

    def __init__(self, requests: Iterator[bytes]) -> None:
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.busy = False
        self._requests = requests
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    @abstractmethod
    def _free(self) -> None:
        """Called when the connection can take a request."""

    @abstractmethod
    def _ended(self, end: str) -> None:
        """Called with the status of an answer, or a word for what came in its place."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Takes the first request."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not subclasses
        self._free()

    def data_received(self, data: bytes) -> None:
        """Takes the next request when the answer is complete. What comes unasked, before a close, is no answer."""
        if not self.busy:
            return
        self._buffer = self._buffer + data if self._buffer else data
        head_end = self._buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = self._buffer[:head_end].lower()
        length_at = head.find(b"\r\ncontent-length:")
        length = int(head[length_at + 17 :].split(b"\r\n", 1)[0]) if length_at >= 0 else 0
        if len(self._buffer) < head_end + 4 + length:
            return
        self._buffer = b""
        self.busy = False
        self._ended(head[9:12].decode())
        if b"\r\nconnection: close" in head:
            self.close()
        else:
            self._free()

    def connection_lost(self, exc: Exception | None) -> None:
        """An answer that has not come will not."""
        if self.busy:
            self.busy = False
            self._ended("broken")
        if not self.lost.done():
            self.lost.set_result(None)

    def close(self) -> None:
        """Closes the connection."""
        if self._transport is not None:
            self._transport.close()

    def _send(self) -> None:
        assert self._transport is not None
        self.busy = True
        self._transport.write(next(self._requests))


class ClosedLoop:
    """Connections that post again and again, until a moment."""

    def __init__(self, seconds: float) -> None:
        self.tally = Tally()
        self.deadline = time.perf_counter() + seconds

    async def run(self, server: "Server", connections: int) -> dict[str, Any]:
        """Returns the results."""
        started = time.perf_counter()
        made = [ClosedConnection(server.requests, self) for _ in range(connections)]
        await asyncio.gather(*map(server.connect, made))
        await asyncio.wait([connection.lost for connection in made])
        return {"seconds": time.perf_counter() - started, "stages": [self.tally.as_json()], "late_ms": 0.0}


class ClosedConnection(Connection):
    """A connection of a closed loop."""

    def __init__(self, requests: Iterator[bytes], loop: ClosedLoop) -> None:
        super().__init__(requests)
        self._loop = loop
        self._sent_at = 0.0

    def _free(self) -> None:
        self._sent_at = time.perf_counter()
        if self._sent_at < self._loop.deadline:
            self._send()
        else:
            self.close()

    def _ended(self, end: str) -> None:
        self._loop.tally.add(end, time.perf_counter() - self._sent_at)


class OpenLoop:
    """Connections without a request, and requests by their number: those that are due, and the next to be taken."""

    def __init__(self, stages: list[Stage]) -> None:
        self.free: deque[OpenConnection] = deque()  # first in, first out: servers close those that idle
        self._schedule = Schedule(stages)
        self._tallies = [Tally() for _ in stages]
        self._started = 0.0
        self._due = self._next = self._counted = 0

    def deal(self) -> None:
        """Gives what is due to free connections, the longest due first, and gives up what has waited too long."""
        while self._next < self._due:
            due = self._schedule.due(self._next)
            while self.free and self.free[0].lost.done():
                self.free.popleft()
            if time.perf_counter() - self._started - due > _PATIENCE_SECONDS:
                self.ended(due, "dropped")
            elif self.free:
                self.free.popleft().take(due)
            else:
                return
            self._next += 1

    def ended(self, due: float, end: str) -> None:
        """Counts what became of the request that was due then."""
        latency = time.perf_counter() - self._started - due
        self._tallies[self._schedule.stage_at(due)].add(end, latency)
        self._counted += 1

    async def run(self, server: "Server", connections: int) -> dict[str, Any]:
        """Returns the results."""
        made = [OpenConnection(server.requests, self) for _ in range(connections)]
        await asyncio.gather(*map(server.connect, made))
        keepers = [asyncio.ensure_future(self._keep(connection, server)) for connection in made]
        self._started = time.perf_counter()
        late_seconds = await self._make_due()
        last = time.perf_counter() + _GRACE_SECONDS
        while self._counted < self._schedule.requests and time.perf_counter() < last:
            self.deal()
            await asyncio.sleep(_TICK_SECONDS)
        seconds = time.perf_counter() - self._started
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
        stages = [tally.as_json() for tally in self._tallies]
        return {"seconds": seconds, "stages": stages, "late_ms": late_seconds * 1000}

    async def _make_due(self) -> float:
        """Makes all requests due in their time; returns by how much this process was late at most."""
        late = 0.0
        while self._due < self._schedule.requests:
            passed = time.perf_counter() - self._started
            reached = self._schedule.reached(passed)
            if reached > self._due:
                late = max(late, passed - self._schedule.due(self._due))
                self._due = reached
                self.deal()
            await asyncio.sleep(_TICK_SECONDS)
        return late

    async def _keep(self, connection: "OpenConnection", server: "Server") -> None:
        """Makes the connection anew when it is lost; at the end, counts the request that it has no answer to."""
        try:
            while True:
                await connection.lost
                connection = OpenConnection(server.requests, self)
                while not await self._connected(connection, server):
                    await asyncio.sleep(_RECONNECT_SECONDS)
        finally:
            if connection.busy:
                connection.busy = False
                self.ended(connection.due, "unanswered")
            connection.close()

    async def _connected(self, connection: "OpenConnection", server: "Server") -> bool:
        try:
            await server.connect(connection)
        except OSError:
            return False
        return True


class OpenConnection(Connection):
    """A connection of an open loop, with the time at which its last request was due."""

    def __init__(self, requests: Iterator[bytes], loop: OpenLoop) -> None:
        super().__init__(requests)
        self.due = 0.0
        self._loop = loop

    def take(self, due: float) -> None:
        """Posts the request that is due then."""
        self.due = due
        self._send()

    def _free(self) -> None:
        self._loop.free.append(self)
        self._loop.deal()

    def _ended(self, end: str) -> None:
        self._loop.ended(self.due, end)


class Server:
    """Where the load goes, and the requests, in turn."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self._host, self._port = plan["host"], plan["port"]
        self._ssl = ssl.create_default_context() if plan["tls"] else None
        known = f"Authorization: {plan['authorization']}\r\n" if plan["authorization"] else ""
        encoded = []
        for path, text in plan["requests"]:
            body = text.encode()
            head = f"POST {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nContent-Type: application/json\r\n"
            encoded.append(f"{head}{known}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        self.requests = itertools.cycle(encoded)

    async def connect(self, connection: Connection) -> None:
        """Connects it; raises :class:`OSError`."""
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: connection, self._host, self._port, ssl=self._ssl)


async def run(plan: dict[str, Any]) -> dict[str, Any]:
    """Puts the load on the server; returns the results."""
    server = Server(plan)
    if plan["stages"]:
        return await OpenLoop([Stage(*stage) for stage in plan["stages"]]).run(server, plan["connections"])
    return await ClosedLoop(plan["seconds"]).run(server, plan["connections"])


if __name__ == "__main__":
    print(json.dumps(uvloop.run(run(json.loads(sys.stdin.readline())))))
