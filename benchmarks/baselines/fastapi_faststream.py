"""Baseline: FastAPI, and one FastStream request over NATS for each call, to a worker that runs the program.

As most would write it: no batches, no isolation. ``create_app`` is the web side; run as a module it is the worker.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from faststream import FastStream
from faststream.nats import NatsBroker
from pydantic import BaseModel

from benchmarks.baselines.program import load_from_environment

NATS_VARIABLE = "BENCH_NATS_URL"

_SUBJECT = "baseline.execute"
_TIMEOUT_SECONDS = 10.0


class ExecuteRequest(BaseModel):
    """The body of a request."""

    input: dict[str, Any]


class ExecuteResponse(BaseModel):
    """The body of an answer."""

    output: Any


def create_app() -> FastAPI:
    """The web application, for uvicorn's ``--factory``."""
    broker = NatsBroker(os.environ[NATS_VARIABLE], logger=None)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await broker.start()
        yield
        await broker.stop()

    app = FastAPI(lifespan=lifespan)

    @app.post("/execute")
    async def execute(request: ExecuteRequest) -> ExecuteResponse:
        answer = await broker.request(request, _SUBJECT, timeout=_TIMEOUT_SECONDS)
        return ExecuteResponse.model_validate_json(answer.body)

    return app


def create_worker() -> FastStream:
    """The worker."""
    run = load_from_environment()
    broker = NatsBroker(os.environ[NATS_VARIABLE], logger=None)

    @broker.subscriber(_SUBJECT, queue="workers")
    async def execute(request: ExecuteRequest) -> ExecuteResponse:
        return ExecuteResponse(output=run(request.input))

    return FastStream(broker, logger=None)


if __name__ == "__main__":
    asyncio.run(create_worker().run())
