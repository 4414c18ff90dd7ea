"""What the api can be told (``LOOPAI_API_…``)."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import from_json

from loopai_api.versions import KNOWN_VERSION, Deprecation
from loopai_common.runtime.settings import WorkersSettings


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
