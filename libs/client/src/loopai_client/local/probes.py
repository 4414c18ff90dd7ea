"""How to see that a process is ready: its health over HTTP, or the greeting of a NATS server."""

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

Probe = Callable[[], Awaitable[str | None]]
"""Returns ``None`` when the process is ready, else what is missing, in a few words."""

_ATTEMPT_SECONDS = 5.0


def http_ready(host: str, port: int, *, https: bool = False) -> Probe:
    """Ready when ``/health/ready`` answers 200. Of a certificate nothing is asked: what answers was started here."""
    tls = _any_certificate() if https else None

    async def probe() -> str | None:
        try:
            async with asyncio.timeout(_ATTEMPT_SECONDS):
                status, body = await _get(host, port, "/health/ready", tls)
        except (OSError, EOFError, ValueError):
            return "does not answer yet"
        return None if status == 200 else _missing(body)

    return probe


def nats_ready(host: str, port: int) -> Probe:
    """Ready when the server greets."""

    async def probe() -> str | None:
        try:
            async with asyncio.timeout(_ATTEMPT_SECONDS):
                reader, writer = await asyncio.open_connection(host, port)
                try:
                    greeting = await reader.readline()
                finally:
                    writer.close()
        except OSError:
            return "does not answer yet"
        return None if greeting.startswith(b"INFO ") else "does not greet as NATS does"

    return probe


async def _get(host: str, port: int, path: str, tls: ssl.SSLContext | None) -> tuple[int, bytes]:
    """One GET over a connection of its own; plain sockets, since an HTTP client costs more to set up than this."""
    reader, writer = await asyncio.open_connection(host, port, ssl=tls)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        return int(head.split(b" ", 2)[1]), body
    except IndexError as error:
        raise ValueError("not an HTTP response") from error
    finally:
        writer.close()


def _any_certificate() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _missing(body: bytes) -> str:
    """The checks that failed, from the body of a readiness answer."""
    try:
        report: Any = json.loads(body)
        checks: dict[str, dict[str, Any]] = report["checks"]
        failed = [f"{name}: {check['detail']}" for name, check in checks.items() if check["status"] == "unhealthy"]
    except (ValueError, TypeError, KeyError, AttributeError):
        return "is not ready"
    return "; ".join(failed) or "is not ready"
