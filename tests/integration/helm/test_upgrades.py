"""What an upgrade finds in the cluster stays. A stand-in for the API server has what the tests tell it."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.support.helm import Chart, Manifest, named
from tests.support.stub_http import Answer, StubHttpServer

_DISCOVERY: dict[str, Any] = {
    "/version": {"major": "1", "minor": "37", "gitVersion": "v1.37.0"},
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
    "/api/v1": {
        "kind": "APIResourceList",
        "groupVersion": "v1",
        "resources": [
            {"name": "secrets", "singularName": "secret", "namespaced": True, "kind": "Secret", "verbs": ["get"]}
        ],
    },
}
_OWNED = {
    "labels": {"app.kubernetes.io/managed-by": "Helm"},
    "annotations": {"meta.helm.sh/release-name": "rel", "meta.helm.sh/release-namespace": "ns"},
}
_JSON = {"Content-Type": "application/json"}


def upgraded(directory: Path, secrets: Mapping[str, Mapping[str, str]]) -> list[Manifest]:
    """The secrets that an upgrade makes in a cluster with ``secrets``, by name and key."""
    chart = Chart(directory)
    for template in (chart.path / "templates").rglob("*.*"):
        if template.name not in {"_helpers.tpl", "secrets.yaml"}:  # the stand-in knows no other kind
            template.unlink()
    script = {
        f"GET {path}{query}": Answer(body, headers=_JSON)
        for path, body in _DISCOVERY.items()
        for query in ("", "?timeout=32s")
    }
    for name, data in secrets.items():
        encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
        metadata = {"name": name, "namespace": "ns", **_OWNED}
        secret = {"kind": "Secret", "apiVersion": "v1", "metadata": metadata, "data": encoded}
        script[f"GET /api/v1/namespaces/ns/secrets/{name}"] = Answer(secret, headers=_JSON)
    with StubHttpServer(script) as cluster:
        asked = [
            "--dry-run=server",
            "--kube-apiserver",
            cluster.url,
            "--kube-token",
            "x",
            "--disable-openapi-validation",
        ]
        text = chart.helm("template", "rel", str(chart.path), "--namespace", "ns", "--kube-version", "1.37.0", *asked)
        assert any("/secrets/" in request.path for request in cluster.asked)
    return [manifest for manifest in yaml.safe_load_all(text) if manifest]


def value(rendered: list[Manifest], name: str, key: str) -> str:
    return base64.b64decode(named(rendered, "Secret", name)["data"][key]).decode()


def test_an_upgrade_keeps_the_keys_that_are_there_those_added_by_hand_too(tmp_path: Path) -> None:
    keys = json.dumps({"format": 1, "keys": ["of", "several", "people"]})
    known = {"rel-loopai-api-keys": {"api-keys.json": keys}, "rel-loopai-admin-key": {"api-key": "lk_admin_1"}}
    rendered = upgraded(tmp_path, known)
    assert value(rendered, "rel-loopai-api-keys", "api-keys.json") == keys
    assert value(rendered, "rel-loopai-admin-key", "api-key") == "lk_admin_1"


def test_an_upgrade_makes_a_key_where_the_old_one_is_lost(tmp_path: Path) -> None:
    rendered = upgraded(tmp_path, {"rel-loopai-api-keys": {"api-keys.json": "{}"}})
    assert value(rendered, "rel-loopai-admin-key", "api-key").startswith("lk_admin_")
    assert json.loads(value(rendered, "rel-loopai-api-keys", "api-keys.json"))["keys"][0]["id"] == "admin"
