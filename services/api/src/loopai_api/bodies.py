"""Reading request bodies: the right type, within the limit, and strict JSON."""

from collections.abc import AsyncIterator
from typing import Any, TypeVar

import pydantic
from starlette.requests import ClientDisconnect, Request

from loopai_api.problems import UnsupportedMediaType, broken_rules
from loopai_common import json_text
from loopai_common.errors import MalformedJson, PayloadTooLarge
from loopai_common.runtime.errors import violations_of

M = TypeVar("M", bound=pydantic.BaseModel)

MAX_EXECUTE_BYTES = 1024 * 1024
MAX_TASK_BYTES = 8 * 1024 * 1024
MAX_SMALL_BYTES = 64 * 1024
MAX_BATCH_BYTES = 16 * 1024 * 1024
NDJSON = "application/x-ndjson"


def media_type(request: Request) -> str:
    """The media type of the body, in lower case and without parameters; empty when there is none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def body_size(request: Request, limit_bytes: int) -> int:
    """The size that the request declares for its body, at most ``limit_bytes``, and these where it declares none."""
    declared = request.headers.get("content-length", "")
    return min(int(declared), limit_bytes) if declared.isdigit() else limit_bytes


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """Reads an ``application/json`` body of at most ``limit_bytes``; what is over the limit is never kept.

    Raises :class:`UnsupportedMediaType` and :class:`PayloadTooLarge`.
    """
    if media_type(request) != "application/json":
        raise UnsupportedMediaType("send the body as JSON, with the header 'Content-Type: application/json'")
    return await read_bytes(request, limit_bytes)


async def read_bytes(request: Request, limit_bytes: int) -> bytes:
    """As :func:`read_body`, for a body of any type."""
    _refuse_compressed(request)
    declared = request.headers.get("content-length")
    if declared is not None and declared.isdigit() and int(declared) > limit_bytes:
        raise _too_large(limit_bytes)
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit_bytes:
                raise _too_large(limit_bytes)
            chunks.append(chunk)
    except ClientDisconnect as error:
        raise MalformedJson("the connection closed before the body was complete") from error
    return b"".join(chunks)


async def read_lines(request: Request, limit_bytes: int) -> AsyncIterator[tuple[int, bytes | None]]:
    """The lines of a body as they come, numbered from 1; blank ones are left out.

    A line of more than ``limit_bytes`` is never kept, and comes as ``None``. Raises :class:`UnsupportedMediaType` for
    a compressed body, and ``ClientDisconnect`` when the connection closes before the end.
    """
    _refuse_compressed(request)
    number, rest, dropped = 0, b"", False
    async for chunk in request.stream():
        *complete, tail = chunk.split(b"\n")
        for part in complete:
            number += 1
            line = rest + part
            if dropped or len(line) > limit_bytes:
                yield number, None
            elif line.strip():
                yield number, line
            rest, dropped = b"", False
        rest += tail
        if len(rest) > limit_bytes:
            rest, dropped = b"", True
    if dropped:
        yield number + 1, None
    elif rest.strip():
        yield number + 1, rest


async def read_json_object(request: Request, limit_bytes: int) -> dict[str, Any]:
    """As :func:`read_body`, decoded; raises :class:`MalformedJson` for anything but an object."""
    return json_object(await read_body(request, limit_bytes))


async def read_optional_json_object(request: Request, limit_bytes: int) -> dict[str, Any]:
    """As :func:`read_json_object`; a request without a body stands for an empty object."""
    if request.headers.get("content-length", "0") == "0" and "transfer-encoding" not in request.headers:
        return {}
    return await read_json_object(request, limit_bytes)


def json_object(body: bytes) -> dict[str, Any]:
    """Decodes strict JSON that must be an object."""
    if not body:
        raise MalformedJson("the body is empty; send a JSON object")
    value = json_text.loads(body)
    if not isinstance(value, dict):
        raise MalformedJson("the body must be a JSON object")
    return value


def parsed(model: type[M], value: dict[str, Any]) -> M:
    """``value`` as the body that ``model`` describes; raises :class:`ValidationFailed` with every violation."""
    try:
        return model.model_validate(value)
    except pydantic.ValidationError as error:
        raise broken_rules(violations_of(error)) from None


def _refuse_compressed(request: Request) -> None:
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("send the body uncompressed")


def _too_large(limit_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is larger than {limit_bytes} bytes")
