"""The script that `helm test` runs in the cluster, against the api as the chart may set it up."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loopai_client.local.key_file import changed_keys
from loopai_common.keys import Scope, new_key
from tests.support.helm import CHART
from tests.support.service_process import ServiceProcess
from tests.support.stack import LocalStack


def smoke_test(url: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Runs the script as the pod does: by a bare Python, told where and as whom by the environment."""
    command = [sys.executable, "-I", str(CHART / "files" / "smoke_test.py")]
    environment = {"PATH": os.environ["PATH"], "LOOPAI_URL": url, **more}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "api-keys.json"


@pytest.fixture(scope="module")
def key(keys_file: Path) -> str:
    """A key of the scopes that docs/kubernetes.md names."""
    text, known = new_key(scopes=[Scope.TASKS_READ, Scope.TASKS_WRITE, Scope.EXECUTE])
    with changed_keys(keys_file) as keys:
        keys[known.id] = known
    return text


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate that nobody signed, with its key beside it."""
    if shutil.which("openssl") is None:
        pytest.skip("the command openssl is missing: no certificate can be made")
    directory = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(directory / "tls.key"), "-out", str(directory / "tls.crt"), "-days", "2"]
    command += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return directory / "tls.crt"


@pytest.fixture(scope="module")
def behind_an_ingress(
    stack: LocalStack, key: str, keys_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    environment = {
        "LOOPAI_NATS_URL": stack.nats_url,
        "LOOPAI_API_HOST": "0.0.0.0",
        "LOOPAI_API_KEYS_FILE": str(keys_file),
        "LOOPAI_API_TRUSTED_PROXIES": "127.0.0.0/8",
    }
    with ServiceProcess("loopai_api.main", "LOOPAI_API_", tmp_path_factory.mktemp("api") / "log", environment) as api:
        yield api.url


def test_a_whole_task_passes(stack: LocalStack) -> None:
    done = smoke_test(stack.base_url)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["created", "ready,", "executed:"]


def test_it_passes_where_an_ingress_ends_tls(behind_an_ingress: str, key: str) -> None:
    done = smoke_test(behind_an_ingress, LOOPAI_API_KEY=key, LOOPAI_FORWARDED_PROTO="https")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("more", "code"),
    [({"LOOPAI_FORWARDED_PROTO": "https"}, "invalid_api_key"), ({"LOOPAI_API_KEY": "lk_a_b"}, "https_required")],
)
def test_it_fails_and_says_why(behind_an_ingress: str, more: dict[str, str], code: str) -> None:
    done = smoke_test(behind_an_ingress, **more)
    assert done.returncode == 1
    assert code in done.stderr


def test_it_passes_where_the_pods_serve_https(
    stack: LocalStack, key: str, keys_file: Path, certificate: Path, tmp_path: Path
) -> None:
    environment = {
        "LOOPAI_NATS_URL": stack.nats_url,
        "LOOPAI_API_HOST": "0.0.0.0",
        "LOOPAI_API_KEYS_FILE": str(keys_file),
        "LOOPAI_API_SSL_CERTFILE": str(certificate),
        "LOOPAI_API_SSL_KEYFILE": str(certificate.with_name("tls.key")),
    }
    api = ServiceProcess("loopai_api.main", "LOOPAI_API_", tmp_path / "log", environment, certificate=certificate)
    with api:
        url = api.url.replace("127.0.0.1", "localhost")  # not the certificate's name, as in the cluster
        done = smoke_test(url, LOOPAI_API_KEY=key, LOOPAI_CERTIFICATE=str(certificate))
        assert done.returncode == 0, done.stderr
        another = smoke_test(url, LOOPAI_API_KEY=key)
        assert "CERTIFICATE_VERIFY_FAILED" in another.stderr
