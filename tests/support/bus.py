"""A service of the test's own on the real bus."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from nats.aio.client import Client
from nats.js import JetStreamContext
from prometheus_client import CollectorRegistry

from loopai_common.runtime.broker import Bus
from loopai_common.runtime.settings import ServiceSettings

_ANSWER_SECONDS = 30.0


def new_bus(service: str, nats_url: str, *, grace_seconds: float = 5.0) -> Bus:
    """A bus that is not started yet; declare its handlers first."""
    return Bus(service, ServiceSettings(nats_url=nats_url, shutdown_grace_seconds=grace_seconds), CollectorRegistry())


def jetstream_of(client: Client) -> JetStreamContext:
    """JetStream with patience: on a busy disk an answer takes longer than the five seconds that are the default."""
    return client.jetstream(timeout=_ANSWER_SECONDS)


@asynccontextmanager
async def running(bus: Bus) -> AsyncIterator[Bus]:
    """Starts the bus and drains it at the end."""
    await bus.start()
    try:
        yield bus
    finally:
        await bus.drain()
