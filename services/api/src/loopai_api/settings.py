"""What the api can be told (``LOOPAI_API_…``)."""

import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, FilePath, IPvAnyNetwork, model_validator
from pydantic_core import from_json

from loopai_api.versions import KNOWN_VERSION, Deprecation
from loopai_common.runtime.settings import WorkersSettings

_ORIGIN = re.compile(r"\*|https?://[^/?#\s]+")


def _listed(value: object) -> object:
    """The parts of a comma-separated text."""
    return [part for part in map(str.strip, value.split(",")) if part] if isinstance(value, str) else value


def _an_origin(text: str) -> str:
    if _ORIGIN.fullmatch(text) is None:
        raise ValueError("an origin is a scheme and a host, like https://app.example.com, without a path; or *")
    return text


def _decoded(value: Any) -> Any:
    return from_json(value) if isinstance(value, str) else value


class ApiSettings(WorkersSettings):
    """Settings of one api process."""

    port: int = Field(default=8080, ge=0, le=65535, description="Port of the HTTP API; 0 takes a free one.")
    store_timeout_seconds: float = Field(
        default=10.0, gt=0, description="How long a question to the artifact store may take."
    )
    receive_timeout_seconds: float = Field(
        default=10.0, gt=0, description="Time to send a request, or of a silence in streamed lines; 408 after that."
    )
    keep_alive_seconds: int = Field(
        default=75, ge=1, description="How long an idle connection is kept open for the next request."
    )
    default_timeout_ms: int = Field(
        default=1000, ge=1, le=60_000, description="Time of one execution when the request names none."
    )
    queue_timeout_ms: int = Field(
        default=500, ge=1, le=60_000, description="Time that an execution may wait on top of its own time."
    )
    max_pending_executions: int = Field(
        default=10_000, ge=1, description="Executions waiting for an answer; 503 `overloaded` above that."
    )
    max_frames_in_flight: int = Field(
        default=1,
        ge=1,
        description="Unanswered frames above which further executions are gathered into larger ones.",
    )
    max_connections: int = Field(default=10_000, ge=1, description="Open connections; 503 above that.")
    max_event_streams: int = Field(
        default=1_000, ge=1, description="Clients that follow a task at a time; 503 `overloaded` above that."
    )
    max_batch_memory_bytes: int = Field(
        default=256 * 1024 * 1024,
        ge=64 * 1024 * 1024,
        description="What the bodies and outputs of all JSON batches may take; 503 `overloaded` above that.",
    )
    send_timeout_seconds: float = Field(
        default=30.0, gt=0, description="How long a client may read nothing of its answer; disconnected after that."
    )
    keys_file: Path | None = Field(
        default=None,
        description="File of API keys, made by `loopai keys`; read again when it changes. "
        "Without it only loopback addresses are served.",
    )
    require_https: Literal["auto", "on", "off"] = Field(
        default="auto", description="Refuse plain HTTP; `auto` does so unless the address is a loopback one."
    )
    trusted_proxies: Annotated[tuple[IPvAnyNetwork, ...], BeforeValidator(_listed)] = Field(
        default=(), description="Networks of proxies whose `X-Forwarded-Proto` is believed, comma separated."
    )
    ssl_certfile: FilePath | None = Field(default=None, description="Certificate chain (PEM), to serve HTTPS.")
    ssl_keyfile: FilePath | None = Field(default=None, description="Private key (PEM) of the certificate.")
    cors_origins: Annotated[tuple[Annotated[str, AfterValidator(_an_origin)], ...], BeforeValidator(_listed)] = Field(
        default=(), description="Origins whose pages may call the API from a browser, comma separated; `*` is all."
    )
    fast_lane: Literal["on", "off"] = Field(
        default="on", description="`off` sends every execute request through the ordinary route."
    )
    deprecated_versions: Annotated[
        dict[Annotated[str, Field(pattern=KNOWN_VERSION)], Deprecation], BeforeValidator(_decoded)
    ] = Field(
        default={},
        description="Versions of the API whose responses say so, as JSON: "
        '`{"v1": {"since": "2027-01-01T00:00:00Z", "sunset": "2028-01-01T00:00:00Z"}}`; `sunset` may be left out.',
    )

    @model_validator(mode="after")
    def _certificate_with_its_key(self) -> Self:
        if (self.ssl_certfile is None) != (self.ssl_keyfile is None):
            raise ValueError("ssl_certfile and ssl_keyfile are given together")
        return self

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        try:
            return self.host == "localhost" or ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def https_required(self) -> bool:
        """Whether plain HTTP is refused."""
        return self.require_https == "on" or (self.require_https == "auto" and not self.on_loopback)
