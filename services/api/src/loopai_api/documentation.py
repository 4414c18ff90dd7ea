"""The pages that the service gives about itself: OpenAPI documents, Swagger UI, ReDoc, the list of errors.

All from the service's own files, so that they work where there is no internet.
"""

import html
import re
from collections.abc import Sequence
from pathlib import Path

import fastapi_standalone_docs
from fastapi import FastAPI
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles

from loopai_api.openapi import Document, openapi_document
from loopai_api.problems import ERRORS_PAGE, STATUS_BY_CODE, error_kinds
from loopai_api.versions import VERSIONS
from loopai_common.errors import summary_of

_NO_ICON = "data:,"
_STATIC = Path(fastapi_standalone_docs.__file__).parent / "static"
_ALL = "/openapi.json"
_PAGE = (
    '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Loopai: errors</title><style>'
    "body{{font:16px/1.5 sans-serif;max-width:46em;margin:2em auto;padding:0 1em}}"
    "h2{{font-family:monospace}}</style></head><body>{body}</body></html>"
)


def add_documentation(app: FastAPI, routes: Sequence[APIRoute], deprecated: Sequence[str]) -> None:
    """Adds the pages; ``deprecated`` are the names of versions that shall be shown so."""
    documents: dict[str, Document] = {}

    def document_at(url: str) -> Document:
        if url not in documents:
            version = next((v for v in VERSIONS.values() if f"{v.prefix}{_ALL}" == url), None)
            documents[url] = openapi_document(routes, version, deprecated)
        return documents[url]

    async def openapi(request: Request) -> Response:
        return JSONResponse(document_at(request.scope["path"]))

    async def swagger(request: Request) -> Response:
        page = get_swagger_ui_html(
            openapi_url=_chosen(request),
            title="Loopai: Swagger UI",
            swagger_js_url="/swagger/static/swagger-ui-bundle.js",
            swagger_css_url="/swagger/static/swagger-ui.css",
            swagger_favicon_url=_NO_ICON,
            swagger_ui_parameters={"validatorUrl": None},  # a badge from elsewhere, unless this is loopback
        )
        return _with_choice(page, request)

    async def redoc(request: Request) -> Response:
        page = get_redoc_html(
            openapi_url=_chosen(request),
            title="Loopai: ReDoc",
            redoc_js_url="/redoc/static/redoc.standalone.js",
            redoc_favicon_url=_NO_ICON,
            with_google_fonts=False,
        )
        return _with_choice(page, request)

    async def errors(_: Request) -> Response:
        return HTMLResponse(_PAGE.format(body=errors_html()))

    app.openapi = lambda: document_at(_ALL)  # type: ignore[method-assign]  # FastAPI's documented way to extend it
    for url in (_ALL, *(f"{version.prefix}{_ALL}" for version in VERSIONS.values())):
        app.add_route(url, openapi, include_in_schema=False)
    app.mount("/swagger/static", StaticFiles(directory=_STATIC / "swagger"))
    app.mount("/redoc/static", StaticFiles(directory=_STATIC / "redoc"))
    for path, page in (("/swagger", swagger), ("/redoc", redoc), (ERRORS_PAGE, errors)):
        app.add_route(path, page, include_in_schema=False)


def errors_markdown() -> str:
    """The list of codes for ``docs/errors.md``: what each means, and what to do about it."""
    rows = "\n".join(
        f"| `{code}` | {STATUS_BY_CODE[code]} | {cause} | {remedy} | {'yes' if retryable else 'no'} |"
        for code, cause, remedy, retryable in _errors()
    )
    return f"""\
# Errors

Written by `make contracts` from the classes of the errors and the table of statuses in
`services/api/src/loopai_api/problems.py`. A running service shows the same at `{ERRORS_PAGE}`.

Version 1 answers with an `ErrorResponse`, later ones with a problem (RFC 9457) whose `type` is `{ERRORS_PAGE}#<code>`.
`trace_id` is the request's `X-Correlation-ID`, which every log line has.

| code | status | what is wrong | what to do | same again can help |
| --- | --- | --- | --- | --- |
{rows}
"""


def errors_html() -> str:
    """The same list, each code under an anchor of its name."""
    return "<h1>Errors</h1>" + "".join(
        f'<h2 id="{code}">{code}</h2><p>Status {STATUS_BY_CODE[code]}. {_marked(cause)}</p><p>{_marked(remedy)}</p>'
        f"<p>Sending the same again can {'' if retryable else 'not '}help.</p>"
        for code, cause, remedy, retryable in _errors()
    )


def _errors() -> list[tuple[str, str, str, bool]]:
    """Code, cause, remedy and whether trying again can help; a code without a class is one that nothing raises."""
    kinds = error_kinds()
    known = [(code, kinds[code]) for code in STATUS_BY_CODE if code in kinds]
    return [(code, summary_of(kind), kind.remedy, kind.retryable) for code, kind in known]


def _marked(text: str) -> str:
    return re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _chosen(request: Request) -> str:
    version = VERSIONS.get(request.query_params.get("version", ""))
    return _ALL if version is None else f"{version.prefix}{_ALL}"


def _with_choice(page: HTMLResponse, request: Request) -> HTMLResponse:
    """The page with a list of versions on top; choosing one loads the page of that version's document."""
    chosen = _chosen(request)
    options = "".join(
        f'<option value="{name}"{" selected" if chosen.startswith(f"{version.prefix}/") else ""}>{name}</option>'
        for name, version in VERSIONS.items()
    )
    select = (
        '<select aria-label="API version" style="margin:1em" onchange="location.search=\'version=\'+this.value">'
        f'<option value="">all versions</option>{options}</select>'
    )
    return HTMLResponse(bytes(page.body).decode().replace("<body>", f"<body>{select}", 1))
