"""``/tasks/{task}/artifacts``."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from loopai_api.application import errors
from loopai_api.clients import StoreClient
from loopai_api.etags import etag, not_modified
from loopai_api.models import ArtifactListResponse, ArtifactResponse
from loopai_api.openapi import header_references
from loopai_api.references import task_reference, version_reference
from loopai_api.routes.tasks import json_response
from loopai_common.contracts.artifacts import ListArtifacts

_ETAG: dict[str, Any] = header_references("ETag")
_NOT_MODIFIED: dict[str, Any] = {"description": "Not modified.", "headers": _ETAG}


def artifact_routes(prefix: str, store: StoreClient) -> APIRouter:
    """The versions of a task's program."""
    router = APIRouter(prefix=prefix, tags=["artifacts"])

    @router.get(
        "/tasks/{task}/artifacts",
        summary="List versions",
        response_model=ArtifactListResponse,
        responses=errors(400, 404, 503, 504),
    )
    async def list_artifacts(
        task: str,
        include: Annotated[Literal["code"] | None, Query(description="`code` adds the source of each version.")] = None,
        limit: Annotated[int, Query(ge=1, le=200, description="How many versions a page holds.")] = 50,
        cursor: Annotated[str | None, Query(max_length=500, description="`next_cursor` of the page before.")] = None,
    ) -> Response:
        """The versions of the task's program, oldest first."""
        query = ListArtifacts(task=task_reference(task), include_code=include == "code", limit=limit, cursor=cursor)
        return json_response(await store.list_artifacts(query))

    @router.get(
        "/tasks/{task}/artifacts/{version}",
        summary="Show a version",
        response_model=ArtifactResponse,
        responses={
            200: {"headers": _ETAG},
            304: _NOT_MODIFIED,
            **errors(404, "artifact_not_found", "task_not_ready", 503, 504),
        },
    )
    async def get_artifact(task: str, version: str, request: Request) -> Response:
        """One version with its source; `{version}` is a number or `active`. The `ETag` is the digest of the source."""
        artifact = await store.get_artifact(task_reference(task), version_reference(version), include_code=True)
        headers = {"ETag": etag(artifact.digest), "Cache-Control": "no-cache"}
        if not_modified(request, artifact.digest):
            return Response(status_code=304, headers=headers)
        return json_response(artifact, headers=headers)

    @router.get(
        "/tasks/{task}/artifacts/{version}/code",
        summary="Download the source",
        response_class=Response,
        responses={
            200: {
                "description": "The source of the program.",
                "headers": _ETAG,
                "content": {"text/x-python": {"schema": {"type": "string"}, "example": "def run(input): ...\n"}},
            },
            304: _NOT_MODIFIED,
            **errors(404, "artifact_not_found", "task_not_ready", 503, 504),
        },
    )
    async def get_code(task: str, version: str, request: Request) -> Response:
        """The program exactly as it was stored."""
        artifact = await store.get_artifact(task_reference(task), version_reference(version), include_code=True)
        headers = {"ETag": etag(artifact.digest), "Cache-Control": "no-cache"}
        if not_modified(request, artifact.digest):
            return Response(status_code=304, headers=headers)
        return Response(artifact.code or "", media_type="text/x-python", headers=headers)

    return router
