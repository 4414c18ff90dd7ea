"""The Compose files name only what there is: files, images, stages, networks, variables that the services take."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml

from loopai_client.local.deployment import make_secrets
from loopai_common.runtime.settings import PREFIXES, load_settings, variables_of
from tests.support.reference import SETTINGS

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "compose"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
SERVICES = sorted(SETTINGS)

_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


def read(name: str) -> dict[str, Any]:
    loaded = yaml.safe_load((FOLDER / name).read_text())
    assert isinstance(loaded, dict)
    return loaded


FILES = sorted(FOLDER.glob("*.yaml"))
PRODUCT = read("compose.yaml")
DEVELOPMENT = read("development.yaml")

every_file = pytest.mark.parametrize("file", [read(path.name) for path in FILES], ids=[path.stem for path in FILES])


def resolved(text: str) -> str:
    """The text as Compose reads it where no variable is set."""
    return _VARIABLE.sub(lambda found: found[2] or "", text)


def volumes(name: str) -> Iterator[tuple[str, str]]:
    """What is mounted in a service, and where."""
    for volume in PRODUCT["services"][name].get("volumes", ()):
        source, target, *_ = volume.split(":")
        yield source, target


def stages(dockerfile: Path) -> dict[str, str]:
    """The text of each stage of a Dockerfile."""
    parts = re.split(r"(?m)^FROM \S+ AS (\S+)$", dockerfile.read_text())
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the service `secrets` makes."""
    directory = tmp_path_factory.mktemp("secrets")
    make_secrets(directory, "nats:4222")
    return directory


def made(secrets: Path, service: str, path: str) -> Path:
    """The file that `secrets` makes and a service finds at ``path``, through the volume that they share."""
    makers = {source: PurePosixPath(target) for source, target in volumes("secrets")}
    for source, target in volumes(service):
        if PurePosixPath(path).is_relative_to(target):
            return secrets / makers[source].relative_to("/secrets") / PurePosixPath(path).relative_to(target)
    raise AssertionError(f"{service} mounts nothing at {path}")


@pytest.mark.parametrize("service", SERVICES)
def test_services_take_their_variables_and_find_their_secrets(secrets: Path, service: str) -> None:
    given = PRODUCT["services"][service].get("environment", {})
    known = {v for n, f in SETTINGS[service].model_fields.items() for v in variables_of(n, f, PREFIXES[service])}
    handed_on = {name for name, value in given.items() if value is None}
    assert handed_on <= known
    environment = {name: resolved(given[name]) for name in given.keys() - handed_on}
    for name, value in environment.items():
        if name.endswith("_FILE"):
            environment[name] = str(made(secrets, service, value))
            assert Path(environment[name]).exists(), name
    settings = load_settings(SETTINGS[service], service, environment)
    on_bus = service != "generator"
    assert settings.nats_url.startswith(f"nats://{service}:") is on_bus


def test_the_command_has_the_keys_and_the_bus(secrets: Path) -> None:
    environment = PRODUCT["services"]["cli"]["environment"]
    assert made(secrets, "cli", environment["LOOPAI_API_KEYS_FILE"]) == secrets / "api" / "api-keys.json"
    assert "operator:" in made(secrets, "cli", environment["LOOPAI_NATS_URL_FILE"]).read_text()


def test_nats_finds_its_configuration_and_its_users(secrets: Path) -> None:
    mounted = {target: source for source, target in volumes("nats")}
    configuration = (FOLDER / mounted["/etc/nats/nats-server.conf"]).read_text()
    included = re.findall(r'^include "([^"]+)"', configuration, re.MULTILINE)
    assert included == ["secrets/users.conf"]
    assert made(secrets, "nats", f"/etc/nats/{included[0]}").exists()
    assert "max_payload: 8388608" in configuration
    assert "sync_interval: always" in configuration


def test_a_service_mounts_the_secrets_of_nobody_else() -> None:
    for service in SERVICES:
        assert {source for source, _ in volumes(service)} <= {f"secrets-{service}"}, service


@every_file
def test_images_are_built_from_stages_that_exist(file: dict[str, Any]) -> None:
    for name, service in file["services"].items():
        build = {**PRODUCT["services"].get(name, {}).get("build", {}), **service.get("build", {})}
        if "build" in service:
            assert (FOLDER / build["context"]).resolve() == ROOT
            assert build["target"] in stages(ROOT / build["dockerfile"]), name


_OF_THE_STORE = (
    " && install -d -o 65532 -g 65532 /root-of-image/data", " and /data", " LOOPAI_DATA_DIR=/data", "VOLUME /data\n",
    "RUN install -d -o 65532 -g 65532 /data\n",
)  # fmt: skip


def shape(service: str) -> str:
    """The Dockerfile of a service without its name, its port, and the folder that the store alone keeps data in."""
    text = (ROOT / "services" / service / "Dockerfile").read_text()
    if service == "artifact-store":
        for piece in _OF_THE_STORE:
            assert piece in text
            text = text.replace(piece, "")
    variable = service.replace("-", "_").upper()
    port = re.findall(r"(?m)^EXPOSE (\d+)$", text)[0]
    return text.replace(service, "SERVICE").replace(f"LOOPAI_{variable}_", "LOOPAI_SERVICE_").replace(port, "PORT")


@pytest.mark.parametrize("service", SERVICES)
def test_the_dockerfiles_of_the_services_differ_in_nothing_but_the_service(service: str) -> None:
    assert shape(service) == shape("executor")


@every_file
def test_images_have_a_tag_that_does_not_move(file: dict[str, Any]) -> None:
    images = {name: service["image"] for name, service in file["services"].items() if "image" in service}
    assert images
    for name, image in images.items():
        repository, _, tag = resolved(image).partition(":")
        if repository.startswith("loopai/"):
            assert tag.removesuffix("-dev") == VERSION, name
        else:
            assert re.search(r"\d", tag), name


@every_file
def test_networks_volumes_and_services_that_are_named_are_declared(file: dict[str, Any]) -> None:
    declared = {source for name in PRODUCT["services"] for source, _ in volumes(name) if not source.startswith(".")}
    assert declared == set(PRODUCT["volumes"])
    services, networks = {*PRODUCT["services"], *file["services"]}, {*PRODUCT["networks"], *file.get("networks", ())}
    for name, service in file["services"].items():
        assert set(service.get("networks", ())) <= networks, name
        assert set(service.get("depends_on", ())) <= services, name


@pytest.mark.parametrize("development", [False, True], ids=["compose", "development"])
def test_what_is_waited_for_says_when_it_is_healthy(development: bool) -> None:
    for name, service in PRODUCT["services"].items():
        for needed, how in service.get("depends_on", {}).items():
            if how["condition"] != "service_healthy":
                continue
            wanted = PRODUCT["services"][needed] | (DEVELOPMENT["services"].get(needed, {}) if development else {})
            build = PRODUCT["services"][needed].get("build", {}) | wanted.get("build", {})
            in_image = build and "HEALTHCHECK" in stages(ROOT / build["dockerfile"])[build["target"]]
            assert "healthcheck" in wanted or in_image, f"{name} waits for {needed}"


def test_a_published_port_is_one_of_this_machine_and_of_a_network_that_can() -> None:
    for name, base in PRODUCT["services"].items():
        service = DEVELOPMENT["services"].get(name, {})
        ports = [*base.get("ports", ()), *service.get("ports", ())]
        assert all(port.startswith("127.0.0.1:") for port in ports), name
        networks = {*base.get("networks", ()), *service.get("networks", ())}
        internal = all((PRODUCT["networks"][network] or {}).get("internal") for network in networks)
        assert not ports or not internal, name


@pytest.mark.parametrize("service", SERVICES)
def test_changed_sources_are_mounted_where_the_development_image_imports_them_from(service: str) -> None:
    developed = DEVELOPMENT["services"][service]
    assert developed["image"].endswith("-dev")
    stage = stages(ROOT / "services" / service / "Dockerfile")["development"]
    mounted = {
        target: (FOLDER / source).resolve() for source, target, _ in (v.split(":") for v in developed["volumes"])
    }
    assert set(mounted) == set(re.findall(r"PYTHONPATH=(\S+)", stage)[0].split(":"))
    for target, path in mounted.items():
        assert path == ROOT / PurePosixPath(target).relative_to("/src")
        assert path.is_dir()
    rules = [(rule["action"], (FOLDER / rule["path"]).resolve()) for rule in developed["develop"]["watch"]]
    restarting = [("restart", path) for path in mounted.values()]
    assert rules == [*restarting, ("rebuild", ROOT / "services" / service / "requirements.lock")]


def test_variables_are_explained() -> None:
    names = {name for path in FILES for name, _ in _VARIABLE.findall(path.read_text())}
    assert len(names) > 4
    documents = "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    for text in (documents, (ROOT / ".env.example").read_text()):
        assert [name for name in sorted(names) if name not in text] == []
