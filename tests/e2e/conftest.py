"""The whole product, started once for each test worker; tests that break it start one of their own."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.product import Product
from tests.support.service_process import ServiceProcess
from tests.support.stack import LocalStack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """A running stack that no test may harm."""
    with LocalStack(tmp_path_factory.mktemp("stack")) as running:
        yield running


@pytest.fixture
def own_stack(tmp_path: Path) -> Iterator[LocalStack]:
    """A running stack for one test to break."""
    with LocalStack(tmp_path / "stack") as running:
        yield running


@pytest.fixture(scope="session")
def ordinary_api(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where another api of the shared stack answers, one without a fast lane."""
    log = tmp_path_factory.mktemp("ordinary-api") / "log"
    environment = {"LOOPAI_NATS_URL": stack.nats_url, "LOOPAI_API_FAST_LANE": "off"}
    with ServiceProcess("loopai_api.main", "LOOPAI_API_", log, environment) as api:
        yield api.url


@pytest.fixture
async def product(request: pytest.FixtureRequest, stack: LocalStack) -> AsyncIterator[Product]:
    """The shared stack over HTTP and NATS; in modules marked ``both_lanes`` also by way of the ordinary lane alone."""
    ordinary = getattr(request, "param", "fast lane") == "ordinary lane"
    base_url = request.getfixturevalue("ordinary_api") if ordinary else None
    async with Product.connect(stack, base_url) as connected:
        yield connected


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs the tests of modules that are marked ``both_lanes`` twice, but for those that are marked ``one_lane``."""
    marker = metafunc.definition.get_closest_marker
    if marker("both_lanes") and not marker("one_lane") and "product" in metafunc.fixturenames:
        metafunc.parametrize("product", ["fast lane", "ordinary lane"], indirect=True)


@pytest.fixture
async def own_product(own_stack: LocalStack) -> AsyncIterator[Product]:
    """The test's own stack over HTTP and NATS."""
    async with Product.connect(own_stack) as connected:
        yield connected


@pytest.fixture
async def http(product: Product) -> httpx.AsyncClient:
    """An HTTP client of the shared stack."""
    return product.http
