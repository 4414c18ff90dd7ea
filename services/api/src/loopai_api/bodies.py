"""Reading request bodies: the right type, within the limit, and strict JSON."""

from typing import Any

from starlette.requests import ClientDisconnect, Request

from loopai_api.problems import UnsupportedMediaType
from loopai_common import json_text
from loopai_common.errors import MalformedJson, PayloadTooLarge

MAX_EXECUTE_BYTES = 1024 * 1024
MAX_TASK_BYTES = 8 * 1024 * 1024


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """Reads an ``application/json`` body of at most ``limit_bytes``; what is over the limit is never kept.

    Raises :class:`UnsupportedMediaType` and :class:`PayloadTooLarge`.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise UnsupportedMediaType("send the body as JSON, with the header 'Content-Type: application/json'")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("send the body uncompressed")
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


async def read_json_object(request: Request, limit_bytes: int) -> dict[str, Any]:
    """As :func:`read_body`, decoded; raises :class:`MalformedJson` for anything but an object."""
    return json_object(await read_body(request, limit_bytes))


def json_object(body: bytes) -> dict[str, Any]:
    """Decodes strict JSON that must be an object."""
    if not body:
        raise MalformedJson("the body is empty; send a JSON object")
    value = json_text.loads(body)
    if not isinstance(value, dict):
        raise MalformedJson("the body must be a JSON object")
    return value


def _too_large(limit_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is larger than {limit_bytes} bytes")
