"""The FastAPI application: routes, error handlers, and the documentation pages from the service's own files."""

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import fastapi_standalone_docs
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles

from loopai_api.models import (
    ActivateRequest,
    BatchItemRequest,
    BatchLineResponse,
    CreateTaskRequest,
    ErrorResponse,
    ExecuteBatchRequest,
    ExecuteRequest,
    GenerateRequest,
    UpdateTaskRequest,
    UploadProgramRequest,
)
from loopai_api.problems import (
    REFUSAL_KEY,
    MethodNotAllowed,
    NotFound,
    UnsupportedApiVersion,
    broken_rules,
    error_response,
)
from loopai_api.security import Guard, describe_keys
from loopai_common import __version__
from loopai_common.errors import Internal, LoopaiError, MalformedJson, Violation
from loopai_common.runtime import context

DESCRIPTION = """\
A description of a task becomes a small program once; the program then runs millions of times.

Create a task, wait until it is `ready`, and execute it. `{task}` in a path is a task's id or its name.
"""

_API_VERSION = re.compile(r"/api/(v[0-9]+)(?:/|$)")
_KNOWN_VERSIONS = frozenset({"v1"})
_NO_ICON = "data:,"
_STATIC = Path(fastapi_standalone_docs.__file__).parent / "static"

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def build_application(lifespan: Lifespan, routers: Sequence[APIRouter], guard: Guard) -> FastAPI:
    """The application with these routers: error handlers, the OpenAPI document, documentation pages.

    Every operation is behind ``guard``: what it needs is declared in :data:`loopai_api.security.ACCESS`.
    """
    app = FastAPI(
        title="Loopai",
        summary="Programs made once from a description, run millions of times.",
        description=DESCRIPTION,
        version=__version__,
        lifespan=lifespan,
        openapi_url="/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        dependencies=[Depends(guard.admit)],
    )
    app.add_exception_handler(LoopaiError, _on_loopai_error)  # type: ignore[arg-type]  # starlette's handlers are invariant
    app.add_exception_handler(RequestValidationError, _on_invalid_request)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, _on_http_exception)  # type: ignore[arg-type]
    app.add_exception_handler(Exception, _on_unforeseen)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]  # FastAPI's documented way to extend it
    for router in routers:
        app.include_router(router)
    app.state.routes = [route for router in routers for route in router.routes]
    _add_documentation(app)
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with the bodies that routes read themselves."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            openapi_version="3.1.0",
            summary=app.summary,
            description=app.description,
            routes=app.routes,
        )
        _, bodies = models_json_schema(
            [
                (CreateTaskRequest, "validation"),
                (ExecuteRequest, "validation"),
                (ExecuteBatchRequest, "validation"),
                (BatchItemRequest, "validation"),
                (BatchLineResponse, "serialization"),
                (UpdateTaskRequest, "validation"),
                (ActivateRequest, "validation"),
                (UploadProgramRequest, "validation"),
                (GenerateRequest, "validation"),
            ],
            ref_template="#/components/schemas/{model}",
        )
        document.setdefault("components", {}).setdefault("schemas", {}).update(bodies["$defs"])
        describe_keys(document)
        app.openapi_schema = document
    return app.openapi_schema


def _add_documentation(app: FastAPI) -> None:
    """Swagger UI and ReDoc without a CDN, so that they work where there is no internet."""
    app.mount("/swagger/static", StaticFiles(directory=_STATIC / "swagger"))
    app.mount("/redoc/static", StaticFiles(directory=_STATIC / "redoc"))

    async def swagger(_: Request) -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title="Loopai: Swagger UI",
            swagger_js_url="/swagger/static/swagger-ui-bundle.js",
            swagger_css_url="/swagger/static/swagger-ui.css",
            swagger_favicon_url=_NO_ICON,
        )

    async def redoc(_: Request) -> HTMLResponse:
        return get_redoc_html(
            openapi_url="/openapi.json",
            title="Loopai: ReDoc",
            redoc_js_url="/redoc/static/redoc.standalone.js",
            redoc_favicon_url=_NO_ICON,
            with_google_fonts=False,
        )

    app.add_route("/swagger", swagger, include_in_schema=False)
    app.add_route("/redoc", redoc, include_in_schema=False)


async def _on_loopai_error(request: Request, error: LoopaiError) -> Response:
    request.scope[REFUSAL_KEY] = error
    return error_response(error, context.current().correlation_id)


async def _on_invalid_request(request: Request, error: RequestValidationError) -> Response:
    details = [
        Violation("/".join(map(str, item["loc"][1:])), _lower_first(str(item["msg"])), str(item["type"]))
        for item in error.errors()
    ]
    return await _on_loopai_error(request, broken_rules(details))


async def _on_http_exception(request: Request, error: HTTPException) -> Response:
    correlation_id = context.current().correlation_id
    if error.status_code == 405:
        allowed = ", ".join(sorted(_methods_of(request)))
        refusal = MethodNotAllowed(f"this resource offers {allowed}")
        return error_response(refusal, correlation_id, {"Allow": allowed})
    if error.status_code == 404:
        version = _API_VERSION.match(request.url.path)
        if version and version[1] not in _KNOWN_VERSIONS:
            known = ", ".join(sorted(_KNOWN_VERSIONS))
            return error_response(UnsupportedApiVersion(f"this API has the versions {known}"), correlation_id)
        return error_response(NotFound("nothing has this path; /swagger lists what there is"), correlation_id)
    return error_response(MalformedJson("the request cannot be read"), correlation_id)


async def _on_unforeseen(_: Request, __: Exception) -> Response:
    """Answers for a bug. Starlette raises it again afterwards, and uvicorn logs it, once."""
    error = Internal("something unforeseen happened; the log has the cause")
    return error_response(error, context.current().correlation_id)


def _methods_of(request: Request) -> set[str]:
    """What the resource at the request's path offers, over all its routes."""
    routes: list[APIRoute] = request.app.state.routes
    return {method for route in routes if route.path_regex.match(request.url.path) for method in route.methods or ()}


def _lower_first(text: str) -> str:
    text = text.removeprefix("Value error, ")
    return text[:1].lower() + text[1:]


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of an operation: each status with what it means and the shape of its body.

    Those of API keys are every operation's.
    """
    all_statuses = sorted({*statuses, *_KEY_STATUSES})
    return {status: {"model": ErrorResponse, "description": _MEANING[status]} for status in all_statuses}


_KEY_STATUSES = (401, 403, 429)
_MEANING = {
    400: "The request breaks rules; `details` lists every one.",
    401: "There is no API key, or not a valid one.",
    403: "The API key may not do this, or the request did not come over HTTPS.",
    404: "There is no such task, version or execution.",
    408: "The request was sent too slowly.",
    409: "It cannot be done in the present state; `code` says which.",
    410: "The task is archived.",
    412: "The task was changed since: its `ETag` is another one.",
    413: "The body is too large.",
    415: "The body is of another type than this operation takes.",
    422: "The idempotency key was used with another body.",
    429: "The API key's requests come too fast; `Retry-After` says when to try again.",
    502: "What the answer depends on is not there, or failed.",
    503: "Something needed is away for the moment; `Retry-After` says when to try again.",
    504: "No answer in time.",
}
