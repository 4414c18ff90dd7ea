"""The generator as a process."""

from collections.abc import Iterator

import pytest

from tests.support.service_process import ServiceProcess


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """With its defaults."""
    log = tmp_path_factory.mktemp("generator") / "log"
    with ServiceProcess("loopai_generator.main", "LOOPAI_GENERATOR_", log, {}) as process:
        yield process
