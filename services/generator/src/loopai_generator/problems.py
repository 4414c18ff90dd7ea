"""Errors as HTTP: the one place of this service that knows statuses."""

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from loopai_common.errors import (
    DeadlineExceeded,
    Internal,
    LoopaiError,
    MalformedJson,
    Overloaded,
    PayloadTooLarge,
    ValidationFailed,
)
from loopai_common.runtime.errors import failure_of
from loopai_common.runtime.logging import get_logger
from loopai_generator.language_model.chat import ModelBusy, ModelTimedOut, ModelUnavailable

_STATUSES: tuple[tuple[type[LoopaiError], int], ...] = (
    (MalformedJson, 400),
    (ValidationFailed, 400),
    (DeadlineExceeded, 408),
    (PayloadTooLarge, 413),
    (ModelBusy, 429),
    (Overloaded, 503),
    (ModelTimedOut, 504),
    (ModelUnavailable, 502),
)
_RETRY_AFTER_SECONDS = "2"

log = get_logger()


def answer_errors(app: FastAPI) -> None:
    """Lets ``app`` answer every error with ``{code, message, retryable, details}``."""

    async def known(_: Request, error: Exception) -> JSONResponse:
        return problem(error if isinstance(error, LoopaiError) else Internal("something unforeseen happened"))

    async def unforeseen(request: Request, error: Exception) -> JSONResponse:
        log.error("request_failed", path=request.url.path, exc_info=error)
        return problem(Internal("something unforeseen happened; the log has the cause"))

    async def routing(_: Request, error: Exception) -> JSONResponse:
        status = error.status_code if isinstance(error, HTTPException) else 500
        code = {404: "not_found", 405: "method_not_allowed"}.get(status, "internal")
        return JSONResponse(
            {"code": code, "message": code.replace("_", " "), "retryable": False, "details": []}, status
        )

    app.add_exception_handler(LoopaiError, known)
    app.add_exception_handler(HTTPException, routing)
    app.add_exception_handler(Exception, unforeseen)


def problem(error: LoopaiError) -> JSONResponse:
    """The response that stands for ``error``."""
    status = next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)
    later = error.retry_after if isinstance(error, ModelUnavailable) else None
    if isinstance(error, Overloaded):
        later = _RETRY_AFTER_SECONDS
    headers = None if later is None else {"Retry-After": later}
    return JSONResponse(failure_of(error).model_dump(mode="json"), status, headers)
