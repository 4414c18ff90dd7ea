"""The log of executions in MongoDB, which removes records by itself when they are old enough."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from pymongo import ASCENDING, DESCENDING, IndexModel, UpdateOne
from pymongo.asynchronous.client_session import AsyncClientSession

from loopai_artifact_store.adapters.mongo import Document, MongoAdapter, take_page
from loopai_artifact_store.domain import Page, RecordPosition, execution_not_found
from loopai_common.contracts.base import ExecutionId, TaskId
from loopai_common.contracts.execution import ExecutionRecord, RecordStatus

_REMOVED_AT_ONCE: Final = 5000
_COUNTED: Final = 20_000


def execution_indexes(kept_for: timedelta) -> dict[str, Sequence[IndexModel]]:
    """The indexes of a log whose records are kept for so long."""
    return {
        "executions": (
            IndexModel(["task_id", ("executed_at", DESCENDING), ("_id", DESCENDING), "status"]),
            IndexModel(["executed_at"], expireAfterSeconds=int(kept_for.total_seconds())),
        )
    }


class MongoExecutionLog(MongoAdapter):
    """An execution log in a prepared database."""

    _port = "executions"

    async def add(self, records: Sequence[ExecutionRecord]) -> None:
        if not records:
            return
        writes = [UpdateOne({"_id": record.id}, _first_end_stays(record), upsert=True) for record in records]

        async def work(session: AsyncClientSession) -> None:
            await self._database["executions"].bulk_write(writes, session=session)

        with self._operation("add"):
            await self._database.transaction(work)

    async def get(self, execution_id: ExecutionId) -> ExecutionRecord:
        with self._operation("get"):
            found = await self._database["executions"].find_one({"_id": execution_id}, {"document": True})
            if found is None:
                raise execution_not_found(execution_id)
            return _record(found)

    async def page(
        self,
        task_id: TaskId,
        *,
        status: RecordStatus | None,
        since: datetime | None,
        before: RecordPosition | None,
        limit: int,
    ) -> Page[ExecutionRecord]:
        conditions: list[Document] = [{"task_id": task_id}]
        if status is not None:
            conditions.append({"status": status.value})
        if since is not None:
            conditions.append({"executed_at": {"$gte": since}})
        if before is not None:
            conditions.append({"executed_at": {"$lte": before.at}})
            conditions.append({"$or": [{"executed_at": {"$lt": before.at}}, {"_id": {"$lt": before.id}}]})
        order = [("executed_at", DESCENDING), ("_id", DESCENDING)]
        with self._operation("page"):
            found = self._database["executions"].find({"$and": conditions}, {"document": True}, sort=order)
            page = await take_page(found.limit(limit + 1), limit, lambda record: len(record["document"]))
        return Page(tuple(map(_record, page.items)), page.more)

    async def popular(self, limit: int) -> tuple[TaskId, ...]:
        steps: list[Document] = [
            {"$sort": {"executed_at": DESCENDING}},
            {"$limit": _COUNTED},
            {"$match": {"task_id": {"$ne": None}}},
            {"$group": {"_id": "$task_id", "count": {"$sum": 1}}},
            {"$sort": {"count": DESCENDING, "_id": ASCENDING}},
            {"$limit": limit},
        ]
        with self._operation("popular"):
            found = await self._database["executions"].aggregate(steps)
            return tuple([TaskId(counted["_id"]) async for counted in found])

    async def remove_before(self, moment: datetime) -> int:
        executions = self._database["executions"]
        with self._operation("remove_before"):
            old = executions.find({"executed_at": {"$lt": moment}}, {"_id": True}).limit(_REMOVED_AT_ONCE)
            ids = [record["_id"] async for record in old]
            return (await executions.delete_many({"_id": {"$in": ids}})).deleted_count if ids else 0


def _first_end_stays(record: ExecutionRecord) -> list[Document]:
    """An update that stores the record where there is none, or where what there is gives way to it."""
    gives_way: list[Any] = [{"$eq": [{"$type": "$status"}, "missing"]}]
    if record.status is not RecordStatus.ACCEPTED:
        gives_way.append({"$eq": ["$status", RecordStatus.ACCEPTED.value]})
    document = {
        "_id": record.id,
        "task_id": record.task_id,
        "executed_at": record.executed_at,
        "status": record.status.value,
        "document": record.model_dump_json(),
    }
    return [{"$replaceWith": {"$cond": [{"$or": gives_way}, {"$literal": document}, "$$ROOT"]}}]


def _record(document: Document) -> ExecutionRecord:
    return ExecutionRecord.model_validate_json(document["document"])
