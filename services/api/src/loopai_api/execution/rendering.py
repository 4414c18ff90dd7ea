"""Writing the answer to an execution: the output's bytes go into the body as they came from the worker."""

import time
from collections.abc import Callable
from functools import lru_cache

import msgspec

from loopai_api.problems import STATUS_BY_CODE, problem
from loopai_common.contracts.failure import Failure
from loopai_common.contracts.frames import AnswerKind, FrameAnswer, FrameAnswerGroup, FrameItem
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
    """What the answers of one program that came together have in common, worked out once for all of them.

    ``came_at`` is when they came, on the clock of :func:`time.perf_counter`.
    """

    __slots__ = ("came_at", "executed_at", "program", "task_id", "version")

    def __init__(self, group: FrameAnswerGroup) -> None:
        self.task_id = group.task_id
        self.version = group.version
        self.program = f'"task_id":"{group.task_id}","program_id":"{group.program_id}","version":{group.version}'
        self.executed_at = timestamp_now()
        self.came_at = time.perf_counter()


Renderer = Callable[[FrameItem, Origin, FrameAnswer, str], tuple[int, bytes]]
"""Writes the answer to an execution of the task that the path names: its status and its body."""


@lru_cache(maxsize=1024)  # the executions of a batch took the same time
def _milliseconds(microseconds: int) -> str:
    return f"{microseconds // 1000}.{microseconds % 1000:03d}"


def render_execution(item: FrameItem, origin: Origin, answer: FrameAnswer, _task: str) -> tuple[int, bytes]:
    """The status and the body of an ``ExecuteResponse``; raises the error that stands for a refusal.

    A program that failed is an outcome like any other.
    """
    kind = answer.kind
    if kind == _SUCCESS:
        status, output, reason = "success", answer.payload, _NO_REASON
    elif kind in (AnswerKind.ERROR, AnswerKind.TIMEOUT):
        status, output = ("error" if kind == AnswerKind.ERROR else "timeout"), _NO_OUTPUT
        code, message = _reason(answer)
        reason = f'"error_code":{_text(code)},"error_message":{_text(message)}'
    else:
        raise refusal(bytes(answer.payload))
    execution_id, sent = item.execution_id, item.correlation_id
    before = f'{{"execution_id":"{execution_id}",{origin.program},"status":"{status}","output":'
    correlation_id = _text(sent) if sent else f'"{execution_id}"'
    behind = (
        f',{reason},"latency_ms":{_milliseconds(answer.latency_us)},'
        f'"sampled_for_validation":{"true" if answer.sampled else "false"},"executed_at":"{origin.executed_at}",'
        f'"correlation_id":{correlation_id}}}'
    )
    return 200, b"".join((before.encode(), output, behind.encode()))


def render_execution_or_problem(item: FrameItem, origin: Origin, answer: FrameAnswer, task: str) -> tuple[int, bytes]:
    """As :func:`render_execution`, but a program that failed is a ``Problem``, with the outcome as ``execution``."""
    outcome = render_execution(item, origin, answer, task)
    if answer.kind == _SUCCESS:
        return outcome
    code = "program_timeout" if answer.kind == AnswerKind.TIMEOUT else "program_error"
    body = problem(
        code,
        _reason(answer)[1],
        item.correlation_id or item.execution_id,
        f"/api/v2/tasks/{task}/execute",
        execution=msgspec.Raw(outcome[1]),
    )
    return STATUS_BY_CODE[code], _encode(body)


def _text(text: str) -> str:
    """As a JSON string."""
    return _encode(text).decode()


def server_timing(seconds: float, answer: FrameAnswer) -> str:
    """The value of ``Server-Timing``: what the program took of ``seconds``, and the rest; in milliseconds."""
    queue_ms = seconds * 1000 - answer.latency_us / 1000
    return f"queue;dur={queue_ms if queue_ms > 0 else 0:.3f}, run;dur={_milliseconds(answer.latency_us)}"


def _reason(answer: FrameAnswer) -> tuple[str, str]:
    """Why the program failed: the code and the message."""
    try:
        return _decode_reason(answer.payload)
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
