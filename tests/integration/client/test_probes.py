"""What the supervisor makes of the answers to its readiness questions."""

import asyncio
from pathlib import Path

import pytest

from loopai_client.local.nats_server import NatsServer, free_port
from loopai_client.local.probes import http_ready, nats_ready
from tests.support.stub_http import Answer, StubHttpServer

CHECKS = {
    "nats": {"status": "healthy", "detail": None},
    "cache": {"status": "degraded", "detail": "slow"},
    "executor": {"status": "unhealthy", "detail": "no executor is running"},
}


@pytest.mark.parametrize(
    ("answer", "missing"),
    [
        (Answer({"checks": CHECKS}), None),
        (Answer({"checks": CHECKS}, 503), "executor: no executor is running"),
        (Answer({"checks": {}}, 503), "is not ready"),
        (Answer("busy", 503), "is not ready"),
        (Answer([1], 500), "is not ready"),
    ],
)
async def test_http_probe(answer: Answer, missing: str | None) -> None:
    with StubHttpServer({"GET /health/ready": answer}) as server:
        probe = http_ready("127.0.0.1", int(server.url.rpartition(":")[2]))
        assert await probe() == missing


async def test_nobody_listening_is_not_ready_yet() -> None:
    assert await http_ready("127.0.0.1", free_port())() == "does not answer yet"
    assert await nats_ready("127.0.0.1", free_port())() == "does not answer yet"


async def test_server_that_speaks_something_else_is_not_ready() -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example\r\n")
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert await nats_ready("127.0.0.1", port)() == "does not greet as NATS does"
        assert await http_ready("127.0.0.1", port)() == "does not answer yet"


async def test_nats_server_is_ready_when_it_greets(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    server.start()
    try:
        assert await nats_ready(server.host, server.port)() is None
    finally:
        server.stop()
