"""What the chart makes is what Kubernetes takes, and what the services take."""

import base64
import json
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from loopai_api.settings import ApiSettings
from loopai_artifact_store.settings import ArtifactStoreSettings
from loopai_common.contracts import subjects
from loopai_common.keys import Scope, decode_keys, verified
from loopai_common.runtime.settings import ServiceSettings, SettingsError, load_settings
from loopai_common.runtime.tracing import wanted_share
from loopai_executor.handlers import COMMANDS_CONSUMER
from loopai_executor.settings import ExecutorSettings
from loopai_generator.settings import GeneratorSettings
from loopai_generator_proxy.settings import GeneratorProxySettings
from tests.support.helm import CHART, VALUES, Chart, Manifest, named, of_kind

ROOT = CHART.parents[1]
SETTINGS: dict[str, type[ServiceSettings]] = {
    "api": ApiSettings,
    "executor": ExecutorSettings,
    "generator-proxy": GeneratorProxySettings,
    "artifact-store": ArtifactStoreSettings,
    "generator": GeneratorSettings,
}
OPERATORS = {"ServiceMonitor", "PrometheusRule", "ScaledObject"}
"""Kinds that Kubernetes does not know itself, so that its schemas say nothing of them."""

SECRETS = {
    "LOOPAI_NATS_URL": "nats://user:password@nats:4222",
    "LOOPAI_ARTIFACT_STORE_MONGO_URL": "mongodb://mongodb/?replicaSet=rs0",
    "LOOPAI_ARTIFACT_STORE_REDIS_URL": "rediss://redis:6380/0",
    "LOOPAI_ARTIFACT_STORE_AZURE_CONNECTION_STRING": "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=b;",
    "LOOPAI_GENERATOR_PROXY_GENERATOR_API_KEY": "token",
    "LOOPAI_GENERATOR_OPENAI_API_KEY": "token",
}
"""What may be in secrets that exist already."""

every_values_file = pytest.mark.parametrize("file", VALUES, ids=lambda path: path.stem.removeprefix("values-"))


def services(rendered: list[Manifest]) -> dict[str, Manifest]:
    """The deployments, by the service."""
    found = of_kind(rendered, "Deployment").values()
    return {m["metadata"]["labels"]["app.kubernetes.io/component"]: m for m in found}


def container(deployment: Manifest) -> dict[str, Any]:
    (only,) = deployment["spec"]["template"]["spec"]["containers"]
    assert isinstance(only, dict)
    return only


def environment(rendered: list[Manifest], service: str) -> dict[str, str]:
    """The variables that the container of a service is started with."""
    pod = container(services(rendered)[service])
    variables: dict[str, str] = {}
    for source in pod["envFrom"]:
        variables |= named(rendered, "ConfigMap", source["configMapRef"]["name"])["data"]
    for variable in pod.get("env", []):
        variables[variable["name"]] = secret_value(rendered, variable)
    return variables


def secret_value(rendered: list[Manifest], variable: dict[str, Any]) -> str:
    place = variable["valueFrom"]["secretKeyRef"]
    secret = of_kind(rendered, "Secret").get(place["name"])
    if secret is None:
        return SECRETS[variable["name"]]
    return base64.b64decode(secret["data"][place["key"]]).decode()


def test_helm_finds_nothing_to_complain_about(chart: Chart) -> None:
    for file in VALUES:
        assert "0 chart(s) failed" in chart.helm("lint", "--strict", str(chart.path), "--values", str(file))


@pytest.mark.parametrize("version", ["1.30.0", "latest"])
def test_every_manifest_is_valid_and_has_no_unknown_field(chart: Chart, version: str) -> None:
    version = kubernetes_validate.latest_version() if version == "latest" else version
    checked: set[str] = set()
    for file in VALUES:
        rendered = chart.render(file=file)
        identities = [(m["kind"], m["metadata"]["name"]) for m in rendered]
        assert len(identities) == len(set(identities))
        for manifest in rendered:
            text = json.dumps(manifest, sort_keys=True)
            if manifest["kind"] not in OPERATORS and text not in checked:
                kubernetes_validate.validate(manifest, version, strict=True)
                checked.add(text)
    assert len(checked) > 60


@every_values_file
def test_every_service_accepts_its_environment(chart: Chart, file: Path, tmp_path: Path) -> None:
    certificate = tmp_path / "tls"
    certificate.write_text("")
    rendered = chart.render(file=file)
    for service in services(rendered):
        given = {
            # The settings look whether this file is there.
            name: str(certificate) if value.startswith("/etc/loopai/tls/") else value
            for name, value in environment(rendered, service).items()
        }
        settings = load_settings(SETTINGS[service], service, given)
        assert settings.host == "0.0.0.0"
        assert settings.log_format == "json"


@every_values_file
def test_every_variable_is_one_of_the_service(chart: Chart, file: Path) -> None:
    rendered = chart.render(file=file)
    for service, kind in SETTINGS.items():
        if service not in services(rendered):
            continue
        prefix = f"LOOPAI_{service.upper().replace('-', '_')}_"
        common = {"LOOPAI_NATS_URL", "LOOPAI_LOG_LEVEL", "LOOPAI_LOG_FORMAT"}
        known = common | {f"{prefix}{field.upper()}" for field in kind.model_fields}
        assert environment(rendered, service).keys() <= known


@every_values_file
def test_images_commands_ports_and_probes_are_those_of_the_services(chart: Chart, file: Path) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    rendered = chart.render(file=file)
    for service, deployment in services(rendered).items():
        pod = container(deployment)
        assert pod["image"].endswith(f"loopai/{service}:{version}")
        scripts = tomllib.loads((ROOT / "services" / service / "pyproject.toml").read_text())["project"]["scripts"]
        assert pod["command"] == list(scripts)
        settings = environment(rendered, service)
        port = settings[f"LOOPAI_{service.upper().replace('-', '_')}_PORT"]
        assert [p["containerPort"] for p in pod["ports"]] == [int(port)]
        assert port == ("8080" if service == "api" else "9090")
        paths = {kind: pod[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")}
        assert paths == {"startup": "/health/live", "liveness": "/health/live", "readiness": "/health/ready"}


@every_values_file
def test_no_pod_may_do_more_than_a_restricted_one(chart: Chart, file: Path) -> None:
    rendered = chart.render(file=file)
    pods = [m["spec"]["template"]["spec"] for m in of_kind(rendered, "Deployment").values()]
    pods += [m["spec"] for m in of_kind(rendered, "Pod").values()]
    assert len(pods) >= 4
    for pod in pods:
        security = pod["securityContext"]
        assert (security["runAsNonRoot"], security["runAsUser"], security["fsGroup"]) == (True, 65532, 65532)
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert {"hostNetwork", "hostPID", "hostIPC"}.isdisjoint(pod)
        assert not any("hostPath" in volume for volume in pod["volumes"])
        for each in pod["containers"]:
            assert each["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "memory" in each["resources"]["limits"]


@every_values_file
def test_the_cluster_sets_no_variables_that_the_services_would_refuse(chart: Chart, file: Path) -> None:
    """A service named loopai-api would give every pod LOOPAI_API_PORT=tcp://… and LOOPAI_API_SERVICE_HOST."""
    with pytest.raises(SettingsError, match="LOOPAI_API_SERVICE_HOST"):
        load_settings(ApiSettings, "api", {"LOOPAI_API_SERVICE_HOST": "10.0.0.1"})
    for deployment in services(chart.render(file=file, release="loopai")).values():
        assert deployment["spec"]["template"]["spec"]["enableServiceLinks"] is False


@every_values_file
def test_a_pod_has_the_time_that_its_service_takes_to_stop(chart: Chart, file: Path) -> None:
    rendered = chart.render(file=file)
    for service, deployment in services(rendered).items():
        pod = deployment["spec"]["template"]["spec"]
        settings = environment(rendered, service)
        grace = int(settings[f"LOOPAI_{service.upper().replace('-', '_')}_SHUTDOWN_GRACE_SECONDS"])
        pause = container(deployment).get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        assert pod["terminationGracePeriodSeconds"] > pause + 2 * grace
    assert "preStop" in container(services(rendered)["api"])["lifecycle"]


@every_values_file
def test_nothing_keeps_a_node_from_being_drained(chart: Chart, file: Path) -> None:
    for budget in of_kind(chart.render(file=file), "PodDisruptionBudget").values():
        assert budget["spec"]["maxUnavailable"] == 1


def egress(policy: Manifest) -> list[tuple[int, str]]:
    """Ports and places, other than name servers."""
    return [
        (port["port"], json.dumps(rule.get("to"), sort_keys=True))
        for rule in policy["spec"]["egress"]
        for port in rule["ports"]
        if port["port"] != 53
    ]


def test_an_executor_reaches_nats_and_nothing_else(chart: Chart) -> None:
    for file in VALUES:
        policies = of_kind(chart.render(file=file), "NetworkPolicy")
        if "everything-off" in file.name:
            assert not policies
            continue
        ((port, place),) = egress(policies["rel-loopai-executor"])
        assert (port, '"app.kubernetes.io/name": "nats"' in place) == (4222, True)
        names = [p for rule in policies["rel-loopai-executor"]["spec"]["egress"] for p in rule["ports"]]
        assert [p for p in names if p["port"] != 4222] == [
            {"port": 53, "protocol": "UDP"},
            {"port": 53, "protocol": "TCP"},
        ]


def test_everything_else_reaches_what_it_uses_alone(chart: Chart) -> None:
    policies = of_kind(chart.render(file=CHART / "ci" / "values-production.yaml"), "NetworkPolicy")
    ports = {name.removeprefix("rel-loopai-"): sorted({p for p, _ in egress(policy)})
             for name, policy in policies.items() if "egress" in policy["spec"]}  # fmt: skip
    assert ports == {
        "api": [4222],
        "executor": [4222],
        "generator": [],
        "generator-proxy": [4222, 9090],
        "artifact-store": [4222, 6380, 27017],
        "smoke-test": [8080],
    }
    denied = policies["rel-loopai-default-deny"]["spec"]
    assert denied["policyTypes"] == ["Ingress", "Egress"]
    assert {"ingress", "egress"}.isdisjoint(denied)
    azure = of_kind(chart.render(file=CHART / "ci" / "values-azure.yaml"), "NetworkPolicy")
    assert (443, "null") in egress(azure["rel-loopai-artifact-store"])
    elsewhere = of_kind(chart.render(file=CHART / "ci" / "values-keda.yaml"), "NetworkPolicy")
    assert (8443, "null") in egress(elsewhere["rel-loopai-generator-proxy"])


def test_the_generator_of_the_chart_stands_in_for_another(chart: Chart) -> None:
    def fallback(values: dict[str, Any]) -> str | None:
        return environment(chart.render(values), "generator-proxy").get("LOOPAI_GENERATOR_PROXY_FALLBACK_GENERATOR_URL")

    elsewhere = {"generatorUrl": "https://generator.example.com"}
    assert fallback({"generatorProxy": elsewhere}) == "http://rel-loopai-generator:9090"
    assert fallback({"generatorProxy": elsewhere, "generator": {"enabled": False}}) is None
    assert fallback({}) is None
    policies = of_kind(chart.render({"generatorProxy": elsewhere}), "NetworkPolicy")
    assert [port for port, _ in egress(policies["rel-loopai-generator-proxy"])] == [4222, 9090, 443]


def test_a_key_is_made_where_none_is_given_and_the_api_knows_it(chart: Chart) -> None:
    rendered = chart.render()
    keys = base64.b64decode(named(rendered, "Secret", "rel-loopai-api-keys")["data"]["api-keys.json"])
    key = base64.b64decode(named(rendered, "Secret", "rel-loopai-admin-key")["data"]["api-key"]).decode()
    known = verified(key, decode_keys(keys))
    assert known is not None
    assert known.scopes == [Scope.ADMIN]
    mounted = container(services(rendered)["api"])["volumeMounts"]
    assert {"name": "keys", "mountPath": "/etc/loopai/keys", "readOnly": True} in mounted
    assert environment(rendered, "api")["LOOPAI_API_KEYS_FILE"] == "/etc/loopai/keys/api-keys.json"


def test_no_secret_is_made_where_all_exist(chart: Chart) -> None:
    rendered = chart.render(file=CHART / "ci" / "values-production.yaml")
    assert not of_kind(rendered, "Secret")
    places = [
        variable["valueFrom"]["secretKeyRef"]
        for deployment in services(rendered).values()
        for variable in container(deployment).get("env", [])
    ]
    assert {(place["name"], place["key"]) for place in places} == {
        *(("loopai-nats-users", service) for service in SETTINGS if service != "generator"),
        ("loopai-mongodb", "url"),
        ("loopai-redis", "url"),
    }


def test_plain_http_is_refused_wherever_others_than_the_cluster_come_in(chart: Chart) -> None:
    def https_required(file: str) -> bool:
        variables = environment(chart.render(file=CHART / "ci" / file), "api")
        kept = {name: value for name, value in variables.items() if "SSL" not in name}
        return load_settings(ApiSettings, "api", kept).https_required

    assert not https_required("values-minimal.yaml")
    assert https_required("values-production.yaml")
    assert https_required("values-azure.yaml")


def test_data_on_a_volume_has_one_owner_at_a_time_and_outlives_the_release(chart: Chart) -> None:
    rendered = chart.render()
    store = services(rendered)["artifact-store"]
    assert (store["spec"]["replicas"], store["spec"]["strategy"]) == (1, {"type": "Recreate"})
    (claim,) = of_kind(rendered, "PersistentVolumeClaim").values()
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    data = environment(rendered, "artifact-store")["LOOPAI_ARTIFACT_STORE_DATA_DIR"]
    assert data in [mount["mountPath"] for mount in container(store)["volumeMounts"]]
    production = services(chart.render(file=CHART / "ci" / "values-production.yaml"))["artifact-store"]
    assert production["spec"]["strategy"]["type"] == "RollingUpdate"


def test_large_numbers_are_written_out(chart: Chart) -> None:
    rendered = chart.render({"executor": {"settings": {"memory_bytes": 134_217_728, "max_programs": 10}}})
    assert environment(rendered, "executor")["LOOPAI_EXECUTOR_MEMORY_BYTES"] == "134217728"


def test_changed_settings_start_new_pods(chart: Chart) -> None:
    def mark(values: dict[str, Any]) -> str:
        annotations = services(chart.render(values))["executor"]["spec"]["template"]["metadata"]["annotations"]
        return str(annotations["loopai/settings"])

    changed = {"executor": {"settings": {"max_programs": 70}}}
    assert mark({}) == mark({})
    assert len({mark({}), mark(changed), mark({"connections": {"nats": {"url": "nats://other:4222"}}})}) == 3


def test_autoscaled_deployments_leave_the_number_of_pods_alone(chart: Chart) -> None:
    rendered = chart.render(file=CHART / "ci" / "values-production.yaml")
    scaled = of_kind(rendered, "HorizontalPodAutoscaler")
    assert scaled.keys() == {"rel-loopai-api", "rel-loopai-executor"}
    for name in scaled:
        assert "replicas" not in named(rendered, "Deployment", name)["spec"]
        assert scaled[name]["spec"]["scaleTargetRef"]["name"] == name


def test_keda_watches_the_queue_that_the_executors_take_from(chart: Chart) -> None:
    rendered = chart.render(file=CHART / "ci" / "values-keda.yaml")
    (scaled,) = of_kind(rendered, "ScaledObject").values()
    assert scaled["spec"]["scaleTargetRef"]["name"] == "rel-loopai-executor"
    assert "replicas" not in named(rendered, "Deployment", "rel-loopai-executor")["spec"]
    (queue,) = [t["metadata"] for t in scaled["spec"]["triggers"] if t["type"] == "nats-jetstream"]
    assert (queue["stream"], queue["consumer"]) == (subjects.COMMANDS_STREAM, COMMANDS_CONSUMER)
    assert all(isinstance(value, str) for value in queue.values())


def test_nats_that_comes_along_is_the_one_that_is_used(chart: Chart) -> None:
    rendered = chart.render(file=CHART / "ci" / "values-bundled.yaml")
    assert environment(rendered, "api")["LOOPAI_NATS_URL"] == "nats://rel-nats:4222"
    assert environment(rendered, "artifact-store")["LOOPAI_ARTIFACT_STORE_REDIS_URL"] == "redis://rel-valkey:6379/0"
    values = yaml.safe_load((CHART / "values.yaml").read_text())["nats"]["config"]
    assert values["merge"]["max_payload"] == f"<< {subjects.MAX_PAYLOAD_BYTES >> 20}MB >>"
    assert values["jetstream"]["merge"]["sync_interval"] == "always"


def test_monitors_and_rules_reach_prometheus(chart: Chart) -> None:
    rendered = chart.render(file=CHART / "ci" / "values-production.yaml")
    assert len(of_kind(rendered, "ServiceMonitor")) == 5
    ports = {name: service["spec"]["ports"][0]["name"] for name, service in of_kind(rendered, "Service").items()}
    for name, monitor in of_kind(rendered, "ServiceMonitor").items():
        assert monitor["spec"]["endpoints"][0]["port"] == ports[name]
        assert monitor["metadata"]["labels"]["release"] == "prometheus"
    (rules,) = of_kind(rendered, "PrometheusRule").values()
    assert rules["spec"] == yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())


def test_spans_leave_every_service_for_the_collector_and_nothing_else_does(chart: Chart) -> None:
    with_traces = chart.render({"traces": {"endpoint": "http://collector.monitoring:4318", "share": 0.5}})
    without = chart.render()
    for service in SETTINGS:
        variables = environment(with_traces, service)
        assert variables["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector.monitoring:4318"
        assert wanted_share(variables) == 0.5
        assert "OTEL_EXPORTER_OTLP_ENDPOINT" not in environment(without, service)
        policies = [named(r, "NetworkPolicy", f"rel-loopai-{service}") for r in (with_traces, without)]
        ((port, place),) = set(egress(policies[0])) - set(egress(policies[1]))
        assert (port, '"kubernetes.io/metadata.name": "monitoring"' in place) == (4318, True)


def test_dashboards_are_found_by_grafana(chart: Chart) -> None:
    shipped = named(chart.render({"monitoring": {"dashboards": True}}), "ConfigMap", "rel-loopai-dashboards")
    assert shipped["metadata"]["labels"]["grafana_dashboard"] == "1"
    files = {path.name: json.loads(path.read_text()) for path in (CHART / "files" / "dashboards").glob("*.json")}
    assert {name: json.loads(text) for name, text in shipped["data"].items()} == files
    assert len(files) == 5


def test_the_smoke_test_runs_with_a_key_it_is_given_and_not_at_all_without_one(chart: Chart) -> None:
    made = named(chart.render(), "Pod", "rel-loopai-smoke-test")
    assert made["metadata"]["annotations"]["helm.sh/hook"] == "test"
    (pod,) = made["spec"]["containers"]
    variables = {variable["name"]: variable for variable in pod["env"]}
    assert variables["LOOPAI_URL"]["value"] == "http://rel-loopai-api.ns.svc"
    assert variables["LOOPAI_API_KEY"]["valueFrom"]["secretKeyRef"]["name"] == "rel-loopai-admin-key"
    script = named(chart.render(), "ConfigMap", "rel-loopai-smoke-test")["data"]["smoke_test.py"]
    assert script.strip() == (CHART / "files" / "smoke_test.py").read_text().strip()
    own_keys = {"api": {"keys": {"existingSecret": "keys"}}}
    assert not of_kind(chart.render(own_keys), "Pod")


def test_names_stay_short_enough_for_kubernetes(chart: Chart) -> None:
    rendered = chart.render(release="r" * 53)
    assert all(len(m["metadata"]["name"]) <= 63 for m in rendered)
    services_named = of_kind(rendered, "Service")
    assert len(services_named) == 5
