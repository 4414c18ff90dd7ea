"""Writing the answer to an execution: the output's bytes go into the body as they came from the worker."""

import time

import msgspec

from loopai_common.contracts.failure import Failure
from loopai_common.contracts.frames import AnswerKind, FrameAnswer, FrameAnswerGroup, FrameItem
from loopai_common.errors import ERRORS_BY_CODE, Internal, LoopaiError, Violation

_encode = msgspec.json.Encoder().encode
_decode_reason = msgspec.json.Decoder(tuple[str, str]).decode

_second = -1
_second_text = ""


def timestamp_now() -> str:
    """The current time as RFC 3339 with milliseconds; the text of the second is kept between calls."""
    global _second, _second_text
    milliseconds = time.time_ns() // 1_000_000
    second, fraction = divmod(milliseconds, 1000)
    if second != _second:
        _second, _second_text = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
    return f"{_second_text}.{fraction:03d}Z"


def render_execution(item: FrameItem, group: FrameAnswerGroup, answer: FrameAnswer) -> bytes:
    """The body of an ``ExecuteResponse``; raises the error that stands for a refusal."""
    if answer.kind == AnswerKind.SUCCESS:
        status, output = "success", bytes(answer.payload)
        reason = '"error_code":null,"error_message":null'
    elif answer.kind in (AnswerKind.ERROR, AnswerKind.TIMEOUT):
        status, output = ("error" if answer.kind == AnswerKind.ERROR else "timeout"), b"null"
        try:
            code, message = _decode_reason(answer.payload)
        except msgspec.MsgspecError as error:
            raise Internal("the executor's answer cannot be read") from error
        reason = f'"error_code":{_encode(code).decode()},"error_message":{_encode(message).decode()}'
    else:
        raise refusal(bytes(answer.payload))
    correlation = _encode(item.correlation_id or item.execution_id).decode()
    head = (
        f'{{"execution_id":"{item.execution_id}","task_id":"{group.task_id}","program_id":"{group.program_id}",'
        f'"version":{group.version},"status":"{status}","output":'
    )
    tail = (
        f',{reason},"latency_ms":{answer.latency_us / 1000},"sampled_for_validation":'
        f'{"true" if answer.sampled else "false"},"executed_at":"{timestamp_now()}","correlation_id":{correlation}}}'
    )
    return b"".join((head.encode(), output, tail.encode()))


def refusal(payload: bytes) -> LoopaiError:
    """The error that a refused item carries."""
    try:
        failure = Failure.model_validate_json(payload)
    except ValueError:
        return Internal("the executor's answer cannot be read")
    kind = ERRORS_BY_CODE.get(failure.code, Internal)
    return kind(failure.message, details=[Violation(d.field, d.message, d.code) for d in failure.details])
