"""``/executions`` and ``/tasks/{task}/executions``: what is recorded of asynchronous and sampled executions."""

from datetime import datetime
from typing import Annotated

import pydantic
from fastapi import APIRouter, Query
from pydantic import AwareDatetime
from starlette.responses import Response

from loopai_api.application import errors
from loopai_api.clients import StoreClient
from loopai_api.models import ExecutionListResponse, ExecutionRecordResponse
from loopai_api.problems import broken_rules
from loopai_api.references import execution_reference, task_reference
from loopai_api.routes.tasks import json_response
from loopai_common.contracts.execution import ListExecutions, RecordStatus
from loopai_common.runtime.errors import violations_of


def record_routes(prefix: str, store: StoreClient) -> APIRouter:
    """Looking at executions afterwards."""
    router = APIRouter(prefix=prefix, tags=["executions"])

    @router.get(
        "/executions/{execution}",
        summary="Show an execution",
        response_model=ExecutionRecordResponse,
        responses=errors(404, 503, 504),
    )
    async def get_execution(execution: str) -> Response:
        """An asynchronous or sampled execution. While `status` is `accepted` it has not run yet: poll it again."""
        return json_response(await store.get_execution(execution_reference(execution)))

    @router.get(
        "/tasks/{task}/executions",
        summary="List executions",
        response_model=ExecutionListResponse,
        responses=errors(400, 404, 503, 504),
    )
    async def list_executions(
        task: str,
        status: Annotated[RecordStatus | None, Query(description="Only executions with this status.")] = None,
        since: Annotated[
            AwareDatetime | None, Query(description="Only executions from this time on (RFC 3339).")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=200, description="How many executions a page holds.")] = 50,
        cursor: Annotated[str | None, Query(max_length=500, description="`next_cursor` of the page before.")] = None,
    ) -> Response:
        """The recorded executions of the task, newest first: asynchronous ones, those that `sampling_rate` picked, and
        those with `force_validation`. A page ends early when its inputs and outputs are large.
        """
        return json_response(await store.list_executions(_query(task_reference(task), status, since, limit, cursor)))

    return router


def _query(
    task: str, status: RecordStatus | None, since: datetime | None, limit: int, cursor: str | None
) -> ListExecutions:
    try:
        return ListExecutions(task=task, status=status, since=since, limit=limit, cursor=cursor)
    except pydantic.ValidationError as error:
        raise broken_rules(violations_of(error)) from None
