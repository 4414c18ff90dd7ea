"""Writing the answer to an execution: the output's bytes go into the body as they came from the worker."""

import time

import msgspec

from loopai_common.contracts.failure import Failure
from loopai_common.contracts.frames import AnswerKind, FrameAnswer, FrameAnswerGroup, FrameItem
from loopai_common.errors import ERRORS_BY_CODE, Internal, LoopaiError, Violation

_encode = msgspec.json.Encoder().encode
_decode_reason = msgspec.json.Decoder(tuple[str, str]).decode

_SUCCESS = int(AnswerKind.SUCCESS)
_NO_REASON = b'"error_code":null,"error_message":null'
_TEMPLATE = (
    b'{"execution_id":"%b","task_id":"%b","program_id":"%b","version":%d,"status":"%b","output":%b,%b,'
    b'"latency_ms":%d.%03d,"sampled_for_validation":%b,"executed_at":"%b","correlation_id":%b}'
)

_second = -1
_second_text = b""


def timestamp_now() -> bytes:
    """The current time as RFC 3339 with milliseconds; the text of the second is kept between calls."""
    global _second, _second_text
    milliseconds = time.time_ns() // 1_000_000
    second, fraction = divmod(milliseconds, 1000)
    if second != _second:
        _second, _second_text = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()
    return b"%b.%03dZ" % (_second_text, fraction)


def render_execution(item: FrameItem, group: FrameAnswerGroup, answer: FrameAnswer) -> bytes:
    """The body of an ``ExecuteResponse``; raises the error that stands for a refusal."""
    kind = answer.kind
    if kind == _SUCCESS:
        status, output, reason = b"success", bytes(answer.payload), _NO_REASON
    elif kind in (AnswerKind.ERROR, AnswerKind.TIMEOUT):
        status, output = (b"error" if kind == AnswerKind.ERROR else b"timeout"), b"null"
        try:
            code, message = _decode_reason(answer.payload)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Internal("the executor's answer cannot be read") from error
        reason = b'"error_code":%b,"error_message":%b' % (_encode(code), _encode(message))
    else:
        raise refusal(bytes(answer.payload))
    execution_id = item.execution_id.encode()
    correlation = _encode(item.correlation_id) if item.correlation_id else b'"%b"' % execution_id
    return _TEMPLATE % (
        execution_id,
        group.task_id.encode(),
        group.program_id.encode(),
        group.version,
        status,
        output,
        reason,
        answer.latency_us // 1000,
        answer.latency_us % 1000,
        b"true" if answer.sampled else b"false",
        timestamp_now(),
        correlation,
    )


def refusal(payload: bytes) -> LoopaiError:
    """The error that a refused item carries."""
    try:
        failure = Failure.model_validate_json(payload)
    except ValueError:
        return Internal("the executor's answer cannot be read")
    kind = ERRORS_BY_CODE.get(failure.code, Internal)
    return kind(failure.message, details=[Violation(d.field, d.message, d.code) for d in failure.details])
