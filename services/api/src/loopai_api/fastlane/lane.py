"""What the fast lane needs to know of the process: the engine, the metrics, and which paths are its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from loopai_api.bodies import MAX_EXECUTE_BYTES
from loopai_api.execution.engine import ExecutionEngine
from loopai_api.execution.metrics import HttpMetrics
from loopai_api.references import task_reference
from loopai_api.security import HSTS, Guard
from loopai_api.versions import VERSIONS, ApiVersion, Headers
from loopai_common.errors import LoopaiError
from loopai_common.runtime.context import root_share

T = TypeVar("T")

SUFFIX = b"/execute"
_MAX_REMEMBERED = 10_000
_MAX_HEAD_BYTES = 2048
_ALWAYS = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))


class HotVersion:
    """The execute route of one version of the API, with everything that a request needs of it at hand."""

    __slots__ = ("counts", "error_type", "errors", "parse", "prefix", "private_end", "render", "route", "usual_end")

    def __init__(self, version: ApiVersion, http_metrics: HttpMetrics, notice: Headers) -> None:
        self.prefix = f"{version.prefix}/tasks/".encode()
        self.route = f"{version.prefix}/tasks/{{task}}/execute"
        self.parse = version.parse_execute
        self.render = version.render_execution
        self.errors = version.errors
        self.error_type = version.errors.media_type
        always = (*_ALWAYS, *notice)
        self.usual_end = _end_of_head(always)
        """How the head of every answer ends, and how it does where the connection is private."""
        self.private_end = _end_of_head((*always, HSTS))
        self.counts = http_metrics.counts("POST", self.route)

    def path(self, task: str) -> str:
        """The path that named the task."""
        return f"{self.prefix.decode()}{task}/execute"


@dataclass(frozen=True, slots=True)  # no named tuples: the interpreter reads their fields several times slower
class HotPath:
    """What the request line of a hot request says."""

    task: str
    api: HotVersion
    program: tuple[str, int, int]
    """What is asked for unless the body says otherwise, as the engine takes it."""


@dataclass(frozen=True, slots=True)
class HotHeaders:
    """What the headers of a hot request say. Whether it may be made is asked of the guard each time."""

    body_bytes: int
    credential: bytes | None
    """The API key, as a value of ``Authorization``."""
    forwarded_https: bool
    """Whether a proxy says that its client used HTTPS; to be believed of trusted ones alone."""


class FastLane:
    """One for each process."""

    def __init__(
        self,
        engine: ExecutionEngine,
        http_metrics: HttpMetrics,
        default_timeout_ms: int,
        guard: Guard,
        notices: Mapping[str, Headers],
    ) -> None:
        self.engine = engine
        self.guard = guard
        self.metrics = http_metrics
        self.default_timeout_ms = default_timeout_ms
        self.traced_share = root_share()
        self.max_body_bytes = MAX_EXECUTE_BYTES
        self._versions = [HotVersion(v, http_metrics, notices.get(v.name, ())) for v in VERSIONS.values()]
        self._paths: dict[bytes, HotPath] = {}
        self.lines: dict[bytes, HotPath] = {}
        self.headers: dict[bytes, HotHeaders] = {}
        """Request lines and blocks of headers that were parsed before, to their last byte: clients send the same few
        again and again."""

    def remember(self, line: bytes, path: HotPath, block: bytes, headers: HotHeaders) -> None:
        """Keeps what the parser made of a head, unless it is large."""
        if len(line) + len(block) <= _MAX_HEAD_BYTES:
            _keep(self.lines, line, path)
            _keep(self.headers, block, headers)

    def path_of(self, url: bytes) -> HotPath | None:
        """What an execute path names; ``None`` for a path that is not this lane's."""
        found = self._paths.get(url)
        if found is None and url.endswith(SUFFIX):
            found = self._read(url)
            if found is not None:
                _keep(self._paths, url, found)
        return found

    def _read(self, url: bytes) -> HotPath | None:
        for version in self._versions:
            if url.startswith(version.prefix):
                try:
                    task = task_reference(url[len(version.prefix) : -len(SUFFIX)].decode("ascii"))
                except (LoopaiError, UnicodeDecodeError):
                    return None
                return HotPath(task, version, (task, 0, self.default_timeout_ms))
        return None


def _end_of_head(headers: Headers) -> str:
    return "".join(f"{name.decode()}: {value.decode()}\r\n" for name, value in headers) + "\r\n"


def _keep(found: dict[bytes, T], key: bytes, value: T) -> None:
    if len(found) >= _MAX_REMEMBERED:
        found.clear()
    found[key] = value
