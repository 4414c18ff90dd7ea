"""The Python client: typed calls of the HTTP API, blocking (:class:`LoopaiClient`) and asyncio."""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar
from urllib.parse import quote

import httpx

DEFAULT_URL: Final = "http://127.0.0.1:8080"
MAX_WAIT_SECONDS: Final = 60

_PREFIX = "/api/v1"
_TIMEOUT_SECONDS = 30.0
_HEADER_VALUE = re.compile(r"[\x21-\x7e]+")

Json = Any
"""A JSON value."""

T = TypeVar("T")


class LoopaiError(Exception):
    """Base of what the client raises."""


class Unreachable(LoopaiError):
    """Nobody answers at the URL, or not in time."""


@dataclass(frozen=True, slots=True)
class Detail:
    """One violation: where, what to do, and the name of the rule."""

    field: str
    message: str
    code: str


class ApiError(LoopaiError):
    """The API answered with an error; ``code`` is stable, ``message`` and ``details`` say what to do."""

    def __init__(self, status: int, code: str, message: str, details: Sequence[Detail] = ()) -> None:
        super().__init__(f"{code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.details = tuple(details)


@dataclass(frozen=True, slots=True)
class Task:
    """A task. ``body`` is everything the API said."""

    id: str
    name: str
    status: str
    status_reason: str | None
    active_version: int | None
    body: Mapping[str, Json] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Execution:
    """One run of a program. ``latency_ms`` is the time in the sandbox. ``body`` is everything the API said."""

    status: str
    output: Json
    error_message: str | None
    version: int
    latency_ms: float
    body: Mapping[str, Json] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Artifact:
    """One version of a task's program. ``body`` is everything the API said."""

    version: int
    status: str
    size_bytes: int
    digest: str
    synthesis_strategy: str
    confidence_score: float
    body: Mapping[str, Json] = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Call(Generic[T]):
    """A request and how its answer is read: what both clients share."""

    method: str
    path: str
    decode: Callable[[httpx.Response], T]
    json: Json = None
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_seconds: float = _TIMEOUT_SECONDS

    def arguments(self) -> dict[str, Any]:
        """As httpx takes them. GET has no body."""
        body = {} if self.method == "GET" else {"json": self.json}
        return {"params": self.params, "headers": self.headers, "timeout": self.timeout_seconds, **body}


def _create_task(definition: Mapping[str, Json], wait_seconds: int) -> _Call[Task]:
    headers = {"Prefer": f"wait={wait_seconds}"} if wait_seconds else {}
    timeout = _TIMEOUT_SECONDS + wait_seconds
    return _Call("POST", f"{_PREFIX}/tasks", _task, definition, headers=headers, timeout_seconds=timeout)


def _get_task(task: str) -> _Call[Task]:
    return _Call("GET", f"{_PREFIX}/tasks/{quote(task, safe='')}", _task)


def _list_tasks(limit: int, cursor: str | None) -> _Call[tuple[list[Task], str | None]]:
    params = {"limit": str(limit), **({"cursor": cursor} if cursor else {})}
    return _Call("GET", f"{_PREFIX}/tasks", _task_page, params=params)


def _execute(task: str, value: Json, version: int | None) -> _Call[Execution]:
    body = {"input": value, **({} if version is None else {"version": version})}
    return _Call("POST", f"{_PREFIX}/tasks/{quote(task, safe='')}/execute", _execution, body)


def _get_artifact(task: str, version: int | None) -> _Call[Artifact]:
    return _Call("GET", f"{_PREFIX}/tasks/{quote(task, safe='')}/artifacts/{version or 'active'}", _artifact)


def _list_artifacts(task: str) -> _Call[list[Artifact]]:
    return _Call("GET", f"{_PREFIX}/tasks/{quote(task, safe='')}/artifacts", _artifacts, params={"limit": "200"})


def _get_code(task: str, version: int | None) -> _Call[str]:
    path = f"{_PREFIX}/tasks/{quote(task, safe='')}/artifacts/{version or 'active'}/code"
    return _Call("GET", path, lambda response: response.text)


def _ready() -> _Call[bool]:
    return _Call("GET", "/health/ready", lambda response: bool(response.json()["checks"]))


class LoopaiClient:
    """Calls one Loopai API, blocking. Safe to share among threads; close it, or use it in a ``with``.

    Without ``api_key``, ``LOOPAI_API_KEY`` of the environment is sent where it is set; an empty one is none. Every
    method raises :class:`ApiError` and :class:`Unreachable`.
    """

    def __init__(self, url: str = DEFAULT_URL, *, api_key: str | None = None) -> None:
        self.url = url.rstrip("/")
        self._http = httpx.Client(
            base_url=_base_url(self.url), headers=_authorization(api_key), trust_env=not _is_loopback(self.url)
        )

    def create_task(self, definition: Mapping[str, Json], *, wait_seconds: int = 0) -> Task:
        """Creates a task; with ``wait_seconds`` (at most 60) answers when it is ready or failed, if that is sooner."""
        return self._send(_create_task(definition, wait_seconds))

    def get_task(self, task: str) -> Task:
        """The task with this id or name."""
        return self._send(_get_task(task))

    def list_tasks(self) -> Iterable[Task]:
        """All tasks in the order of their creation, fetched page by page."""
        cursor: str | None = None
        while True:
            tasks, cursor = self._send(_list_tasks(200, cursor))
            yield from tasks
            if cursor is None:
                return

    def execute(self, task: str, value: Json, *, version: int | None = None) -> Execution:
        """Runs the program of a task on one input. A program that raises is an outcome, not an exception."""
        return self._send(_execute(task, value, version))

    def list_artifacts(self, task: str) -> list[Artifact]:
        """The first 200 versions of a task's program, oldest first."""
        return self._send(_list_artifacts(task))

    def get_artifact(self, task: str, version: int | None = None) -> Artifact:
        """One version of a task's program, ``None``: the active one."""
        return self._send(_get_artifact(task, version))

    def get_code(self, task: str, version: int | None = None) -> str:
        """The source of one version, ``None``: of the active one."""
        return self._send(_get_code(task, version))

    def ready(self) -> bool:
        """``True`` when the API can work; raises :class:`ApiError` with what is missing when it cannot."""
        return self._send(_ready())

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, call: _Call[T]) -> T:
        try:
            response = self._http.request(call.method, call.path, **call.arguments())
        except httpx.TransportError as error:
            raise _unreachable(self.url, error) from error
        return _decoded(call, response)


class AsyncLoopaiClient:
    """As :class:`LoopaiClient`, for asyncio."""

    def __init__(self, url: str = DEFAULT_URL, *, api_key: str | None = None) -> None:
        self.url = url.rstrip("/")
        self._http = httpx.AsyncClient(
            base_url=_base_url(self.url), headers=_authorization(api_key), trust_env=not _is_loopback(self.url)
        )

    async def create_task(self, definition: Mapping[str, Json], *, wait_seconds: int = 0) -> Task:
        """Creates a task; with ``wait_seconds`` (at most 60) answers when it is ready or failed, if that is sooner."""
        return await self._send(_create_task(definition, wait_seconds))

    async def get_task(self, task: str) -> Task:
        """The task with this id or name."""
        return await self._send(_get_task(task))

    async def execute(self, task: str, value: Json, *, version: int | None = None) -> Execution:
        """Runs the program of a task on one input. A program that raises is an outcome, not an exception."""
        return await self._send(_execute(task, value, version))

    async def get_artifact(self, task: str, version: int | None = None) -> Artifact:
        """One version of a task's program, ``None``: the active one."""
        return await self._send(_get_artifact(task, version))

    async def get_code(self, task: str, version: int | None = None) -> str:
        """The source of one version, ``None``: of the active one."""
        return await self._send(_get_code(task, version))

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _send(self, call: _Call[T]) -> T:
        try:
            response = await self._http.request(call.method, call.path, **call.arguments())
        except httpx.TransportError as error:
            raise _unreachable(self.url, error) from error
        return _decoded(call, response)


def _base_url(url: str) -> httpx.URL:
    try:
        return httpx.URL(url)
    except httpx.InvalidURL as error:
        raise Unreachable(f"{url} is no URL: {error}") from error


def _authorization(api_key: str | None) -> dict[str, str]:
    """The header with the key. What cannot be one is refused here: the errors of HTTP libraries would show it."""
    key = (os.environ.get("LOOPAI_API_KEY", "") if api_key is None else api_key).strip()
    if not key:
        return {}
    if _HEADER_VALUE.fullmatch(key) is None:
        raise LoopaiError("the API key has characters that no key has")
    return {"Authorization": f"Bearer {key}"}


def _is_loopback(url: str) -> bool:
    """Whether the URL is on this machine, where a proxy from the environment has no place."""
    return _base_url(url).host in {"127.0.0.1", "::1", "localhost"}


def _unreachable(url: str, error: httpx.TransportError) -> Unreachable:
    why = "did not answer in time" if isinstance(error, httpx.TimeoutException) else str(error) or type(error).__name__
    return Unreachable(f"cannot reach Loopai at {url}: {why}. Is it running? Start it with `loopai up`.")


def _decoded(call: _Call[T], response: httpx.Response) -> T:
    if not response.is_success:
        raise _api_error(response)
    try:
        return call.decode(response)
    except (ValueError, TypeError, KeyError) as error:
        message = f"{call.method} {call.path} answered something that is not Loopai's; is the URL right?"
        raise ApiError(response.status_code, "unexpected_answer", message) from error


def _api_error(response: httpx.Response) -> ApiError:
    """The error that a response tells; of readiness and foreign servers, what can be told."""
    try:
        body = response.json()
    except ValueError:
        body = {}
    if not isinstance(body, dict):
        body = {}
    if "code" in body:
        details = [
            Detail(str(d.get("field", "")), str(d.get("message", "")), str(d.get("code", "")))
            for d in body.get("details") or ()
            if isinstance(d, dict)
        ]
        return ApiError(response.status_code, str(body["code"]), str(body.get("message", "")), details)
    checks = body.get("checks")
    if isinstance(checks, dict):
        failed = [f"{n}: {c.get('detail')}" for n, c in checks.items() if c.get("status") == "unhealthy"]
        return ApiError(response.status_code, "not_ready", "; ".join(failed) or "not ready")
    return ApiError(response.status_code, "unexpected_answer", f"HTTP {response.status_code} {response.reason_phrase}")


def _task(response: httpx.Response) -> Task:
    return _task_of(response.json())


def _task_of(body: Mapping[str, Json]) -> Task:
    return Task(body["id"], body["name"], body["status"], body.get("status_reason"), body["active_version"], body)


def _task_page(response: httpx.Response) -> tuple[list[Task], str | None]:
    body = response.json()
    return [_task_of(item) for item in body["items"]], body["next_cursor"]


def _execution(response: httpx.Response) -> Execution:
    body = response.json()
    return Execution(
        body["status"], body["output"], body["error_message"], body["version"], float(body["latency_ms"]), body
    )


def _artifact(response: httpx.Response) -> Artifact:
    return _artifact_of(response.json())


def _artifacts(response: httpx.Response) -> list[Artifact]:
    return [_artifact_of(item) for item in response.json()["items"]]


def _artifact_of(body: Mapping[str, Json]) -> Artifact:
    return Artifact(
        version=body["version"],
        status=body["status"],
        size_bytes=body["size_bytes"],
        digest=body["digest"],
        synthesis_strategy=body["synthesis_strategy"],
        confidence_score=body["confidence_score"],
        body=body,
    )
