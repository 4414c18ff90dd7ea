"""The versions of the API, side by side on the same use cases: what differs between them is in this table.

A route becomes part of every version by being made by a factory that takes the prefix, ``something_routes(prefix, …)``,
and that ``wiring`` calls once for each version. Errors that it raises are written in the form of the path's version,
and its ``responses=errors(…)`` are documented in that form; the factory itself does nothing about versions. One whose
answers differ asks ``version_of(prefix)`` for what it needs.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime

from pydantic import AwareDatetime, BaseModel, ConfigDict, model_validator

from loopai_api.execution.rendering import Renderer, render_execution, render_execution_or_problem
from loopai_api.execution.requests import ExecuteBody, parse_execute, parse_execute_v2
from loopai_api.models import ExecuteRequest, ExecuteRequestV2
from loopai_api.problems import ERROR_RESPONSE, PROBLEM, ErrorFormat

_VERSION = re.compile(r"/api/(v[0-9]+)(?=/|$)")

Headers = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class ApiVersion:
    """One version. ``program_errors`` are the codes with which it answers for a program that failed.

    ``failed_program`` says the same to the readers of its document.
    """

    name: str
    errors: ErrorFormat
    execute_request: type[BaseModel]
    parse_execute: Callable[[bytes, str], ExecuteBody]
    render_execution: Renderer
    failed_program: str
    program_errors: tuple[str, ...] = ()

    @property
    def prefix(self) -> str:
        """What its paths begin with."""
        return f"/api/{self.name}"


V1 = ApiVersion(
    "v1",
    ERROR_RESPONSE,
    ExecuteRequest,
    parse_execute,
    render_execution,
    "A program that raised answers 200 with `status` `error`, one that ran out of time with `timeout`; `error_code` "
    "and `error_message` say what happened.",
)
V2 = ApiVersion(
    "v2",
    PROBLEM,
    ExecuteRequestV2,
    parse_execute_v2,
    render_execution_or_problem,
    "A program that raised answers 422 `program_error`, one that ran out of time 504 `program_timeout`; `execution` "
    "says what happened.",
    program_errors=("program_error", "program_timeout"),
)
VERSIONS: Mapping[str, ApiVersion] = {version.name: version for version in (V1, V2)}
"""Name → version, the oldest first."""

KNOWN_VERSION = f"^({'|'.join(VERSIONS)})$"
"""A pattern for the names of the versions there are."""


def version_named(path: str) -> str | None:
    """The name of the version that a path begins with, whether there is such a version or not."""
    found = _VERSION.match(path)
    return found[1] if found else None


def version_of(path: str) -> ApiVersion | None:
    """The version that a path belongs to; ``None`` outside the versions there are."""
    return VERSIONS.get(version_named(path) or "")


def error_format(path: str) -> ErrorFormat:
    """How errors are written for a path: outside the versions there are as in the first one."""
    return (version_of(path) or V1).errors


class Deprecation(BaseModel):
    """Since when a version is deprecated, and when it will be gone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    since: AwareDatetime
    sunset: AwareDatetime | None = None

    @model_validator(mode="after")
    def _sunset_after_deprecation(self) -> "Deprecation":
        if self.sunset is not None and self.sunset < self.since:
            raise ValueError("sunset must not be before since")
        return self


def deprecation_headers(deprecated: Mapping[str, Deprecation]) -> dict[str, Headers]:
    """Name of each deprecated version → the headers of all its responses (RFC 9745, RFC 8594, RFC 5829)."""
    names = list(VERSIONS)
    return {name: _notice(deprecated[name], names[names.index(name) + 1 :]) for name in names if name in deprecated}


def _notice(deprecation: Deprecation, newer: list[str]) -> Headers:
    headers = [(b"deprecation", b"@%d" % int(deprecation.since.timestamp()))]
    if deprecation.sunset is not None:
        headers.append((b"sunset", _http_date(deprecation.sunset)))
    if newer:
        headers.append((b"link", f'<{VERSIONS[newer[-1]].prefix}/openapi.json>; rel="successor-version"'.encode()))
    return tuple(headers)


def _http_date(moment: datetime) -> bytes:
    return format_datetime(moment.astimezone(UTC), usegmt=True).encode()
