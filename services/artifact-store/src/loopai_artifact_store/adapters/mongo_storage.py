"""Programs in MongoDB: a document for each, which a program always fits, and small ones that name them."""

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from bson import Binary, ObjectId
from pymongo import IndexModel, UpdateOne
from pymongo.errors import BulkWriteError, DuplicateKeyError

from loopai_artifact_store.adapters.mongo import MongoAdapter, is_duplicate
from loopai_artifact_store.domain import checked_digest, digest_of
from loopai_artifact_store.ports import Labels, LabelsMoved, LabelTags, StoredProgram
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

    async def label_tags(self, task_id: TaskId, versions: Sequence[Version] = ()) -> LabelTags:
        names = ["task", "active", *map(_label, versions)]
        conditions = {"task_id": task_id, "name": {"$in": names}}
        with self._operation("label_tags"):
            found = self._database["labels"].find(conditions, {"name": True, "tag": True})
            return {label["name"]: label.get("tag") async for label in found}

    async def label(self, task_id: TaskId, labels: Labels, *, since: LabelTags) -> None:
        changes: dict[str, dict[str, object]] = {}
        for version, digest in labels.digests.items():
            named: dict[str, object] = {"version": version, "digest": checked_digest(digest)}
            changes[_label(version)] = named | {"document": labels.documents[version]}
        if labels.task is not None:
            changes["task"] = {"document": labels.task}
        if labels.active is not None:
            changes["active"] = {"label": _label(labels.active), "version": labels.active}
        tag = ObjectId()
        # One that has another tag is not found, and cannot be inserted a second time.
        moves = [
            UpdateOne(
                {"task_id": task_id, "name": name, "tag": since.get(name)},
                {"$set": {**values, "tag": tag}},
                upsert=True,
            )
            for name, values in changes.items()
        ]
        with self._operation("label"):
            try:
                await self._database["labels"].bulk_write(moves)
            except BulkWriteError as error:
                if not is_duplicate(error):
                    raise
                raise LabelsMoved(f"task {task_id} was labelled by another one; try again") from error

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
