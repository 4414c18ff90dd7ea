"""The metrics as operators meet them: named as Prometheus wants, with labels that are bounded, each explained."""

import re

import pytest

from tests.support.metrics import MetricInfo, every_metric, metrics_markdown

EVERY = every_metric()


@pytest.mark.parametrize("metric", EVERY.values(), ids=EVERY)
def test_every_metric_is_named_and_explained(metric: MetricInfo) -> None:
    assert re.fullmatch(r"loopai_[a-z][a-z0-9_]*", metric.name)
    assert metric.name.endswith("_total") == (metric.type == "counter")
    assert not re.search(r"_(ms|milliseconds|kb|mb|percent)(_total)?$", metric.name), "base units only"
    assert metric.meaning.endswith(".")
    for label in metric.labels:
        assert metric.values(label), f"say in tests/support/metrics.py what {label} can be"


def test_the_page_names_each_metric_once() -> None:
    page = metrics_markdown()
    assert [name for name in EVERY if page.count(f"| `{name}` |") != 1] == []
