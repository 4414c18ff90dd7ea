"""Writing the answer to an execution: the output's bytes go into the body as they came from the worker."""

import time
from typing import Protocol

import msgspec

from loopai_api.problems import STATUS_BY_CODE, problem
from loopai_common.contracts.failure import Failure
from loopai_common.contracts.frames import AnswerKind, FrameAnswerGroup
from loopai_common.errors import ERRORS_BY_CODE, Internal, LoopaiError, Violation

_encode = msgspec.json.Encoder().encode
_decode_reason = msgspec.json.Decoder(tuple[str, str]).decode

_SUCCESS = int(AnswerKind.SUCCESS)
_NO_OUTPUT = msgspec.Raw(b"null")
_NO_REASON = '"error_code":null,"error_message":null'

_millisecond = -1
_millisecond_text = ""


def timestamp_now() -> str:
    """The current time as RFC 3339 with milliseconds; the text is kept while it is right."""
    global _millisecond, _millisecond_text
    now = time.time_ns() // 1_000_000
    if now != _millisecond:
        second, fraction = divmod(now, 1000)
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        _millisecond, _millisecond_text = now, f"{text}.{fraction:03d}Z"
    return _millisecond_text


class Origin:
    """What answers that came together have in common, worked out once for all of them.

    ``kind`` is their :class:`~loopai_common.contracts.frames.AnswerKind`, ``came_at`` when they came, on the clock of
    :func:`time.perf_counter`.
    """

    __slots__ = (
        "came_at",
        "closing",
        "kind",
        "latency",
        "latency_ms",
        "program",
        "sampled",
        "task_id",
        "version",
    )

    def __init__(self, group: FrameAnswerGroup, came_at: float, executed_at: str) -> None:
        self.came_at = came_at
        self.task_id = group.task_id
        self.version = group.version
        self.kind = group.kind
        self.sampled = group.sampled
        self.latency_ms = group.latency_us / 1000
        self.latency = f"{group.latency_us // 1000}.{group.latency_us % 1000:03d}"
        """The same as it is written."""
        self.program = f'"task_id":"{group.task_id}","program_id":"{group.program_id}","version":{group.version}'
        self.closing = (
            f'"latency_ms":{self.latency},"sampled_for_validation":{"true" if group.sampled else "false"},'
            f'"executed_at":"{executed_at}","correlation_id":'
        )


Body = tuple[bytes, bytes | msgspec.Raw, bytes]
"""A body in pieces, the output's own bytes in the middle, so that it is put together once, behind its head."""


class Renderer(Protocol):
    """Writes the answer to an execution of the task that the path names: its status and its body."""

    def __call__(
        self, origin: Origin, payload: msgspec.Raw, execution_id: str, sent: str | None, task: str
    ) -> tuple[int, Body]:
        """``sent`` is the caller's own correlation id. Raises the error that stands for a refusal."""


def render_execution(
    origin: Origin, payload: msgspec.Raw, execution_id: str, sent: str | None, task: str
) -> tuple[int, Body]:
    """The status and the body of an ``ExecuteResponse``; raises the error that stands for a refusal.

    A program that failed is an outcome like any other.
    """
    kind = origin.kind
    if kind == _SUCCESS:
        status, output, reason = "success", payload, _NO_REASON
    elif kind in (AnswerKind.ERROR, AnswerKind.TIMEOUT):
        status, output = ("error" if kind == AnswerKind.ERROR else "timeout"), _NO_OUTPUT
        code, message = _reason(payload)
        reason = f'"error_code":{_text(code)},"error_message":{_text(message)}'
    else:
        raise refusal(bytes(payload))
    before = f'{{"execution_id":"{execution_id}",{origin.program},"status":"{status}","output":'
    correlation_id = _text(sent) if sent else f'"{execution_id}"'
    behind = f",{reason},{origin.closing}{correlation_id}}}"
    return 200, (before.encode(), output, behind.encode())


def render_execution_or_problem(
    origin: Origin, payload: msgspec.Raw, execution_id: str, sent: str | None, task: str
) -> tuple[int, Body]:
    """As :func:`render_execution`, but a program that failed is a ``Problem``, with the outcome as ``execution``."""
    outcome = render_execution(origin, payload, execution_id, sent, task)
    if origin.kind == _SUCCESS:
        return outcome
    code = "program_timeout" if origin.kind == AnswerKind.TIMEOUT else "program_error"
    body = problem(
        code,
        _reason(payload)[1],
        sent or execution_id,
        f"/api/v2/tasks/{task}/execute",
        execution=msgspec.Raw(b"".join(outcome[1])),
    )
    return STATUS_BY_CODE[code], (_encode(body), b"", b"")


def _text(text: str) -> str:
    """As a JSON string."""
    return _encode(text).decode()


def server_timing(seconds: float, origin: Origin) -> str:
    """The value of ``Server-Timing``: what the program took of ``seconds``, and the rest; in milliseconds."""
    queue_ms = seconds * 1000 - origin.latency_ms
    return f"queue;dur={queue_ms if queue_ms > 0 else 0:.3f}, run;dur={origin.latency}"


def _reason(payload: msgspec.Raw) -> tuple[str, str]:
    """Why the program failed: the code and the message."""
    try:
        return _decode_reason(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Internal("the executor's answer cannot be read") from error


def refusal(payload: bytes) -> LoopaiError:
    """The error that a refused item carries."""
    try:
        failure = Failure.model_validate_json(payload)
    except ValueError:
        return Internal("the executor's answer cannot be read")
    kind = ERRORS_BY_CODE.get(failure.code, Internal)
    return kind(failure.message, details=[Violation(d.field, d.message, d.code) for d in failure.details])
