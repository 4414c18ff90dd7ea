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
_NO_REASON = b'"error_code":null,"error_message":null'
_TEMPLATE = (
    b'{"execution_id":"%b","task_id":"%b","program_id":"%b","version":%d,"status":"%b","output":%b,%b,'
    b'"latency_ms":%b,"sampled_for_validation":%b,"executed_at":"%b","correlation_id":%b}'
)

Renderer = Callable[[FrameItem, FrameAnswerGroup, FrameAnswer, str], tuple[int, bytes]]
"""Writes the answer to an execution of the task that the path names: its status and its body."""

_millisecond = -1
_millisecond_text = b""


def timestamp_now() -> bytes:
    """The current time as RFC 3339 with milliseconds; the text is kept while it is right."""
    global _millisecond, _millisecond_text
    now = time.time_ns() // 1_000_000
    if now != _millisecond:
        second, fraction = divmod(now, 1000)
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()
        _millisecond, _millisecond_text = now, b"%b.%03dZ" % (text, fraction)
    return _millisecond_text


@lru_cache(maxsize=1024)  # the executions of a batch took the same time
def _milliseconds(microseconds: int) -> bytes:
    return b"%d.%03d" % divmod(microseconds, 1000)


def render_execution(item: FrameItem, group: FrameAnswerGroup, answer: FrameAnswer, _task: str) -> tuple[int, bytes]:
    """The status and the body of an ``ExecuteResponse``; raises the error that stands for a refusal.

    A program that failed is an outcome like any other.
    """
    kind = answer.kind
    if kind == _SUCCESS:
        status, output, reason = b"success", answer.payload, _NO_REASON
    elif kind in (AnswerKind.ERROR, AnswerKind.TIMEOUT):
        status, output = (b"error" if kind == AnswerKind.ERROR else b"timeout"), _NO_OUTPUT
        code, message = _reason(answer)
        reason = b'"error_code":%b,"error_message":%b' % (_encode(code), _encode(message))
    else:
        raise refusal(bytes(answer.payload))
    return 200, _TEMPLATE % (
        item.execution_id.encode(),
        group.task_id.encode(),
        group.program_id.encode(),
        group.version,
        status,
        output,
        reason,
        _milliseconds(answer.latency_us),
        b"true" if answer.sampled else b"false",
        timestamp_now(),
        _encode(item.correlation_id or item.execution_id),
    )


def render_execution_or_problem(
    item: FrameItem, group: FrameAnswerGroup, answer: FrameAnswer, task: str
) -> tuple[int, bytes]:
    """As :func:`render_execution`, but a program that failed is a ``Problem``, with the outcome as ``execution``."""
    outcome = render_execution(item, group, answer, task)
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


def server_timing(seconds: float, answer: FrameAnswer) -> bytes:
    """The value of ``Server-Timing``: what the program took of ``seconds``, and the rest; in milliseconds."""
    queue_ms = seconds * 1000 - answer.latency_us / 1000
    return b"queue;dur=%.3f, run;dur=%b" % (queue_ms if queue_ms > 0 else 0, _milliseconds(answer.latency_us))


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
