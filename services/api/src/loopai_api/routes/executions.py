"""``/tasks/{task}/execute``, the ordinary lane."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from loopai_api.application import errors
from loopai_api.bodies import MAX_EXECUTE_BYTES, read_body
from loopai_api.execution.asynchronous import AsynchronousExecutions
from loopai_api.execution.service import ExecutionService
from loopai_api.models import ExecuteResponse, ExecutionAcceptedResponse
from loopai_api.openapi import SERVER_TIMING, header_references, json_body
from loopai_api.references import task_reference
from loopai_api.versions import V1, version_of
from loopai_common.contracts.execution import ExecutionRecord
from loopai_common.runtime import context

_ERRORS: tuple[int | str, ...] = (
    *(400, "malformed_json", "input_schema_violation", 404, "artifact_not_found", 408, "task_not_ready", 410, 413, 415),
    *("no_executor", "overloaded", 504),
)


def execution_routes(prefix: str, executions: ExecutionService, asynchronous: AsynchronousExecutions) -> APIRouter:
    """Running a task's program."""
    router = APIRouter(prefix=prefix, tags=["executions"])
    version = version_of(prefix) or V1

    @router.post(
        "/tasks/{task}/execute",
        summary="Run the program",
        description=f"Runs the task's active version, or the `version` named, on one input. {version.failed_program}",
        response_model=ExecuteResponse,
        responses={
            200: {"headers": {"Server-Timing": SERVER_TIMING}},
            202: {
                "model": ExecutionAcceptedResponse,
                "description": "Accepted durably (`Prefer: respond-async`); it runs later.",
                "headers": header_references("Location", "Preference-Applied"),
            },
            **errors(*_ERRORS, *version.program_errors),
        },
        openapi_extra={
            "requestBody": json_body(version.execute_request),
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
        reference = task_reference(task)
        body = version.parse_execute(await read_body(request, MAX_EXECUTE_BYTES), reference)
        if _prefers_async(request):
            return _accepted(prefix, await asynchronous.accept(reference, body))
        answer = await executions.execute(reference, body, context.current(), version.render_execution)
        media_type = "application/json" if answer.status == 200 else version.errors.media_type
        return Response(answer.body, answer.status, {"Server-Timing": answer.timing}, media_type)

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
