"""Servers for the tests: real ones, started once for each worker, on free ports."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from loopai_client.local.nats_server import NatsServer
from tests.support.servers import Azurite, Mongo, Valkey


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks each test with the folder it lives in."""
    for item in items:
        kind = item.path.relative_to(Path(__file__).parent).parts[0]
        if kind in {"unit", "contract", "integration", "e2e"}:
            item.add_marker(kind)


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A nats-server shared by the tests of this worker; tests use streams and subjects as the product does."""
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def mongo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mongo]:
    """A MongoDB shared by the tests of this worker; each test takes a database of its own."""
    with Mongo(tmp_path_factory.mktemp("mongo")) as server:
        yield server


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A Valkey shared by the tests of this worker; each test takes an environment of its own in the keys."""
    with Valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    """An Azurite shared by the tests of this worker; each test takes a container of its own."""
    with Azurite(tmp_path_factory.mktemp("azurite")) as server:
        yield server
