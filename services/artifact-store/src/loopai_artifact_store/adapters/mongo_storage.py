"""Programs in MongoDB: a document for each, which a program always fits, and small ones that name them."""

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from bson import Binary
from pymongo import IndexModel
from pymongo.errors import DuplicateKeyError

from loopai_artifact_store.adapters.mongo import MongoAdapter
from loopai_artifact_store.domain import checked_digest, digest_of
from loopai_artifact_store.ports import Labels, StoredProgram
from loopai_common.contracts.base import Digest, TaskId, Version
from loopai_common.errors import ArtifactCorrupt, ArtifactNotFound

STORAGE_INDEXES: Final[dict[str, Sequence[IndexModel]]] = {
    "programs": (
        IndexModel(["task_id", "digest"], unique=True),
        IndexModel(["touched_at", "task_id", "digest"]),  # lists them without reading them
    ),
    "labels": (IndexModel(["task_id", "name"], unique=True),),
}


class MongoStorage(MongoAdapter):
    """Programs in a prepared database."""

    _port = "storage"

    async def put(self, task_id: TaskId, digest: Digest, content: bytes) -> None:
        key = {"task_id": task_id, "digest": checked_digest(digest)}
        change = {"$set": {"content": Binary(content)}, "$currentDate": {"touched_at": True}}
        with self._operation("put"):
            await self._upsert("programs", key, change)

    async def get(self, task_id: TaskId, digest: Digest) -> bytes:
        key = {"task_id": task_id, "digest": checked_digest(digest)}
        with self._operation("get"):
            found = await self._database["programs"].find_one(key, {"content": True})
            if found is None:
                raise ArtifactNotFound(f"program {digest} of task {task_id} is not stored")
            content = bytes(found["content"])
            if digest_of(content) != digest:
                raise ArtifactCorrupt(f"the stored bytes of program {digest} of task {task_id} do not match the digest")
            return content

    async def delete(self, program: StoredProgram) -> None:
        key = {"task_id": program.task_id, "digest": checked_digest(program.digest)}
        with self._operation("delete"):
            await self._database["programs"].delete_one(key | {"touched_at": {"$lte": program.touched_at}})

    async def label(self, task_id: TaskId, version: Version, digest: Digest, document: str) -> None:
        key = {"task_id": task_id, "name": _label(version)}
        change = {"$set": {"version": version, "digest": checked_digest(digest), "document": document}}
        with self._operation("label"):
            await self._upsert("labels", key, change)

    async def label_active(self, task_id: TaskId, version: Version) -> None:
        key = {"task_id": task_id, "name": "active"}
        with self._operation("label"):
            await self._upsert("labels", key, {"$set": {"label": _label(version), "version": version}})

    async def label_task(self, task_id: TaskId, document: str) -> None:
        with self._operation("label"):
            await self._upsert("labels", {"task_id": task_id, "name": "task"}, {"$set": {"document": document}})

    async def labels(self, task_id: TaskId) -> Labels:
        with self._operation("labels"):
            found = {label["name"]: label async for label in self._database["labels"].find({"task_id": task_id})}
        task, active = found.pop("task", {}), found.pop("active", {})
        versions = {Version(label.get("version", int(name))): label for name, label in found.items()}
        return Labels(
            task.get("document"),
            {version: Digest(label["digest"]) for version, label in versions.items()},
            {version: label["document"] for version, label in versions.items() if "document" in label},
            active.get("version"),
        )

    async def labelled(self) -> AsyncIterator[TaskId]:
        with self._operation("labelled"):
            task_ids = await self._database["labels"].distinct("task_id")
        for task_id in task_ids:
            yield TaskId(task_id)

    async def stored(self) -> AsyncIterator[StoredProgram]:
        columns = {"_id": False, "task_id": True, "digest": True, "touched_at": True}
        with self._operation("stored"):
            async with self._database["programs"].find({}, columns).hint("touched_at_1_task_id_1_digest_1") as found:
                programs = [StoredProgram(**program) async for program in found]
        for program in programs:
            yield program

    async def _upsert(self, collection: str, key: dict[str, Any], change: dict[str, Any]) -> None:
        try:
            await self._database[collection].update_one(key, change, upsert=True)
        except DuplicateKeyError:  # somebody else inserted it just now, so that there is one to update
            await self._database[collection].update_one(key, change)


def _label(version: Version) -> str:
    return f"{version:06d}"
