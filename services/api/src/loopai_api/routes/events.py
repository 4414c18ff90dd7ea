"""``/tasks/{task}/events``: a task's life as server-sent events."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from loopai_api.application import errors
from loopai_api.events.streams import EventStream, EventStreams
from loopai_api.models import EXAMPLE_EVENTS
from loopai_api.protocol import CONNECTION_EXTENSION
from loopai_api.references import task_reference

EVENT_STREAM: Final = "text/event-stream"

_LAST_EVENT_ID: Final[dict[str, Any]] = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "The `id` of the last event that was received: the answer goes on behind it.",
    "schema": {"type": "string"},
}


def event_routes(prefix: str, streams: EventStreams) -> APIRouter:
    """Following a task."""
    router = APIRouter(prefix=prefix, tags=["tasks"])

    @router.get(
        "/tasks/{task}/events",
        summary="Follow a task",
        response_class=Response,
        responses={
            200: {
                "description": "The events, until the task is archived.",
                "content": {EVENT_STREAM: {"schema": {"type": "string"}, "example": EXAMPLE_EVENTS}},
            },
            204: {"description": "The task is archived, and `Last-Event-ID` is its last event."},
            **errors(404, 503, "overloaded", "shutting_down", 504),
        },
        openapi_extra={"parameters": [_LAST_EVENT_ID]},
    )
    async def follow_task(task: str, request: Request) -> Response:
        """Server-sent events (`text/event-stream`) of the task's life. The first one, `task`, is its present state, as
        in a list. Then come `task.created`, `task.updated`, `task.failed`, `task.archived`, `artifact.published`,
        `artifact.activated` and `artifact.rolled_back` as they happen: `data` is the event in JSON, `id` is the same
        for every copy of it. A generation that made no version is told as `task.failed`, whether the task goes on being
        `ready` or not; its `fallback_version` is the earlier version that stands in, if any. A comment every 15 seconds
        keeps the connection open.

        Connecting again with `Last-Event-ID` goes on behind that event; where it is not known any more, with `task`.
        """
        stream = await streams.open(task_reference(task), request.headers.get("last-event-id"))
        if stream.over:
            stream.close()
            return Response(status_code=204)
        return EventStreamResponse(stream)

    return router


class EventStreamResponse(Response):
    """Sends a stream until it ends or its client goes; a client that is too slow is cut off."""

    media_type = EVENT_STREAM

    def __init__(self, stream: EventStream) -> None:
        super().__init__(headers={"X-Accel-Buffering": "no"})  # nginx would hold the events back
        del self.headers["content-length"]
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Returns when nothing is left to do; then all that the stream held is free."""
        sending = asyncio.create_task(self._send(send))
        gone = asyncio.create_task(_disconnected(receive))
        overrun = asyncio.create_task(self._stream.overrun.wait())
        try:
            await asyncio.wait({sending, gone, overrun}, return_when=asyncio.FIRST_COMPLETED)
            if overrun.done():
                _abort(scope)
            elif sending.done():
                sending.result()
        finally:
            self._stream.close()
            for task in (sending, gone, overrun):
                task.cancel()
            await asyncio.gather(sending, gone, overrun, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for text in self._stream:
            await send({"type": "http.response.body", "body": text, "more_body": True})
        if not self._stream.overrun.is_set():
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _abort(scope: Scope) -> None:
    """Ends the connection with what its client has not taken."""
    abort: Callable[[], None] = scope["extensions"][CONNECTION_EXTENSION]["abort"]
    abort()
