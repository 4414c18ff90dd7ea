"""``/tasks/{task}``: changing a task, ending it, and having it improved."""

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from loopai_api.application import errors
from loopai_api.bodies import MAX_TASK_BYTES, parsed, read_json_object, read_optional_json_object
from loopai_api.clients import StoreClient
from loopai_api.etags import expected_revisions
from loopai_api.models import GenerateRequest, GenerateResponse, TaskResponse, UpdateTaskRequest
from loopai_api.openapi import header_references, json_body
from loopai_api.references import task_reference
from loopai_api.routes.headers import ETAG, IDEMPOTENCY_KEY, IF_MATCH, idempotency_key
from loopai_api.routes.tasks import json_response, task_response
from loopai_api.security import require_all_tasks
from loopai_common.contracts.generation import StartGeneration
from loopai_common.contracts.tasks import Isolation, UpdateTask


def change_routes(prefix: str, store: StoreClient) -> APIRouter:
    """Changing, improving and archiving tasks."""
    router = APIRouter(prefix=prefix, tags=["tasks"])

    @router.patch(
        "/tasks/{task}",
        summary="Change a task",
        response_model=TaskResponse,
        responses={
            200: {"description": "The task as it is now.", "headers": ETAG},
            **errors(400, 404, 408, 410, 412, 413, 415, 503, 504),
        },
        openapi_extra={"requestBody": json_body(UpdateTaskRequest), "parameters": [IF_MATCH]},
    )
    async def update_task(task: str, request: Request) -> Response:
        """Changes the fields that the body names; `examples` are added to those there are. Send the `ETag` that you
        read as `If-Match`, so that nobody else's change is overwritten unseen. A key that is limited to tasks may not
        choose `isolation: group`, as its program would share a process with those of other tasks.
        """
        reference, expected = task_reference(task), expected_revisions(request)
        value = await read_json_object(request, MAX_TASK_BYTES)
        changes = await run_in_threadpool(parsed, UpdateTaskRequest, value)
        if changes.isolation is Isolation.GROUP:
            require_all_tasks(request, "isolation 'group'")
        command = UpdateTask(task=reference, changes=changes, expected_revisions=expected)
        return task_response(await store.update_task(command))

    @router.delete(
        "/tasks/{task}",
        summary="Archive a task",
        status_code=204,
        response_class=Response,
        responses={204: {"description": "Archived, now or before."}, **errors(404, 503, 504)},
    )
    async def archive_task(task: str) -> Response:
        """The task runs no more: executions and changes answer 410 from then on. It can still be read, and its name
        stays taken. Doing it again changes nothing.
        """
        await store.archive_task(task_reference(task))
        return Response(status_code=204)

    @router.post(
        "/tasks/{task}/generate",
        summary="Make a new version",
        status_code=202,
        response_model=GenerateResponse,
        responses={
            202: {
                "description": "Under way, and not lost by a restart.",
                "headers": header_references("Location"),
            },
            **errors(400, 404, 408, 410, 413, 415, 422, 503, 504),
        },
        openapi_extra={"requestBody": json_body(GenerateRequest, required=False), "parameters": [IDEMPOTENCY_KEY]},
    )
    async def generate(task: str, request: Request) -> Response:
        """Has another program written, on the task's examples and those in the body. It becomes the active version when
        it reaches the accuracy target and is not worse than the active one on the same examples.
        """
        reference, key = task_reference(task), idempotency_key(request)
        value = await read_optional_json_object(request, MAX_TASK_BYTES)
        body = await run_in_threadpool(parsed, GenerateRequest, value)
        command = StartGeneration(
            task=reference,
            constraints=body.constraints,
            strategy=body.strategy,
            examples=body.examples,
            idempotency_key=key,
        )
        started = await store.start_generation(command)
        answer = GenerateResponse(task_id=started.task_id, generation_id=started.generation_id)
        return json_response(answer, 202, {"Location": f"{prefix}/tasks/{started.task_id}"})

    return router
