"""A real HTTP server on loopback that stands for a generator, good or bad, down to the bytes."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]
PROGRAM = "def run(input):\n    return 'spam' if 'prize' in input['text'] else 'ham'\n"


class BadGenerator:
    """Answers ``POST /generate`` as scripted, the last answer again and again; ``GET`` with 200."""

    def __init__(self, *script: Answer) -> None:
        self._script = list(script)
        self.asked: list[tuple[dict[str, str], bytes]] = []
        self.url = ""

    @property
    def attempts(self) -> int:
        """How often it was asked for a program."""
        return len(self.asked)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, one request."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            if head[0].startswith("GET"):
                await text("ok")(writer)
                return
            self.asked.append((headers, body))
            await self._script[min(len(self.asked), len(self._script)) - 1](writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def listening(*script: Answer) -> AsyncIterator[BadGenerator]:
    """The server, on a free port."""
    generator = BadGenerator(*script)
    server = await asyncio.start_server(generator.serve, "127.0.0.1", 0, limit=64 * 1024 * 1024)
    generator.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield generator
    finally:
        server.close()


def text(body: str | bytes, *, status: int = 200, headers: tuple[str, ...] = ("Content-Type: text/html",)) -> Answer:
    """A whole answer."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        content = body.encode() if isinstance(body, str) else body
        head = "\r\n".join(
            (f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(content)}", "Connection: close", *headers, "", "")
        )
        writer.write(head.encode() + content)
        await writer.drain()

    return answer


def response(**fields: Any) -> Answer:
    """A generator's answer with these fields."""
    return text(json.dumps(fields), headers=("Content-Type: application/json",))


def program(code: str = PROGRAM, **fields: Any) -> Answer:
    """A generator's answer with a program."""
    return response(success=True, code=code, entry_point="run", **fields)


async def drip(writer: asyncio.StreamWriter) -> None:
    """Sends a byte every twentieth of a second: each read succeeds, the answer never ends."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    for _ in range(2000):
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.05)


async def hang_up(writer: asyncio.StreamWriter) -> None:
    """Closes in the middle of its answer."""
    writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"success":')
    await writer.drain()


async def endless(writer: asyncio.StreamWriter) -> None:
    """Sends without end, in chunks, as fast as it is read."""
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(10_000):
        writer.write(b"10000\r\n" + b" " * 65536 + b"\r\n")
        await writer.drain()
