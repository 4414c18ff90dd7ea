"""The chart, rendered by a real Helm."""

import pytest

from tests.support.helm import Chart


@pytest.fixture(scope="session")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Chart:
    """The chart, ready to be rendered."""
    return Chart(tmp_path_factory.mktemp("chart"))
