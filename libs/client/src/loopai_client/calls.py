"""Every operation of the HTTP API: the request, and how its answer is read. Nothing here sends anything.

The two clients in :mod:`loopai_client.client` turn each of these functions into a method.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, Generic, TypeVar
from urllib.parse import quote
from uuid import UUID, uuid4

from pydantic import BaseModel

from loopai_client.errors import TimedOut
from loopai_client.framing import EventLines, encode_json
from loopai_client.models import (
    Activation,
    ActivationPage,
    Artifact,
    ArtifactPage,
    BatchItem,
    BatchLine,
    BatchResult,
    Comparison,
    EntryPoint,
    Execution,
    ExecutionAccepted,
    ExecutionPage,
    ExecutionRecord,
    GenerationStarted,
    Health,
    Isolation,
    Json,
    Readiness,
    RecordStatus,
    SynthesisStrategy,
    Task,
    TaskEvent,
    TaskPage,
    TaskStatus,
    TaskSummary,
)

MAX_WAIT_SECONDS: Final = 60
NDJSON: Final = "application/x-ndjson"

_PREFIX = "/api/v1"
_PAGE = "200"
_BATCH_SECONDS = 300.0
_CHECK_SECONDS = 60.0
_READ_SECONDS = 10.0
_SILENCE_SECONDS = 60.0
_FIRST_POLL_SECONDS = 0.05
_LONGEST_POLL_SECONDS = 1.0
_UNREADY = frozenset({503})

T = TypeVar("T")
S = TypeVar("S")
M = TypeVar("M", bound=BaseModel)

TaskReference = str | UUID
"""A task's id or its name."""


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A request, and how the body of its answer is read; ``read`` raises :class:`ValueError` for what is not Loopai's.

    ``repeatable``: carrying it out twice makes no difference. ``extra_seconds``: what the server is asked to take, on
    top of the client's time. ``patience_seconds`` bounds an attempt, and of a stream each silence.
    """

    method: str
    path: str
    read: Callable[[bytes], T]
    content: bytes | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = False
    extra_seconds: float = 0.0
    patience_seconds: float = math.inf
    also_read: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Paged(Generic[T]):
    """A list that is fetched page by page; ``page`` is the call for what follows a cursor."""

    page: Callable[[str | None], Call[tuple[Sequence[T], str | None]]]


@dataclass(frozen=True, slots=True)
class Polled(Generic[T]):
    """A call that is made again and again ``until`` its answer will do, for ``seconds`` at most."""

    call: Call[T]
    until: Callable[[T], bool]
    seconds: float
    what: str

    def pauses(self, clock: Callable[[], float]) -> Iterator[float]:
        """The pauses after the calls: growing, capped, and none once the time is up."""
        deadline, pause = clock() + self.seconds, _FIRST_POLL_SECONDS
        yield pause
        while (left := deadline - clock()) > 0:
            pause = min(pause * 1.5, _LONGEST_POLL_SECONDS, left)
            yield pause

    def expired(self) -> TimedOut:
        """What is raised when the time is up."""
        return TimedOut(f"{self.what} takes longer than {self.seconds:g} s")


def create_task(
    definition: Mapping[str, Json], *, wait_seconds: int = 0, idempotency_key: str | None = None
) -> Call[Task]:
    """Creates a task; with ``wait_seconds`` (at most 60) answers when it is ready or failed, if that is sooner.

    The same ``idempotency_key`` makes the same task, and not two; without it every call has one of its own.
    """
    prefer = {"Prefer": f"wait={wait_seconds}"} if wait_seconds else {}
    headers = {**_keyed(idempotency_key), **prefer}
    return _post("/tasks", _model(Task), definition, headers=headers, repeatable=True, extra_seconds=wait_seconds)


def get_task(task: TaskReference) -> Call[Task]:
    """The task with this id or name, with its examples."""
    return _get(_path(task), _model(Task))


def list_tasks(*, status: TaskStatus | None = None, name_prefix: str | None = None) -> Paged[TaskSummary]:
    """All tasks in the order of their creation, fetched page by page, without their examples."""
    return _paged("/tasks", TaskPage, status=status, name_prefix=name_prefix)


def update_task(
    task: TaskReference,
    *,
    expected_revision: int | None = None,
    description: str | None = None,
    accuracy_target: float | None = None,
    latency_target_ms: int | None = None,
    sampling_rate: float | None = None,
    isolation: Isolation | None = None,
    comparison: Comparison | None = None,
    comparison_threshold: float | None = None,
    examples: Sequence[Mapping[str, Json]] = (),
) -> Call[Task]:
    """Changes what is given; ``examples`` are added to those there are.

    With ``expected_revision``, the ``revision`` that was read, raises :class:`Conflict` when the task is another now.
    """
    body = _given(
        description=description,
        accuracy_target=accuracy_target,
        latency_target_ms=latency_target_ms,
        sampling_rate=sampling_rate,
        isolation=isolation,
        comparison=comparison,
        comparison_threshold=comparison_threshold,
        examples=list(examples) or None,
    )
    headers = {} if expected_revision is None else {"If-Match": f'"{expected_revision}"'}
    return _send("PATCH", _path(task), _model(Task), body, headers=headers)


def archive_task(task: TaskReference) -> Call[None]:
    """The task runs no more; it can still be read, and its name stays taken. Doing it again changes nothing."""
    return Call("DELETE", f"{_PREFIX}{_path(task)}", _nothing, repeatable=True)


def generate(
    task: TaskReference,
    *,
    constraints: str | None = None,
    strategy: SynthesisStrategy | None = None,
    examples: Sequence[Mapping[str, Json]] = (),
    idempotency_key: str | None = None,
) -> Call[GenerationStarted]:
    """Has another version made, on the task's examples and these. It takes over when it is not worse.

    The same ``idempotency_key`` starts the same generation, and not two; without it every call has one of its own.
    """
    body = _given(constraints=constraints, strategy=strategy, examples=list(examples) or None)
    headers = _keyed(idempotency_key)
    return _post(f"{_path(task)}/generate", _model(GenerationStarted), body, headers=headers, repeatable=True)


def wait_for_task(task: TaskReference, *, seconds: float = 300.0) -> Polled[Task]:
    """The task, once its generation has ended: ``ready`` or ``failed``; raises :class:`TimedOut` after ``seconds``."""
    return Polled(get_task(task), lambda found: found.status != TaskStatus.GENERATING, seconds, "the generation")


def execute(
    task: TaskReference,
    value: Json,
    *,
    version: int | None = None,
    timeout_ms: int | None = None,
    force_validation: bool = False,
) -> Call[Execution]:
    """Runs the program of a task on one input. A program that raises is an outcome, not an exception."""
    body = _execution(value, version, timeout_ms, force_validation)
    extra_seconds = (timeout_ms or 0) / 1000
    return _post(f"{_path(task)}/execute", _model(Execution), body, repeatable=True, extra_seconds=extra_seconds)


def execute_async(
    task: TaskReference,
    value: Json,
    *,
    version: int | None = None,
    timeout_ms: int | None = None,
    force_validation: bool = False,
) -> Call[ExecutionAccepted]:
    """Queues one input durably; the outcome is in the record, see ``wait_for_execution``."""
    body = _execution(value, version, timeout_ms, force_validation)
    headers = {"Prefer": "respond-async"}
    return _post(f"{_path(task)}/execute", _model(ExecutionAccepted), body, headers=headers)


def get_execution(execution: str | UUID) -> Call[ExecutionRecord]:
    """The record of an asynchronous or sampled execution; ``accepted`` until it has run."""
    return _get(f"/executions/{quote(str(execution), safe='')}", _model(ExecutionRecord))


def wait_for_execution(execution: str | UUID, *, seconds: float = 60.0) -> Polled[ExecutionRecord]:
    """The record, once the execution has run; raises :class:`TimedOut` after ``seconds``."""
    found = get_execution(execution)
    return Polled(found, lambda record: record.status != RecordStatus.ACCEPTED, seconds, "the execution")


def list_executions(
    task: TaskReference, *, status: RecordStatus | None = None, since: datetime | None = None
) -> Paged[ExecutionRecord]:
    """The recorded executions of a task, newest first, fetched page by page; ``since`` needs a time zone."""
    moment = None if since is None else since.isoformat()
    return _paged(f"{_path(task)}/executions", ExecutionPage, status=status, since=moment)


def batch(
    task: TaskReference,
    items: Iterable[BatchItem],
    *,
    version: int | None = None,
    max_concurrency: int | None = None,
    stop_on_first_error: bool = False,
    timeout_ms: int | None = None,
) -> Call[BatchResult]:
    """Runs up to 10,000 items in one request. An item that fails does so alone; ``timeout_ms`` is for each."""
    body = _given(
        items=[_item(item, number) for number, item in enumerate(items, 1)],
        version=version,
        max_concurrency=max_concurrency,
        stop_on_first_error=stop_on_first_error or None,
        timeout_ms=timeout_ms,
    )
    path = f"{_path(task)}/execute/batch"
    return _post(path, _model(BatchResult), body, repeatable=True, extra_seconds=_BATCH_SECONDS)


def list_artifacts(task: TaskReference, *, include_code: bool = False) -> Paged[Artifact]:
    """The versions of a task's program, oldest first, fetched page by page."""
    return _paged(f"{_path(task)}/artifacts", ArtifactPage, include="code" if include_code else None)


def get_artifact(task: TaskReference, version: int | None = None) -> Call[Artifact]:
    """One version of a task's program with its source, ``None``: the active one."""
    return _get(f"{_path(task)}/artifacts/{_version(version)}", _model(Artifact))


def get_code(task: TaskReference, version: int | None = None) -> Call[str]:
    """The source of one version, ``None``: of the active one."""
    return _get(f"{_path(task)}/artifacts/{_version(version)}/code", bytes.decode)


def upload_artifact(
    task: TaskReference,
    code: str,
    *,
    entry_point: EntryPoint | None = None,
    strategy: SynthesisStrategy | None = None,
    activate: bool = True,
    idempotency_key: str | None = None,
) -> Call[Artifact]:
    """Hands in a program, which is checked like a generated one and becomes the next version.

    Raises :class:`InvalidRequest` with ``code`` ``program_rejected`` when it does not pass.
    """
    body = _given(code=code, entry_point=entry_point, synthesis_strategy=strategy, activate=activate)
    return _post(
        f"{_path(task)}/artifacts",
        _model(Artifact),
        body,
        headers=_keyed(idempotency_key),
        repeatable=True,
        extra_seconds=_CHECK_SECONDS,
    )


def activate(
    task: TaskReference,
    version: int,
    *,
    percentage: float = 100.0,
    reason: str = "",
    expected_version: int | None = None,
) -> Call[Artifact]:
    """Makes a version the active one, forward or back; below 100 it gets that share of the executions instead.

    With ``expected_version``, raises :class:`Conflict` when another version is active now.
    """
    body = _given(percentage=percentage, reason=reason or None, expected_version=expected_version)
    return _post(f"{_path(task)}/artifacts/{version}/activate", _model(Artifact), body)


def list_activations(task: TaskReference) -> Paged[Activation]:
    """Which version was given which share of the executions, newest first, fetched page by page."""
    return _paged(f"{_path(task)}/activations", ActivationPage)


def health() -> Call[Health]:
    """That the process answers; says nothing about what it depends on."""
    return _get("/health", _model(Health))


def readiness() -> Call[Readiness]:
    """Whether the API can work, and what is missing where it cannot, which is no error."""
    return _get("/health/ready", _model(Readiness), also_read=_UNREADY)


def metrics() -> Call[str]:
    """The API's metrics, in Prometheus' text format."""
    return _get("/metrics", bytes.decode)


class EventStream:
    """The events of one task, over as many connections as it takes, until the server says that no more will come."""

    def __init__(self, task: TaskReference, last_event_id: str | None) -> None:
        self._path = f"{_PREFIX}{_path(task)}/events"
        self._lines = EventLines(last_event_id)
        self.finished = False

    def answered(self, status: int) -> None:
        """204 means not to come again (WHATWG HTML, 9.2.3)."""
        self.finished = status == 204

    @property
    def pause_seconds(self) -> float:
        """How long the server asks to wait before the next connection."""
        return self._lines.retry_seconds

    def call(self) -> Call[None]:
        """The request that goes on where the last connection ended."""
        self._lines.reconnected()
        last = {} if self._lines.last_id is None else {"Last-Event-ID": self._lines.last_id}
        headers = {"Accept": "text/event-stream", **last}
        return Call(
            "GET",
            self._path,
            _nothing,
            headers=headers,
            repeatable=True,
            extra_seconds=math.inf,
            patience_seconds=_SILENCE_SECONDS,
        )

    def feed(self, line: bytes) -> TaskEvent | None:
        """The event that the line completes, if any; that the task is archived is the last one."""
        event = self._lines.feed(line)
        if event is not None and _is_last(event):
            self.finished = True
        return event


class BatchWindow:
    """Some lines of a streamed batch in one request; what was not answered when it broke off is sent again."""

    pause_seconds = 0.0

    def __init__(self, path: str, params: Mapping[str, str], lines: Sequence[bytes], first: int) -> None:
        self._path = path
        self._params = params
        self._lines = lines
        self._first = first
        self._done = 0

    @property
    def finished(self) -> bool:
        """Whether every line was answered."""
        return self._done == len(self._lines)

    def answered(self, status: int) -> None:
        """The lines say all there is to know."""

    def call(self) -> Call[None]:
        """The request with what is not answered yet. Executions are pure, so it may be carried out twice."""
        content = b"".join(self._lines[self._done :])
        return Call(
            "POST",
            self._path,
            _nothing,
            content,
            self._params,
            {"Content-Type": NDJSON},
            repeatable=True,
            extra_seconds=_BATCH_SECONDS,
        )

    def feed(self, line: bytes) -> BatchLine | None:
        """The result in the line. Raises :class:`ValueError` when there are more of them than lines were sent."""
        if self.finished:
            raise ValueError("more results than lines")
        result = BatchLine.model_validate_json(line)
        self._done += 1
        return result.model_copy(update={"line": self._first + self._done - 1})


class StreamedBatch:
    """A batch of any length: encodes its items, and makes the windows' requests."""

    def __init__(self, task: TaskReference, options: Mapping[str, int | None]) -> None:
        self._path = f"{_PREFIX}{_path(task)}/execute/batch"
        self._params = {name: str(value) for name, value in options.items() if value is not None}
        self._items = 0
        self._sent = 0

    def line(self, item: BatchItem) -> bytes:
        """The next item as its line."""
        self._items += 1
        return encode_json(_item(item, self._items)) + b"\n"

    def window(self, lines: Sequence[bytes]) -> BatchWindow:
        """The request for the next lines."""
        window = BatchWindow(self._path, self._params, lines, self._sent + 1)
        self._sent += len(lines)
        return window


def _path(task: TaskReference) -> str:
    return f"/tasks/{quote(str(task), safe='')}"


def _version(version: int | None) -> str:
    return "active" if version is None else str(version)


def _given(**fields: Json) -> dict[str, Json]:
    return {name: value for name, value in fields.items() if value is not None}


def _keyed(idempotency_key: str | None) -> dict[str, str]:
    return {"Idempotency-Key": idempotency_key or str(uuid4())}


def _execution(value: Json, version: int | None, timeout_ms: int | None, force_validation: bool) -> dict[str, Json]:
    given = _given(version=version, timeout_ms=timeout_ms, force_validation=force_validation or None)
    return {"input": value, **given}


def _item(item: BatchItem, number: int) -> dict[str, Json]:
    force = {"force_validation": True} if item.force_validation else {}
    return {"id": str(number) if item.id is None else item.id, "input": item.input, **force}


def _is_last(event: TaskEvent) -> bool:
    state = event.data if event.kind == "task" and isinstance(event.data, dict) else {}
    return event.kind == "task.archived" or state.get("status") == TaskStatus.ARCHIVED


def _model(model: type[M]) -> Callable[[bytes], M]:
    return model.model_validate_json


def _nothing(_: bytes) -> None:
    """There is no body to read."""


def _get(path: str, read: Callable[[bytes], T], also_read: frozenset[int] = frozenset()) -> Call[T]:
    prefix = "" if path.startswith(("/health", "/metrics")) else _PREFIX
    return Call("GET", f"{prefix}{path}", read, repeatable=True, patience_seconds=_READ_SECONDS, also_read=also_read)


def _post(path: str, read: Callable[[bytes], T], body: Mapping[str, Json], **more: Any) -> Call[T]:
    return _send("POST", path, read, body, **more)


def _send(
    method: str,
    path: str,
    read: Callable[[bytes], T],
    body: Mapping[str, Json],
    *,
    headers: Mapping[str, str] | None = None,
    repeatable: bool = False,
    extra_seconds: float = 0.0,
) -> Call[T]:
    sent = {"Content-Type": "application/json", **(headers or {})}
    content = encode_json(body)
    return Call(method, f"{_PREFIX}{path}", read, content, {}, sent, repeatable=repeatable, extra_seconds=extra_seconds)


def _paged(path: str, page: type[Any], **filters: str | None) -> Paged[Any]:
    def after(cursor: str | None) -> Call[tuple[Sequence[Any], str | None]]:
        params = {"limit": _PAGE, **_given(cursor=cursor, **filters)}
        return replace(_get(path, read), params=params)

    def read(body: bytes) -> tuple[Sequence[Any], str | None]:
        found = page.model_validate_json(body)
        return found.items, found.next_cursor

    return Paged(after)
