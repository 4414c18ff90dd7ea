"""Dashboards and alerts ask for what there is, in a language that Prometheus reads, and say what to do."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.helm import CHART
from tests.support.metrics import every_metric
from tests.support.promql import asked, grouped_by

ROOT = CHART.parents[1]
ALERTS = CHART / "files" / "alerts.yaml"
DASHBOARDS = sorted((CHART / "files" / "dashboards").glob("*.json"))
RUNBOOKS = ROOT / "docs" / "runbooks.md"
FROM_SCRAPING = {"instance", "job", "le"}
METRICS = {series: metric for metric in every_metric().values() for series in metric.series}


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text())["panels"]
    return found


def queries() -> Iterator[tuple[str, str]]:
    """Where each query stands, and the query."""
    for rule in rules():
        yield f"alert {rule['alert']}", rule["expr"]
    for path in DASHBOARDS:
        for panel in panels(path):
            for target in panel["targets"]:
                yield f"{path.stem}: {panel['title']}", target["expr"]


every_query = pytest.mark.parametrize("query", [pytest.param(query, id=where) for where, query in queries()])
every_dashboard = pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)


@every_query
def test_a_query_names_metrics_and_labels_that_exist(query: str) -> None:
    found = list(asked(query))
    assert found
    labels = set(FROM_SCRAPING)
    for each in found:
        assert each.series in METRICS, f"no service shows {each.series}"
        metric = METRICS[each.series]
        labels |= set(metric.labels)
        assert each.labels <= {*metric.labels, *FROM_SCRAPING}, each
        for label, value in each.values:
            known = metric.values(label)
            assert isinstance(known, str) or value in known, f"{label} is never {value!r}"
    assert grouped_by(query) <= labels


@every_query
def test_counters_are_rated_and_gauges_are_not(query: str) -> None:
    for each in asked(query):
        rated = re.search(rf"\b(rate|increase)\(\s*{each.series}\b", query) is not None
        assert rated == (METRICS[each.series].type in {"counter", "histogram"})


def test_every_metric_of_ours_is_on_a_dashboard() -> None:
    shown = {METRICS[each.series].name for where, query in queries() if ":" in where for each in asked(query)}
    assert {metric.name for metric in METRICS.values()} - shown == set()


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", RUNBOOKS.read_text(), re.MULTILINE | re.DOTALL))
    assert list(sections) == [rule["alert"] for rule in rules()]
    for rule in rules():
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["runbook_url"] == f"docs/runbooks.md#{rule['alert'].lower()}"
        section = sections[rule["alert"]]
        assert all(f"**{part}**" in section for part in ("Means", "Look", "Do")), rule["alert"]


def test_runbooks_name_settings_and_dashboards_that_exist() -> None:
    text = RUNBOOKS.read_text()
    titles = {panel["title"] for path in DASHBOARDS for panel in panels(path)}
    assert set(re.findall(r"\*([A-Z][^*]+?)\*(?!\*)", text.replace("**", ""))) <= titles
    sources = "\n".join(path.read_text() for path in ROOT.glob("services/*/src/**/settings.py"))
    for setting in re.findall(r"LOOPAI_EXECUTOR_(\w+)", text):
        assert re.search(rf"\b{setting.lower()}\b", sources) or setting == "WORKERS", setting


@every_dashboard
def test_a_dashboard_is_one_that_grafana_takes(path: Path) -> None:
    dashboard = json.loads(path.read_text())
    assert dashboard["uid"] == path.stem
    assert {"title", "description", "tags", "schemaVersion", "templating"} <= dashboard.keys()
    assert [variable["name"] for variable in dashboard["templating"]["list"]] == ["datasource"]
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        assert panel["title"]
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} lies on another panel"
        taken |= cells


def test_prometheus_reads_every_query(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool here; install Prometheus")
    recorded = [
        {"record": f"query:{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, (where, query) in enumerate(queries())
        if ":" in where
    ]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": recorded}]}))
    result = subprocess.run([promtool, "check", "rules", str(ALERTS), str(file)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
