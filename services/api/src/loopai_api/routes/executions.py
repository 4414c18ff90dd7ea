"""``/tasks/{task}/execute``, the ordinary lane."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from loopai_api.application import errors
from loopai_api.bodies import MAX_EXECUTE_BYTES, read_body
from loopai_api.execution.requests import parse_execute
from loopai_api.execution.service import ExecutionService
from loopai_api.models import ExecuteResponse
from loopai_api.references import task_reference
from loopai_common.runtime import context


def execution_routes(prefix: str, executions: ExecutionService) -> APIRouter:
    """Running a task's program."""
    router = APIRouter(prefix=prefix, tags=["executions"])

    @router.post(
        "/tasks/{task}/execute",
        summary="Run the program",
        response_model=ExecuteResponse,
        responses=errors(400, 404, 408, 409, 410, 413, 415, 503, 504),
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ExecuteRequest"}}},
            },
        },
    )
    async def execute(task: str, request: Request) -> Response:
        """Runs the task's active version, or the `version` named, on one input. A program that raised answers 200 with
        `status` `error`, one that ran out of time with `timeout`; `error_code` and `error_message` say what happened.
        """
        reference = task_reference(task)
        body = parse_execute(await read_body(request, MAX_EXECUTE_BYTES), reference)
        answer = await executions.execute(reference, body, context.current())
        return Response(answer, media_type="application/json")

    return router
