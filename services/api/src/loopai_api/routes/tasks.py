"""``/tasks``."""

import re
from typing import Annotated

import pydantic
from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from loopai_api.application import errors
from loopai_api.bodies import MAX_TASK_BYTES, read_json_object
from loopai_api.clients import StoreClient, TaskWatcher
from loopai_api.models import CreateTaskRequest, TaskListResponse, TaskResponse
from loopai_api.problems import broken_rules
from loopai_api.references import task_reference
from loopai_common.contracts.base import Contract
from loopai_common.contracts.tasks import ListTasks, TaskStatus
from loopai_common.definitions import definition_violations
from loopai_common.errors import Violation
from loopai_common.runtime.errors import violations_of

MAX_WAIT_SECONDS = 60
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_WAIT = re.compile(r"(?:^|,)\s*wait\s*=\s*\"?([0-9]{1,6})\"?\s*(?:$|[,;])", re.IGNORECASE)


def json_response(body: Contract, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A contract as the response's body."""
    return Response(body.model_dump_json(), status_code=status, media_type="application/json", headers=headers)


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
                "headers": {
                    name: {"$ref": f"#/components/headers/{name}"} for name in ("Location", "Preference-Applied")
                },
            },
            **errors(400, "malformed_json", 408, 409, 413, 415, 422, 503, 504),
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/CreateTaskRequest"}}},
            },
            "parameters": [
                {
                    "name": "Prefer",
                    "in": "header",
                    "description": "`wait=N` answers when the task is ready or failed, after N seconds (60 at most).",
                    "schema": {"type": "string", "examples": ["wait=30"]},
                },
                {
                    "name": "Idempotency-Key",
                    "in": "header",
                    "description": "Makes a retry safe: the same key with the same body answers with the same task.",
                    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
                },
            ],
        },
    )
    async def create_task(request: Request) -> Response:
        """Stores the task and starts the generation of its program. Poll the task, or use `Prefer: wait=30`."""
        value = await read_json_object(request, MAX_TASK_BYTES)
        key = _idempotency_key(request)
        definition = await run_in_threadpool(_definition, value)
        task = await store.create_task(definition, key)
        headers = {"Location": f"{prefix}/tasks/{task.id}"}
        wait = _wait_seconds(request)
        if wait:
            task = await watcher.wait(task, wait)
            headers["Preference-Applied"] = f"wait={wait}"
        return json_response(task, 201, headers)

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

    @router.get("/tasks/{task}", summary="Show a task", response_model=TaskResponse, responses=errors(404, 503, 504))
    async def get_task(task: str) -> Response:
        """The whole task with its examples, its status, and the reason of the status where there is one."""
        return json_response(await store.get_task(task_reference(task)))

    return router


def _definition(value: dict[str, object]) -> CreateTaskRequest:
    """The definition in a request's body; raises :class:`ValidationFailed` with every violation."""
    try:
        definition = CreateTaskRequest.model_validate(value)
    except pydantic.ValidationError as error:
        raise broken_rules(violations_of(error)) from None
    violations = definition_violations(definition)
    if violations:
        raise broken_rules(violations)
    return definition


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and _IDEMPOTENCY_KEY.fullmatch(key) is None:
        rule = Violation("Idempotency-Key", "must be 1 to 255 visible ASCII characters", "invalid_header")
        raise broken_rules([rule])
    return key


def _wait_seconds(request: Request) -> int:
    found = _WAIT.search(request.headers.get("prefer", ""))
    return min(int(found[1]), MAX_WAIT_SECONDS) if found else 0
