"""Baseline: a FastAPI service that runs the program in its own process. No bus, no versions, no isolation."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.baselines.program import load_from_environment


class ExecuteRequest(BaseModel):
    """The body of a request."""

    input: dict[str, Any]


class ExecuteResponse(BaseModel):
    """The body of an answer."""

    output: Any


def create_app() -> FastAPI:
    """The application, for uvicorn's ``--factory``."""
    run = load_from_environment()
    app = FastAPI()

    @app.post("/execute")
    async def execute(request: ExecuteRequest) -> ExecuteResponse:
        return ExecuteResponse(output=run(request.input))

    return app
