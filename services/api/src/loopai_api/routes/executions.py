"""``/tasks/{task}/execute``, the ordinary lane."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from loopai_api.application import errors
from loopai_api.bodies import MAX_EXECUTE_BYTES, read_body
from loopai_api.execution.asynchronous import AsynchronousExecutions
from loopai_api.execution.requests import parse_execute
from loopai_api.execution.service import ExecutionService
from loopai_api.models import ExecuteResponse, ExecutionAcceptedResponse
from loopai_api.references import task_reference
from loopai_common.contracts.execution import ExecutionRecord
from loopai_common.runtime import context


def execution_routes(prefix: str, executions: ExecutionService, asynchronous: AsynchronousExecutions) -> APIRouter:
    """Running a task's program."""
    router = APIRouter(prefix=prefix, tags=["executions"])

    @router.post(
        "/tasks/{task}/execute",
        summary="Run the program",
        response_model=ExecuteResponse,
        responses={
            202: {
                "model": ExecutionAcceptedResponse,
                "description": "Accepted durably (`Prefer: respond-async`); it runs later.",
                "headers": {
                    "Location": {"description": "The execution's record.", "schema": {"type": "string"}},
                    "Preference-Applied": {"description": "`respond-async`.", "schema": {"type": "string"}},
                },
            },
            **errors(400, 404, 408, 409, 410, 413, 415, 503, 504),
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ExecuteRequest"}}},
            },
            "parameters": [
                {
                    "name": "Prefer",
                    "in": "header",
                    "description": "`respond-async` answers 202 at once; the outcome is at `Location` when it has run.",
                    "schema": {"type": "string", "examples": ["respond-async"]},
                },
            ],
        },
    )
    async def execute(task: str, request: Request) -> Response:
        """Runs the task's active version, or the `version` named, on one input. A program that raised answers 200 with
        `status` `error`, one that ran out of time with `timeout`; `error_code` and `error_message` say what happened.
        """
        reference = task_reference(task)
        body = parse_execute(await read_body(request, MAX_EXECUTE_BYTES), reference)
        if _prefers_async(request):
            return _accepted(prefix, await asynchronous.accept(reference, body))
        answer = await executions.execute(reference, body, context.current())
        return Response(answer, media_type="application/json")

    return router


def _prefers_async(request: Request) -> bool:
    """Whether the client prefers not to wait (RFC 7240, which allows several headers, and parameters)."""
    preferences = ",".join(request.headers.getlist("prefer")).split(",")
    return any(preference.partition(";")[0].strip().lower() == "respond-async" for preference in preferences)


def _accepted(prefix: str, record: ExecutionRecord) -> Response:
    body = ExecutionAcceptedResponse(
        execution_id=record.id,
        task_id=record.task_id,
        version=record.version,
        status=record.status,
        accepted_at=record.executed_at,
        correlation_id=record.correlation_id,
    )
    headers = {"Location": f"{prefix}/executions/{record.id}", "Preference-Applied": "respond-async"}
    return Response(body.model_dump_json(), status_code=202, media_type="application/json", headers=headers)
