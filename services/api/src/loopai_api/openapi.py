"""The OpenAPI documents: FastAPI's view of the routes, completed with what all operations share.

What stands once in the code stands here once: response headers, the errors that any request can meet, the form of
errors in each version, the examples (they live beside the models), and the bodies that routes read themselves.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import models_json_schema

from loopai_api import models
from loopai_api.problems import PROBLEM, STATUS_BY_CODE, error_kinds, problem, title_of
from loopai_api.security import describe_keys
from loopai_api.versions import VERSIONS, ApiVersion, version_named
from loopai_common import __version__

DESCRIPTION = """\
A description of a task becomes a small program once; the program then runs millions of times.

Create a task, wait until it is `ready`, and execute it. `{task}` in a path is a task's id or its name.
"""
SERVER_TIMING: Mapping[str, Any] = {"$ref": "#/components/headers/Server-Timing"}

_JSON = "application/json"
_SCHEMAS = "#/components/schemas/"
_ERROR = {"$ref": f"{_SCHEMAS}ErrorResponse"}
_TAGS = [
    {"name": "tasks", "description": "What programs shall do."},
    {"name": "executions", "description": "Running a task's program."},
    {"name": "artifacts", "description": "The versions of a task's program."},
    {"name": "health", "description": "How the service is."},
]
_HEADERS = {
    "X-Correlation-ID": (
        "The request's own, else a new one. It is in every log line and error.",
        models.EXAMPLE_EXECUTION["correlation_id"],
    ),
    "Server-Timing": (
        "`run`: what the program took; `queue`: the rest. Milliseconds.",
        "queue;dur=0.412, run;dur=0.041",
    ),
    "Retry-After": ("Seconds to wait before the next try.", "1"),
    "Location": ("Where it can be read.", f"/api/v2/tasks/{models.EXAMPLE_TASK['id']}"),
    "ETag": ("The digest of the source.", f'"{models.EXAMPLE_ARTIFACT["digest"]}"'),
    "Preference-Applied": ("The preference that was followed.", "wait=30"),
}
_PARAMETERS = {
    "X-Correlation-ID": "Ties requests, log lines and messages together: 1 to 128 visible ASCII characters.",
    "traceparent": "W3C Trace Context; goes on to every service.",
}
_PATH_PARAMETERS: Mapping[str, tuple[str, str]] = {
    "task": ("The task's id or its name.", models.EXAMPLE_DEFINITION["name"]),
    "version": ("A version's number, or `active`.", "active"),
}
_ANY_REQUEST = ("not_acceptable", "request_timeout", "headers_too_large", "internal", "overloaded", "https_required")
"""Codes that every operation can answer with."""

_ANY_KEYED_REQUEST = ("missing_api_key", "invalid_api_key", "insufficient_scope", "rate_limit_exceeded")
"""Codes that every operation which needs a key can answer with."""

Document = dict[str, Any]


def openapi_document(routes: Sequence[APIRoute], version: ApiVersion | None, deprecated: Sequence[str]) -> Document:
    """The document of one version, or (``None``) of all, and of what is outside the versions."""
    names = list(VERSIONS) if version is None else [version.name]
    document = get_openapi(
        title="Loopai",
        version=__version__ if version is None else version.name,
        summary="Programs made once from a description, run millions of times.",
        description=DESCRIPTION,
        license_info={"name": "Apache 2.0", "identifier": "Apache-2.0"},
        tags=_TAGS,
        routes=[r for r in routes if version_named(r.path) in names or (version is None and not version_named(r.path))],
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    describe_keys(document)
    for path, operation in _operations(document):
        form = VERSIONS.get(version_named(path) or "")
        _drop_unused_answer(operation)
        _describe_parameters(operation, path)
        _add_any_request(operation)
        if form is not None and form.errors is PROBLEM:
            _as_problems(operation, path)
        if form is not None and form.name in deprecated:
            operation["deprecated"] = True
        for status, response in operation["responses"].items():
            headers = response.setdefault("headers", {})
            headers["X-Correlation-ID"] = _header("X-Correlation-ID")
            if status in ("429", "503"):
                headers["Retry-After"] = _header("Retry-After")
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    _add_missing_schemas(document)
    schemas = document["components"]["schemas"]
    _restore_nulls(schemas)
    for _, operation in _operations(document):
        _show_examples(operation, schemas)
    document["components"]["headers"] = {
        name: {"description": text, "schema": {"type": "string", "examples": [example]}}
        for name, (text, example) in _HEADERS.items()
    }
    document["components"]["parameters"] = {
        name: {"name": name, "in": "header", "description": text, "schema": {"type": "string"}}
        for name, text in _PARAMETERS.items()
    }
    return document


def json_body(model: type[BaseModel], *, required: bool = True, more: Mapping[str, Document] | None = None) -> Document:
    """The ``requestBody`` of a route that reads its body itself; ``more`` are its other forms, by media type."""
    schema = {"schema": {"$ref": f"{_SCHEMAS}{model.__name__}"}}
    return {"required": required, "content": {_JSON: schema, **(more or {})}}


def header_references(*names: str) -> Document:
    """The ``headers`` of an answer, each described once in the document."""
    return {name: _header(name) for name in names}


def error_example(code: str) -> Document:
    """An ``ErrorResponse`` with this code."""
    shown = dict(models.EXAMPLE_ERROR)
    if code != shown["code"]:
        shown |= {"code": code, "message": _lower_first(title_of(code)), "details": []}
    return {"summary": title_of(code), "description": error_kinds()[code].remedy, "value": shown}


def _problem_example(code: str, path: str) -> Document:
    old = error_example(code)
    shown = old["value"]
    more = {}
    if code in {"program_error", "program_timeout"}:
        more["execution"] = models.EXAMPLE_FAILED_EXECUTIONS[code]
        shown["message"] = more["execution"]["error_message"]
    value = problem(code, shown["message"], shown["trace_id"], _filled(path), shown["details"], **more)
    return {**old, "value": value}


def _filled(path: str) -> str:
    for name in _PATH_PARAMETERS:
        path = path.replace(f"{{{name}}}", _path_parameter(name, path)[1])
    return path


def _path_parameter(name: str, path: str) -> tuple[str, str]:
    """What a parameter stands for, and an example of it; what is to be activated has a number."""
    if name == "version" and path.endswith("/activate"):
        return "A version's number.", "1"
    return _PATH_PARAMETERS[name]


def _operations(document: Document) -> Iterator[tuple[str, Document]]:
    for path, methods in document["paths"].items():
        for operation in methods.values():
            yield path, operation


def _drop_unused_answer(operation: Document) -> None:
    """FastAPI's own 422: a request that breaks rules is answered 400 here."""
    if "HTTPValidationError" in str(operation["responses"].get("422", "")):
        del operation["responses"]["422"]


def _describe_parameters(operation: Document, path: str) -> None:
    parameters = operation.setdefault("parameters", [])
    for parameter in parameters:
        if parameter["in"] == "path" and parameter["name"] in _PATH_PARAMETERS:
            parameter["description"], parameter["example"] = _path_parameter(parameter["name"], path)
    parameters.extend({"$ref": f"#/components/parameters/{name}"} for name in _PARAMETERS)


def _add_any_request(operation: Document) -> None:
    for code in (*_ANY_REQUEST, *(_ANY_KEYED_REQUEST if "security" in operation else ())):
        status = str(STATUS_BY_CODE[code])
        response = operation["responses"].setdefault(status, {"description": f"{title_of(code)}."})
        content = response.setdefault("content", {}).setdefault(_JSON, {"schema": _ERROR, "examples": {}})
        if content["schema"] == _ERROR:
            content["examples"].setdefault(code, error_example(code))


def _as_problems(operation: Document, path: str) -> None:
    """Turns every documented ``ErrorResponse`` into a ``Problem``."""
    for response in operation["responses"].values():
        content = response.get("content", {})
        if content.get(_JSON, {}).get("schema") == _ERROR:
            codes = content.pop(_JSON)["examples"]
            content[PROBLEM.media_type] = {
                "schema": {"$ref": f"{_SCHEMAS}Problem"},
                "examples": {code: _problem_example(code, path) for code in codes},
            }


def _show_examples(operation: Document, schemas: Document) -> None:
    """Puts the examples of a body's model where a reader of the operation sees them."""
    for part in (operation.get("requestBody", {}), *operation["responses"].values()):
        for media in part.get("content", {}).values():
            name = media.get("schema", {}).get("$ref", "").removeprefix(_SCHEMAS)
            examples = schemas.get(name, {}).get("examples", ())
            if "examples" not in media and examples:
                media["examples"] = {f"{name} {n}": {"value": value} for n, value in enumerate(examples, 1)}


def _restore_nulls(schemas: Document) -> None:
    """FastAPI drops what is ``null`` in a document, in examples too."""
    for name, schema in schemas.items():
        extra = getattr(models, name, BaseModel).model_config.get("json_schema_extra") if "examples" in schema else None
        if isinstance(extra, dict) and "examples" in extra:
            schema["examples"] = extra["examples"]


def _add_missing_schemas(document: Document) -> None:
    """The models that routes name without handing them to FastAPI; every one is in ``loopai_api.models``."""
    schemas = document["components"]["schemas"]
    named = sorted(set(_references(document)) - schemas.keys())
    if named:
        kinds = [(name, getattr(models, name)) for name in named]
        _, found = models_json_schema(
            [(k, "validation" if "Request" in n else "serialization") for n, k in kinds if issubclass(k, BaseModel)],
            ref_template=f"{_SCHEMAS}{{model}}",
        )
        enums = {name: TypeAdapter(kind).json_schema() for name, kind in kinds if not issubclass(kind, BaseModel)}
        for name, schema in {**enums, **found.get("$defs", {})}.items():
            schemas.setdefault(name, schema)
    if "ErrorResponse" not in set(_references(document)):
        schemas.pop("ErrorResponse", None)
    document["components"]["schemas"] = dict(sorted(schemas.items()))


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        reference = value.get("$ref")
        if isinstance(reference, str) and reference.startswith(_SCHEMAS):
            yield reference.removeprefix(_SCHEMAS)
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _references(item)


def _header(name: str) -> Document:
    return {"$ref": f"#/components/headers/{name}"}


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
