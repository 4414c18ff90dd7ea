"""``/tasks``."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from loopai_api.application import errors
from loopai_api.bodies import MAX_TASK_BYTES, parsed, read_json_object
from loopai_api.clients import StoreClient, TaskWatcher
from loopai_api.etags import etag, not_modified
from loopai_api.models import CreateTaskRequest, TaskListResponse, TaskResponse
from loopai_api.openapi import header_references, json_body
from loopai_api.problems import broken_rules
from loopai_api.references import task_reference
from loopai_api.routes.headers import ETAG, IDEMPOTENCY_KEY, idempotency_key, wait_seconds
from loopai_common.contracts.tasks import ListTasks, TaskSpecification, TaskStatus
from loopai_common.definitions import definition_violations


def json_response(body: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A model as the response's body."""
    return Response(body.model_dump_json(), status_code=status, media_type="application/json", headers=headers)


def task_response(task: TaskSpecification, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A task with its ``ETag``."""
    return json_response(task, status, {**(headers or {}), "ETag": etag(task.revision)})


def task_routes(prefix: str, store: StoreClient, watcher: TaskWatcher) -> APIRouter:
    """Creating, listing and showing tasks."""
    router = APIRouter(prefix=prefix, tags=["tasks"])

    @router.post(
        "/tasks",
        summary="Create a task",
        status_code=201,
        response_model=TaskResponse,
        responses={
            201: {
                "description": "Stored; its program is being generated.",
                "headers": {**header_references("Location", "Preference-Applied"), **ETAG},
            },
            **errors(400, "malformed_json", 408, 409, 413, 415, 422, 503, 504),
        },
        openapi_extra={
            "requestBody": json_body(CreateTaskRequest),
            "parameters": [
                {
                    "name": "Prefer",
                    "in": "header",
                    "description": "`wait=N` answers when the task is ready or failed, after N seconds (60 at most).",
                    "schema": {"type": "string", "examples": ["wait=30"]},
                },
                IDEMPOTENCY_KEY,
            ],
        },
    )
    async def create_task(request: Request) -> Response:
        """Stores the task and starts the generation of its program. Poll the task, or use `Prefer: wait=30`."""
        value = await read_json_object(request, MAX_TASK_BYTES)
        key = idempotency_key(request)
        definition = await run_in_threadpool(_definition, value)
        task = await store.create_task(definition, key)
        headers = {"Location": f"{prefix}/tasks/{task.id}"}
        wait = wait_seconds(request)
        if wait:
            task = await watcher.wait(task, wait)
            headers["Preference-Applied"] = f"wait={wait}"
        return task_response(task, 201, headers)

    @router.get("/tasks", summary="List tasks", response_model=TaskListResponse, responses=errors(400, 503, 504))
    async def list_tasks(
        limit: Annotated[int, Query(ge=1, le=200, description="How many tasks a page holds.")] = 50,
        cursor: Annotated[str | None, Query(max_length=500, description="`next_cursor` of the page before.")] = None,
        status: Annotated[TaskStatus | None, Query(description="Only tasks with this status.")] = None,
        name_prefix: Annotated[
            str | None, Query(max_length=200, description="Only tasks whose name begins like this.")
        ] = None,
    ) -> Response:
        """Pages through all tasks in the order of their creation, without their examples."""
        query = ListTasks(limit=limit, cursor=cursor, status=status, name_prefix=name_prefix)
        return json_response(await store.list_tasks(query))

    @router.get(
        "/tasks/{task}",
        summary="Show a task",
        response_model=TaskResponse,
        responses={
            200: {"description": "The task.", "headers": ETAG},
            304: {"description": "Not modified."},
            **errors(404, 503, 504),
        },
    )
    async def get_task(task: str, request: Request) -> Response:
        """The whole task with its examples, its status, and the reason of the status where there is one. The `ETag`
        changes with every change of the task; `If-None-Match` answers 304 while it has not.
        """
        found = await store.get_task(task_reference(task))
        if not_modified(request, found.revision):
            return Response(status_code=304, headers={"ETag": etag(found.revision)})
        return task_response(found)

    return router


def _definition(value: dict[str, object]) -> CreateTaskRequest:
    """The definition in a request's body; raises :class:`ValidationFailed` with every violation."""
    definition = parsed(CreateTaskRequest, value)
    violations = definition_violations(definition)
    if violations:
        raise broken_rules(violations)
    return definition
