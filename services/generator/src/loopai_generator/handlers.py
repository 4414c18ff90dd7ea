"""``POST /generate``."""

import asyncio
from contextlib import AbstractContextManager, suppress

import pydantic
from fastapi import APIRouter, Request, Response

from loopai_common import json_text
from loopai_common.contracts.generation import GenerationRequest, GenerationResponse
from loopai_common.contracts.subjects import CORRELATION_HEADER, TRACEPARENT_HEADER
from loopai_common.errors import DeadlineExceeded, PayloadTooLarge, ValidationFailed
from loopai_common.runtime import context, tracing
from loopai_common.runtime.errors import violations_of
from loopai_generator.service import Generator

MAX_BODY_BYTES = 8 * 1024 * 1024
_BODY_SECONDS = 30.0
_CLIENT_CLOSED = 499
_IDEMPOTENCY_HEADER = "Idempotency-Key"

_SCHEMA = {"content": {"application/json": {"schema": GenerationRequest.model_json_schema()}}, "required": True}


def generation_routes(generator: Generator) -> APIRouter:
    """The routes of the generator's HTTP contract."""
    router = APIRouter()

    @router.post("/generate", response_model=GenerationResponse, openapi_extra={"requestBody": _SCHEMA})
    async def generate(request: Request) -> Response:
        asked = context.new_context(
            correlation_id=request.headers.get(CORRELATION_HEADER), traceparent=request.headers.get(TRACEPARENT_HEADER)
        )
        with context.bound(asked), _span(request) as span:
            body = await read_body(request)
            question = await asyncio.to_thread(decode, body)
            response = await answer_while_connected(request, generator, question)
            span.set({"http.response.status_code": response.status_code})
            return response

    return router


def _span(request: Request) -> AbstractContextManager[tracing.Span]:
    attributes = {"http.request.method": "POST", "http.route": "/generate", "url.scheme": request.url.scheme}
    return tracing.span("POST /generate", kind=tracing.Kind.SERVER, attributes=attributes)


async def read_body(request: Request) -> bytes:
    """The body; raises :class:`PayloadTooLarge` above 8 MiB and :class:`DeadlineExceeded` when it trickles."""
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise PayloadTooLarge(f"the body is larger than {MAX_BODY_BYTES} bytes; give fewer examples")
    except TimeoutError as error:
        raise DeadlineExceeded("the body did not arrive in time") from error
    return bytes(body)


def decode(body: bytes) -> GenerationRequest:
    """The request in ``body``; raises :class:`MalformedJson` or :class:`ValidationFailed`."""
    try:
        return GenerationRequest.model_validate(json_text.loads(body))
    except pydantic.ValidationError as error:
        raise ValidationFailed("the request breaks its contract", details=violations_of(error)) from error


async def answer_while_connected(request: Request, generator: Generator, question: GenerationRequest) -> Response:
    """Generates for as long as the client is there; when it leaves, so does the work."""
    gone = asyncio.create_task(_disconnected(request))
    work = asyncio.create_task(generator.generate(question, request.headers.get(_IDEMPOTENCY_HEADER)))
    try:
        await asyncio.wait((gone, work), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            return Response(status_code=_CLIENT_CLOSED)
        return Response((await work).model_dump_json(), media_type="application/json")
    finally:
        for task in (gone, work):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.wait((task,))


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
