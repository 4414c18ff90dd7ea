"""The body of an execute request: decoded once, its ``input`` kept as the bytes that came."""

from typing import Annotated

import msgspec
import pydantic

from loopai_api.bodies import json_object
from loopai_api.models import ExecuteRequest, ExecuteRequestV2
from loopai_api.problems import broken_rules
from loopai_common import json_text
from loopai_common.contracts.base import MAX_VERSION
from loopai_common.contracts.execution import MAX_TIMEOUT_MS
from loopai_common.contracts.tasks import task_id_or_none
from loopai_common.errors import TaskIdMismatch, ValidationFailed
from loopai_common.runtime.errors import violations_of


class ExecuteBody(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """As :class:`~loopai_api.models.ExecuteRequestV2`, with the input's own bytes."""

    input: msgspec.Raw
    version: Annotated[int, msgspec.Meta(ge=1, le=MAX_VERSION)] | None = None
    force_validation: bool = False
    timeout_ms: Annotated[int, msgspec.Meta(ge=1, le=MAX_TIMEOUT_MS)] | None = None


class ExecuteBodyOfV1(ExecuteBody, forbid_unknown_fields=True, gc=False):
    """As :class:`~loopai_api.models.ExecuteRequest`, with the input's own bytes."""

    task_id: str | None = None


_decode_v1 = msgspec.json.Decoder(ExecuteBodyOfV1).decode
_decode_v2 = msgspec.json.Decoder(ExecuteBody).decode
_UNREADABLE = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)


def parse_execute(body: bytes, task: str) -> ExecuteBodyOfV1:
    """Reads the body of an execute request for ``task`` (an id or a name).

    Raises :class:`MalformedJson`, :class:`ValidationFailed` with every violation, or :class:`TaskIdMismatch`.
    """
    try:
        request = _decode_v1(body)
    except _UNREADABLE:
        raise _explain(body, ExecuteRequest) from None
    json_text.check(body)  # what msgspec lets through: duplicate keys, lone surrogates, numbers out of range
    if request.task_id is not None and task_id_or_none(task) is not None and request.task_id != task:
        raise TaskIdMismatch("the body's task_id is not the task of the path; leave it out, or correct it")
    return request


def parse_execute_v2(body: bytes, _task: str) -> ExecuteBody:
    """As :func:`parse_execute`, for a body that does not name the task."""
    try:
        request = _decode_v2(body)
    except _UNREADABLE:
        raise _explain(body, ExecuteRequestV2) from None
    json_text.check(body)
    return request


def _explain(body: bytes, model: type[ExecuteRequestV2]) -> Exception:
    """The error for a body that is not a request: malformed, or breaking rules that are all listed."""
    value = json_object(body)
    try:
        model.model_validate(value)
    except pydantic.ValidationError as error:
        return broken_rules(violations_of(error))
    return ValidationFailed("the request cannot be read; check the types of its fields")
