"""Settings: read once, from the environment, by the service's ``create_app``; frozen, and strict about names."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

DEFAULT_NATS_URL = "nats://127.0.0.1:4222"

PREFIXES = {
    "api": "LOOPAI_API_",
    "executor": "LOOPAI_EXECUTOR_",
    "generator-proxy": "LOOPAI_GENERATOR_PROXY_",
    "artifact-store": "LOOPAI_ARTIFACT_STORE_",
    "generator": "LOOPAI_GENERATOR_",
}
"""What the environment variables of each service start with."""


class SettingsError(Exception):
    """The environment holds a setting that is unknown or bad; the message says which, and what is allowed."""


class ServiceSettings(BaseModel):
    """What every service can be told. A service's own class adds its fields.

    A field ``x`` is read from ``<prefix>X``; one with ``env`` in its ``json_schema_extra`` also from that variable. A
    variable whose name ends with ``_FILE`` names a file that holds the value, as secrets are handed to containers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    nats_url: str = Field(
        default=DEFAULT_NATS_URL,
        description="Address of the NATS server, or several, comma separated.",
        json_schema_extra={"env": "LOOPAI_NATS_URL"},
    )
    data_dir: Path = Field(
        default=Path(".loopai"),
        description="Where state is kept by the services that keep any.",
        json_schema_extra={"env": "LOOPAI_DATA_DIR"},
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info",
        description="The least severe level that is logged.",
        json_schema_extra={"env": "LOOPAI_LOG_LEVEL"},
    )
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto",
        description="`json` for machines, `console` for people; `auto` looks whether the output is a terminal.",
        json_schema_extra={"env": "LOOPAI_LOG_FORMAT"},
    )
    host: str = Field(default="127.0.0.1", description="Address the service's HTTP side listens on.")
    port: int = Field(default=0, ge=0, le=65535, description="Port of the HTTP side; 0 takes a free one.")
    shutdown_grace_seconds: float = Field(
        default=20.0, gt=0, description="How long accepted work may take to finish after SIGTERM."
    )


class WorkersSettings(ServiceSettings):
    """What a service can be told that runs in several processes; limits and caches are those of each of them."""

    workers: int = Field(default=1, ge=1, le=64, description="Processes that share the port and the work.")


_NOBODYS = frozenset({"LOOPAI_API_KEY"})
"""Variables of clients, which no service reads, though a service's prefix begins them."""

S = TypeVar("S", bound=ServiceSettings)


def variables_of(name: str, field: FieldInfo, prefix: str) -> tuple[str, ...]:
    """The environment variables that set a field, the first one winning."""
    extra = field.json_schema_extra
    also = extra.get("env") if isinstance(extra, dict) else None
    return (f"{prefix}{name.upper()}", *((str(also),) if also else ()))


def load_settings(kind: type[S], service: str, environ: Mapping[str, str] | None = None) -> S:
    """Reads the settings of ``service`` (a key of ``PREFIXES``) from the environment.

    Raises :class:`SettingsError` for unknown names under the service's prefix and for bad values.
    """
    environ = os.environ if environ is None else environ
    prefix = PREFIXES[service]
    values: dict[str, Any] = {}
    for name, field in kind.model_fields.items():
        for variable in variables_of(name, field, prefix):
            if variable in environ:
                values[name] = environ[variable]
                break
            if f"{variable}_FILE" in environ and f"{name}_file" not in kind.model_fields:
                values[name] = _content(f"{variable}_FILE", environ[f"{variable}_FILE"])
                break
    known = {f"{prefix}{name.upper()}" for name in kind.model_fields}
    others = tuple(other for other in PREFIXES.values() if other != prefix and other.startswith(prefix))
    unknown = sorted(
        v
        for v in environ
        if v.startswith(prefix) and not v.startswith(others) and not {v, v.removesuffix("_FILE")} & (known | _NOBODYS)
    )
    if unknown:
        raise SettingsError(f"unknown setting {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    try:
        return kind.model_validate(values)
    except pydantic.ValidationError as error:
        problems = "; ".join(
            f"{prefix}{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors(include_input=False)
        )
        raise SettingsError(problems) from error


def _content(variable: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise SettingsError(f"{variable}: the file {path!r} cannot be read: {reason}") from error
