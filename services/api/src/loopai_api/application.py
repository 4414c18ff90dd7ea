"""The FastAPI application: routes, and how what goes wrong in them is answered."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from loopai_api.documentation import add_documentation
from loopai_api.models import ErrorResponse
from loopai_api.negotiation import check_acceptable
from loopai_api.openapi import error_example
from loopai_api.problems import (
    REFUSAL_KEY,
    STATUS_BY_CODE,
    MethodNotAllowed,
    NotFound,
    UnsupportedApiVersion,
    broken_rules,
    error_response,
)
from loopai_api.security import Guard
from loopai_api.versions import VERSIONS, error_format, version_named
from loopai_common.errors import Internal, LoopaiError, MalformedJson, Violation
from loopai_common.runtime import context

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def build_application(
    lifespan: Lifespan, routers: Sequence[APIRouter], guard: Guard, deprecated: Sequence[str] = ()
) -> FastAPI:
    """The application with these routers: error handlers, the OpenAPI documents, documentation pages.

    Every operation is behind ``guard``: what it needs is declared in :data:`loopai_api.security.ACCESS`.
    """
    app = FastAPI(
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        dependencies=[Depends(guard.admit), Depends(check_acceptable)],
    )
    app.add_exception_handler(LoopaiError, _on_loopai_error)  # type: ignore[arg-type]  # starlette's handlers are invariant
    app.add_exception_handler(RequestValidationError, _on_invalid_request)  # type: ignore[arg-type]  # as above
    app.add_exception_handler(HTTPException, _on_http_exception)  # type: ignore[arg-type]  # as above
    app.add_exception_handler(Exception, _on_unforeseen)
    for router in routers:
        app.include_router(router)
    routes = [route for router in routers for route in router.routes if isinstance(route, APIRoute)]
    for route in routes:
        version = version_named(route.path)
        route.operation_id = f"{version}_{route.name}" if version else route.name
    app.state.routes = routes
    add_documentation(app, routes, deprecated)
    return app


async def _on_loopai_error(request: Request, error: LoopaiError) -> Response:
    request.scope[REFUSAL_KEY] = error
    return _answer(request, error)


async def _on_invalid_request(request: Request, error: RequestValidationError) -> Response:
    details = [
        Violation("/".join(map(str, item["loc"][1:])), _lower_first(str(item["msg"])), str(item["type"]))
        for item in error.errors()
    ]
    return _answer(request, broken_rules(details))


async def _on_http_exception(request: Request, error: HTTPException) -> Response:
    if error.status_code == 405:
        allowed = ", ".join(sorted(_methods_of(request)))
        return _answer(request, MethodNotAllowed(f"this resource offers {allowed}"), {"Allow": allowed})
    if error.status_code == 404:
        version = version_named(request.scope["path"])
        if version is not None and version not in VERSIONS:
            return _answer(request, UnsupportedApiVersion(f"this API has the versions {', '.join(VERSIONS)}"))
        return _answer(request, NotFound("nothing has this path; /swagger lists what there is"))
    return _answer(request, MalformedJson("the request cannot be read"))


async def _on_unforeseen(request: Request, __: Exception) -> Response:
    """Answers for a bug. Starlette raises it again afterwards, and uvicorn logs it, once."""
    return _answer(request, Internal("something unforeseen happened; the log has the cause"))


def _answer(request: Request, error: LoopaiError, headers: Mapping[str, str] | None = None) -> Response:
    """The error in the form of the version that was asked."""
    path = request.scope["path"]
    shown = request.scope.get("raw_path", path.encode()).decode("latin-1")
    return error_response(error, error_format(path), context.current().correlation_id, shown, headers)


def _methods_of(request: Request) -> set[str]:
    """What the resource at the request's path offers, over all its routes."""
    pages = [route for route in request.app.routes if isinstance(route, Route)]
    routes: list[Route] = [*request.app.state.routes, *pages]
    return {method for route in routes if route.path_regex.match(request.url.path) for method in route.methods or ()}


def _lower_first(text: str) -> str:
    text = text.removeprefix("Value error, ")
    return text[:1].lower() + text[1:]


def errors(*answers: int | str) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of an operation: what it can go wrong with, described and shown.

    A code stands for itself, a status for the first code that the table has for it.
    """
    responses: dict[int | str, dict[str, Any]] = {}
    for answer in answers:
        code = answer if isinstance(answer, str) else _FIRST_CODE[answer]
        status = STATUS_BY_CODE[code]
        response = responses.setdefault(
            status,
            {
                "model": ErrorResponse,
                "description": _MEANING[status],
                "content": {"application/json": {"examples": {}}},
            },
        )
        response["content"]["application/json"]["examples"][code] = error_example(code)
    return responses


_FIRST_CODE = {status: code for code, status in reversed(list(STATUS_BY_CODE.items()))}
_MEANING = {
    400: "The request breaks rules, each of which is listed.",
    401: "There is no API key, or not a valid one.",
    403: "The API key may not do this, or the request did not come over HTTPS.",
    404: "There is no such task, version or execution.",
    406: "The client accepts nothing of what this operation gives.",
    408: "The request was sent too slowly.",
    409: "It cannot be done in the present state; `code` says which.",
    410: "The task is archived.",
    412: "The task was changed since: its `ETag` is another one.",
    413: "The body is too large.",
    415: "The body is of another type than this operation takes.",
    422: "It cannot be done with what was sent; `code` says why.",
    429: "The API key's requests come too fast; `Retry-After` says when to try again.",
    502: "What the answer depends on is not there, or failed.",
    503: "Something needed is away for the moment; `Retry-After` says when to try again.",
    504: "No answer in time.",
}
