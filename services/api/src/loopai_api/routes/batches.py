"""``/tasks/{task}/execute/batch``: many inputs in one request, as one JSON object or as a stream of lines."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from loopai_api.application import errors
from loopai_api.bodies import MAX_BATCH_BYTES, MAX_EXECUTE_BYTES, NDJSON, body_size, media_type, read_body, read_lines
from loopai_api.execution.batch_requests import parse_batch
from loopai_api.execution.batches import BatchService, BatchStream
from loopai_api.models import (
    EXAMPLE_BATCH,
    EXAMPLE_BATCH_ITEM_FAILURE,
    EXAMPLE_BATCH_ITEM_RESULT,
    BatchStreamOptions,
    ExecuteBatchRequest,
    ExecuteBatchResponse,
)
from loopai_api.openapi import json_body
from loopai_api.problems import CLIENT_CLOSED_REQUEST, broken_rules
from loopai_api.protocol import CONNECTION_EXTENSION
from loopai_api.references import task_reference
from loopai_common.errors import Violation
from loopai_common.runtime import context

_ERRORS: tuple[int | str, ...] = (
    *(400, 404, "artifact_not_found", 408, "task_not_ready", 410, 413, 415, "no_executor", "overloaded", 504),
)


def batch_routes(prefix: str, batches: BatchService) -> APIRouter:
    """Running a task's program on many inputs."""
    router = APIRouter(prefix=prefix, tags=["executions"])

    @router.post(
        "/tasks/{task}/execute/batch",
        summary="Run the program on many inputs",
        response_model=ExecuteBatchResponse,
        responses={
            **errors(*_ERRORS),
            200: {
                "description": "The results, in the order of the items.",
                "content": {
                    NDJSON: _lines(
                        "BatchLineResponse",
                        [{**EXAMPLE_BATCH_ITEM_RESULT, "line": 1}, {**EXAMPLE_BATCH_ITEM_FAILURE, "line": 2}],
                    )
                },
            },
        },
        openapi_extra={
            "requestBody": json_body(
                ExecuteBatchRequest, more={NDJSON: _lines("BatchItemRequest", EXAMPLE_BATCH["items"])}
            ),
        },
    )
    async def execute_batch(task: str, request: Request, options: Annotated[BatchStreamOptions, Query()]) -> Response:
        """Runs the program on 1 to 10,000 items of a JSON object. An item that fails does so alone: its result says
        how. `stop_on_first_error` leaves out what has not begun by then (`error_code` `not_run`).

        With `Content-Type: application/x-ndjson`, runs any number of items, one a line, and answers a line for each in
        the same order while more of them come. Such a batch has its options in the query; its ids are not compared.
        """
        reference = task_reference(task)
        if media_type(request) == NDJSON:
            lines = read_lines(request, MAX_EXECUTE_BYTES)
            return StreamedBatch(batches.stream(reference, lines, options, context.current()))
        _refuse_query(options)
        with batches.memory.reserved(body_size(request, MAX_BATCH_BYTES)) as room:
            batch = await run_in_threadpool(parse_batch, await read_body(request, MAX_BATCH_BYTES))
            answer = await _unless_disconnected(request, batches.run(reference, batch, context.current(), room))
        if answer is None:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        return Response(answer, media_type="application/json")

    return router


class StreamedBatch(Response):
    """Answers while the request is still being read.

    The status waits for the first result, so that what keeps the program from running at all is an ordinary error.
    Starlette's ``StreamingResponse`` would swallow the rest of the body: it listens for the disconnect itself.
    """

    media_type = NDJSON

    def __init__(self, stream: BatchStream) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the results; ends quietly when the client has gone."""
        closing: Callable[[], bool] = scope.get("extensions", {}).get(CONNECTION_EXTENSION, {}).get("closing", bool)
        try:
            started = False
            async for chunk in self._stream:
                if closing():
                    return
                if not started:
                    await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                    started = True
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            if not started:
                rule = Violation("items", "must have at least one line", "too_short")
                raise broken_rules([rule])
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except ClientDisconnect:
            return
        finally:
            await self._stream.close()


async def _unless_disconnected(request: Request, answering: Coroutine[Any, Any, bytes]) -> bytes | None:
    """The answer, or ``None`` when the client left before it was there; the work ends with the client."""
    work = asyncio.create_task(answering)
    gone = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        return work.result() if work.done() else None
    finally:
        for task in (work, gone):
            task.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    """Returns when the client has gone; for a request whose body was read, so that nothing else can come."""
    await request.receive()


def _refuse_query(options: BatchStreamOptions) -> None:
    found = [
        Violation(name, "belongs in the body of a JSON batch", "misplaced") for name in sorted(options.model_fields_set)
    ]
    if found:
        raise broken_rules(found)


def _lines(model: str, examples: list[dict[str, Any]]) -> dict[str, Any]:
    """How OpenAPI 3.1 is told about lines of JSON: text, whose lines are the model."""
    return {
        "schema": {
            "type": "string",
            "description": f"One `{model}` (see the schemas) a line.",
            "x-line-schema": {"$ref": f"#/components/schemas/{model}"},
            "examples": ["".join(json.dumps(example) + "\n" for example in examples)],
        }
    }
