"""A service of several workers as a program of its own: the tests send it signals and look at what is left.

``/who`` tells which process answers, ``/slow`` takes a while, and both are counted. Arguments: the number of workers,
the port, and how workers behave: ``well``, or ``refuse`` or ``crash`` at start.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from prometheus_client import Counter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from loopai_common.identifiers import new_id
from loopai_common.runtime.health import Readiness, health_routes
from loopai_common.runtime.metrics import create_registry
from loopai_common.runtime.service import StartRefused, serve_workers
from loopai_common.runtime.settings import WorkersSettings
from loopai_common.runtime.worker_metrics import Siblings
from loopai_common.runtime.workers import Worker


def create(worker: Worker | None, behaviour: str) -> Starlette:
    """The application of one worker."""
    if behaviour == "refuse":
        raise StartRefused("it was told to")
    if behaviour == "crash":
        raise RuntimeError("it was told to")
    registry = create_registry("stand-in")
    siblings = None if worker is None else Siblings(worker, registry)
    asked = Counter("asked_total", "Requests.", registry=registry)
    first_id = new_id()

    async def who(_: Request) -> JSONResponse:
        asked.inc()
        return JSONResponse({"pid": os.getpid(), "seat": worker.seat if worker else None, "id": first_id})

    async def slow(request: Request) -> JSONResponse:
        asked.inc()
        await asyncio.sleep(0.5)
        return await who(request)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if siblings is not None:
                await stack.enter_async_context(siblings.told())
            yield

    routes = [Route("/who", who), Route("/slow", slow), *health_routes(Readiness(), registry, siblings)]
    return Starlette(routes=routes, lifespan=lifespan)


def main() -> int:
    """Serves until a signal."""
    workers, port, behaviour = sys.argv[1:]
    settings = WorkersSettings(workers=int(workers), port=int(port), shutdown_grace_seconds=10)
    return serve_workers("stand-in", settings, lambda worker: create(worker, behaviour))


if __name__ == "__main__":
    sys.exit(main())
