"""Raw bytes to an HTTP server."""

import asyncio
from urllib.parse import urlsplit


async def exchange(
    base_url: str, data: bytes, *, drip: bytes = b"", seconds_between: float = 0.0, timeout: float = 30.0
) -> bytes:
    """Sends ``data``, then ``drip`` byte by byte, and returns everything until the server closes the connection."""
    parts = urlsplit(base_url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)

    async def write() -> None:
        writer.write(data)
        await writer.drain()
        for byte in drip:
            await asyncio.sleep(seconds_between)
            writer.write(bytes([byte]))
            await writer.drain()

    writing = asyncio.create_task(write())
    try:
        async with asyncio.timeout(timeout):
            return await _read_all(reader)
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        writer.close()


async def _read_all(reader: asyncio.StreamReader) -> bytes:
    chunks: list[bytes] = []
    try:
        while chunk := await reader.read(65536):
            chunks.append(chunk)
    except ConnectionResetError:
        pass  # the server closed while bytes of ours were under way
    return b"".join(chunks)
