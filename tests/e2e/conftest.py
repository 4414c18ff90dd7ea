"""The whole product, started once for each test worker; tests that break it start one of their own."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.product import Product
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


@pytest.fixture
async def product(stack: LocalStack) -> AsyncIterator[Product]:
    """The shared stack over HTTP and NATS."""
    async with Product.connect(stack) as connected:
        yield connected


@pytest.fixture
async def own_product(own_stack: LocalStack) -> AsyncIterator[Product]:
    """The test's own stack over HTTP and NATS."""
    async with Product.connect(own_stack) as connected:
        yield connected


@pytest.fixture
async def http(product: Product) -> httpx.AsyncClient:
    """An HTTP client of the shared stack."""
    return product.http
