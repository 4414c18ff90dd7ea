"""A bus of this folder's own: a proxy consumes every task that anybody creates on it."""

from collections.abc import Iterator

import pytest

from loopai_client.local.nats_server import NatsServer


@pytest.fixture
def own_nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A fresh nats-server."""
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server
    server.stop()
