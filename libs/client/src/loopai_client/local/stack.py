"""The whole product on one machine: which processes it has, how each is told about the others, and in what order."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from loopai_client.local.data_dir import running_stack
from loopai_client.local.nats_server import configured_url, find_nats_server, free_port, nats_config
from loopai_client.local.ports import require_free
from loopai_client.local.probes import http_ready, nats_ready
from loopai_client.local.supervisor import ProcessSpec, Report, Supervisor

DEFAULT_DATA_DIR: Final = Path(".loopai")
DEFAULT_PORT: Final = 8080

_LOOPBACK: Final = "127.0.0.1"
# The learner needs a minute for ten thousand examples of many labels, which a generator that is far away may not take.
_LEARNING: Final = {"LOOPAI_GENERATOR_LEARN_TIMEOUT_SECONDS": "85"}
_PATIENCE: Final = {"LOOPAI_GENERATOR_PROXY_ATTEMPT_TIMEOUT_SECONDS": "90"}
_EVERY_ADDRESS: Final = {"0.0.0.0": _LOOPBACK, "::": "::1"}


@dataclass(frozen=True, slots=True)
class StackSettings:
    """What a local stack can be told.

    ``https`` says that the environment gives the api a certificate. ``nats_url`` ``None`` starts a server; numbers of
    workers that are ``None`` are what the environment says, or 1. ``mongo_url`` and ``redis_url`` ``None`` leave to the
    environment what keeps the data and what caches it, which are files and memory unless it says otherwise.
    ``generator_url`` is an outside generator; the built-in one stands in while that one is unavailable.
    """

    data_dir: Path = DEFAULT_DATA_DIR
    host: str = _LOOPBACK
    port: int = DEFAULT_PORT
    nats_url: str | None = None
    api_workers: int | None = None
    executor_workers: int | None = None
    keys_file: Path | None = None
    https: bool = False
    mongo_url: str | None = None
    redis_url: str | None = None
    generator_url: str | None = None

    @property
    def address(self) -> str:
        """Where the API can be reached from this machine."""
        return _EVERY_ADDRESS.get(self.host, self.host)

    @property
    def url(self) -> str:
        """The API's URL on this machine."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{'https' if self.https else 'http'}://{host}:{self.port}"


class Stack:
    """A planned local stack: its addresses, and the supervisor that runs it."""

    def __init__(self, settings: StackSettings, report: Report) -> None:
        """Plans the stack and writes the configuration of its NATS server.

        Raises :class:`~loopai_client.local.ports.PortTaken` when the API's port is, and
        :class:`~loopai_client.local.nats_server.ServerFailed` when there is no nats-server to start.
        """
        self.data_dir = settings.data_dir.resolve()
        self.logs = self.data_dir / "logs"
        self.url = settings.url
        self.has_keys = settings.keys_file is not None
        require_free(settings.host, settings.port)
        stages = []
        if settings.nats_url is None:
            nats_port = free_port()
            self.nats_url = f"nats://{_LOOPBACK}:{nats_port}"
            stages.append([_nats(self.data_dir, nats_port)])
        else:
            self.nats_url = settings.nats_url
            _nats_config(self.data_dir).unlink(missing_ok=True)  # of a server that does not run now
        stages.append(self._services(settings))
        self.supervisor = Supervisor(stages, self.logs, report)

    def _services(self, settings: StackSettings) -> list[ProcessSpec]:
        generator_port = free_port()
        built_in = f"http://{_LOOPBACK}:{generator_port}"
        return [
            self._service("artifact-store", free_port(), **_backends(settings)),
            self._service("generator", generator_port, **_unless_set(_LEARNING)),
            self._service("executor", free_port(), **_sandbox(), **_workers("executor", settings.executor_workers)),
            self._service("generator-proxy", free_port(), **_generators(settings.generator_url, built_in)),
            self._api(settings),
        ]

    def _api(self, settings: StackSettings) -> ProcessSpec:
        keys = {} if settings.keys_file is None else {"LOOPAI_API_KEYS_FILE": str(settings.keys_file)}
        more = {**keys, **_workers("api", settings.api_workers)}
        ready = http_ready(settings.address, settings.port, https=settings.https)
        return replace(self._service("api", settings.port, host=settings.host, **more), ready=ready)

    def _service(self, name: str, port: int, *, host: str = _LOOPBACK, **more: str) -> ProcessSpec:
        prefix = f"LOOPAI_{name.replace('-', '_').upper()}"
        return ProcessSpec(
            name,
            (sys.executable, "-m", f"loopai_{name.replace('-', '_')}.main"),
            http_ready(_LOOPBACK, port),
            {
                "LOOPAI_NATS_URL": self.nats_url,
                "LOOPAI_DATA_DIR": str(self.data_dir),
                "LOOPAI_LOG_FORMAT": "json",
                f"{prefix}_HOST": host,
                f"{prefix}_PORT": str(port),
                **more,
            },
        )


def sandboxed() -> bool:
    """Whether programs run in the full sandbox, which needs the Linux kernel."""
    return sys.platform == "linux"


def _workers(service: str, workers: int | None) -> dict[str, str]:
    return {} if workers is None else {f"LOOPAI_{service.upper()}_WORKERS": str(workers)}


def _backends(settings: StackSettings) -> dict[str, str]:
    chosen: dict[str, str] = {}
    if settings.mongo_url is not None:
        chosen |= {"CATALOG": "mongodb", "PROGRAMS": "mongodb", "MONGO_URL": settings.mongo_url}
    if settings.redis_url is not None:
        chosen |= {"CACHE": "redis", "REDIS_URL": settings.redis_url}
    return {f"LOOPAI_ARTIFACT_STORE_{name}": value for name, value in chosen.items()}


def _generators(outside: str | None, built_in: str) -> dict[str, str]:
    if outside is None:
        return {"GENERATOR_URL": built_in, **_unless_set(_PATIENCE)}
    return {"GENERATOR_URL": outside, "LOOPAI_GENERATOR_PROXY_FALLBACK_GENERATOR_URL": built_in}


def _unless_set(settings: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in settings.items() if name not in os.environ}


def _sandbox() -> dict[str, str]:
    return {} if sandboxed() else {"LOOPAI_EXECUTOR_SANDBOX": "degraded"}


def nats_url_of(data_dir: Path) -> str | None:
    """The NATS server that the running stack of ``data_dir`` started; ``None`` when there is none."""
    config = _nats_config(data_dir)
    return configured_url(config.read_text()) if running_stack(data_dir) and config.exists() else None


def _nats_config(data_dir: Path) -> Path:
    return data_dir / "nats" / "nats-server.conf"


def _nats(data_dir: Path, port: int) -> ProcessSpec:
    config = _nats_config(data_dir)
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(nats_config(config.parent, _LOOPBACK, port))
    return ProcessSpec(
        "nats-server", (os.fspath(find_nats_server()), "-c", os.fspath(config)), nats_ready(_LOOPBACK, port)
    )
