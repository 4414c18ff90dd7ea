"""``/tasks/{task}/artifacts``: handing a program in, and deciding which version runs."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from loopai_api.application import errors
from loopai_api.bodies import (
    MAX_SMALL_BYTES,
    MAX_TASK_BYTES,
    media_type,
    parsed,
    read_bytes,
    read_json_object,
    read_optional_json_object,
)
from loopai_api.clients import ProgramClient, StoreClient
from loopai_api.models import ActivateRequest, ActivationListResponse, ArtifactResponse, UploadProgramRequest
from loopai_api.openapi import header_references, json_body
from loopai_api.references import task_reference, version_number
from loopai_api.routes.headers import IDEMPOTENCY_KEY, idempotency_key
from loopai_api.routes.tasks import json_response
from loopai_common.contracts.artifacts import MAX_CODE_BYTES, ActivateArtifact, ListActivations
from loopai_common.contracts.generation import SubmitProgram
from loopai_common.errors import MalformedJson

SOURCE = "text/x-python"
_ACTOR = "api"
_BOOLEANS = {"true": True, "false": False}

_SOURCE_BODY: dict[str, Any] = {
    "schema": {"type": "string"},
    "example": "def run(input):\n    return 'spam' if 'prize' in input['text'] else 'ham'\n",
}
_SOURCE_OPTIONS: list[dict[str, Any]] = [
    {
        "name": name,
        "in": "query",
        "description": f"With a `{SOURCE}` body: `{name}` of the JSON body.",
        "schema": UploadProgramRequest.model_json_schema(ref_template="#/components/schemas/{model}")["properties"][
            name
        ],
    }
    for name in ("entry_point", "synthesis_strategy", "activate")
]


def publishing_routes(prefix: str, store: StoreClient, programs: ProgramClient) -> APIRouter:
    """Uploading and activating versions."""
    router = APIRouter(prefix=prefix, tags=["artifacts"])

    @router.post(
        "/tasks/{task}/artifacts",
        summary="Upload a program",
        status_code=201,
        response_model=ArtifactResponse,
        responses={
            201: {
                "description": "Checked and stored as the next version.",
                "headers": header_references("Location"),
            },
            **errors(400, 404, 408, 410, 413, 415, 422, "no_generator_proxy", "no_executor", 503, 504),
        },
        openapi_extra={
            "requestBody": json_body(UploadProgramRequest, more={SOURCE: _SOURCE_BODY}),
            "parameters": [IDEMPOTENCY_KEY, *_SOURCE_OPTIONS],
        },
    )
    async def upload(task: str, request: Request) -> Response:
        """Takes a program as JSON, or its source as `text/x-python`, and checks it as a generated one is checked: it
        must load in the sandbox and reach the task's accuracy target on its examples, else 400 `program_rejected` says
        what it got wrong.
        """
        reference, key = task_reference(task), idempotency_key(request)
        program = await _program(request)
        artifact = await programs.submit(SubmitProgram(task=reference, idempotency_key=key, **program.model_dump()))
        location = f"{prefix}/tasks/{artifact.task_id}/artifacts/{artifact.version}"
        return json_response(artifact, 201, {"Location": location})

    @router.post(
        "/tasks/{task}/artifacts/{version}/activate",
        summary="Activate a version",
        response_model=ArtifactResponse,
        responses=errors(400, 404, 408, 409, 410, 413, 415, 503, 504),
        openapi_extra={"requestBody": json_body(ActivateRequest, required=False)},
    )
    async def activate(task: str, version: str, request: Request) -> Response:
        """Makes the version the active one, forward or back. With a `percentage` below 100 the active version stays,
        and this one gets that share of the executions that name no version; 0 ends that.
        """
        reference, number = task_reference(task), version_number(version)
        body = parsed(ActivateRequest, await read_optional_json_object(request, MAX_SMALL_BYTES))
        command = ActivateArtifact(
            task=reference,
            version=number,
            expected_version=body.expected_version,
            unconditional="expected_version" not in body.model_fields_set,
            percentage=body.percentage,
            reason=body.reason,
            actor=_ACTOR,
        )
        return json_response(await store.activate(command))

    @router.get(
        "/tasks/{task}/activations",
        summary="List activations",
        response_model=ActivationListResponse,
        responses=errors(400, 404, 503, 504),
    )
    async def list_activations(
        task: str,
        limit: Annotated[int, Query(ge=1, le=200, description="How many activations a page holds.")] = 50,
        cursor: Annotated[str | None, Query(max_length=500, description="`next_cursor` of the page before.")] = None,
    ) -> Response:
        """Which version was given which share of the executions, when, by whom, and why; newest first."""
        query = ListActivations(task=task_reference(task), limit=limit, cursor=cursor)
        return json_response(await store.list_activations(query))

    return router


async def _program(request: Request) -> UploadProgramRequest:
    """The program in either form of body; raises :class:`ValidationFailed` with every violation."""
    if media_type(request) != SOURCE:
        return parsed(UploadProgramRequest, await read_json_object(request, MAX_TASK_BYTES))
    try:
        code = (await read_bytes(request, MAX_CODE_BYTES)).decode()
    except UnicodeDecodeError as error:
        raise MalformedJson("the source is not UTF-8") from error
    options = {name: _BOOLEANS.get(text, text) for name, text in request.query_params.items()}
    return parsed(UploadProgramRequest, {**options, "code": code})
