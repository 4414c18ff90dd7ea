"""The overlay for compose adds what looks at the product, and mounts, scrapes and limits it as it must."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from loopai_common.runtime.settings import PREFIXES
from loopai_common.runtime.tracing import wanted_share

ROOT = Path(__file__).parents[3]
COMPOSE = ROOT / "compose"
CONFIGURATIONS = sorted((COMPOSE / "observability").rglob("*.yaml"))


def load(path: Path) -> dict[str, Any]:
    document = yaml.safe_load(path.read_text())
    assert isinstance(document, dict)
    return document


BASE = load(COMPOSE / "compose.yaml")
OVERLAY = load(COMPOSE / "observability.yaml")
ADDED = {name: service for name, service in OVERLAY["services"].items() if name not in BASE["services"]}


def test_every_service_of_ours_is_observed() -> None:
    observed = set(OVERLAY["services"]) - set(ADDED)
    assert observed == set(PREFIXES)
    for name in observed:
        assert OVERLAY["services"][name]["networks"] == ["observation"]


def test_services_send_their_spans_to_the_collector() -> None:
    (receiver,) = load(COMPOSE / "observability" / "collector.yaml")["receivers"]["otlp"]["protocols"].values()
    port = receiver["endpoint"].rpartition(":")[2]
    for name in PREFIXES:
        environment = OVERLAY["services"][name]["environment"]
        assert environment["OTEL_EXPORTER_OTLP_ENDPOINT"] == f"http://collector:{port}"
        as_it_is = {key: re.sub(r"\$\{\w+:-(.*)\}", r"\1", value) for key, value in environment.items()}
        assert wanted_share(as_it_is) == 0.01


def test_each_target_is_the_port_that_the_image_exposes() -> None:
    found = {}
    for job in load(COMPOSE / "observability" / "prometheus.yaml")["scrape_configs"]:
        (target,) = job["dns_sd_configs"]
        assert target["names"] == [job["job_name"]]
        found[job["job_name"]] = target["port"]
    exposed = {
        name: int(re.findall(r"^EXPOSE (\d+)", (ROOT / "services" / name / "Dockerfile").read_text(), re.MULTILINE)[0])
        for name in PREFIXES
    }
    assert found == exposed


@pytest.mark.parametrize("service", ADDED.values(), ids=ADDED)
def test_what_is_added_may_do_no_more_than_the_rest(service: dict[str, Any]) -> None:
    ours = BASE["x-service"]
    for rule in ("read_only", "cap_drop", "security_opt", "tmpfs"):
        assert service[rule] == ours[rule]
    assert service["mem_limit"]
    assert re.search(r":v?\d+\.\d+\.\d+$", service["image"]), "a version, never latest"
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


@pytest.mark.parametrize("service", ADDED.values(), ids=ADDED)
def test_what_is_mounted_is_there(service: dict[str, Any]) -> None:
    for mount in service["volumes"]:
        source, _, rest = mount.partition(":")
        if source.startswith("."):
            assert (COMPOSE / source).exists(), source
            assert rest.endswith(":ro")
        else:
            assert source in OVERLAY["volumes"]


def test_grafana_needs_no_password_because_nobody_may_change_anything() -> None:
    environment = ADDED["grafana"]["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert not [name for name in environment if "PASSWORD" in name]


def test_grafana_finds_its_sources_and_dashboards_where_they_are_mounted() -> None:
    targets = {mount.split(":")[1] for mount in ADDED["grafana"]["volumes"]}
    (provider,) = load(COMPOSE / "observability" / "grafana" / "dashboards.yaml")["providers"]
    assert provider["options"]["path"] in targets
    home = Path(ADDED["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert str(home.parent) in targets
    assert (ROOT / "helm" / "loopai" / "files" / "dashboards" / home.name).exists()
    for source in load(COMPOSE / "observability" / "grafana" / "datasources.yaml")["datasources"]:
        assert re.fullmatch(r"http://(\w+):\d+", source["url"])[1] in ADDED  # type: ignore[index]  # it matches, or fails


def test_prometheus_reads_its_configuration(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool here; install Prometheus")
    file = COMPOSE / "observability" / "prometheus.yaml"
    result = subprocess.run([promtool, "check", "config", "--syntax-only", str(file)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    (rules,) = load(file)["rule_files"]
    assert rules in {mount.split(":")[1] for mount in ADDED["prometheus"]["volumes"]}
