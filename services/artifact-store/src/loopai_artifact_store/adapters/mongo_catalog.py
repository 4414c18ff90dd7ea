"""The catalog in MongoDB. Any number of processes on any number of machines may share it.

Whatever may change a task writes the task's own document first: of two at the same time one starts again before it has
read anything. ``position`` in it grows with each, and orders what happened to a task: the parts of its examples, its
activations, and its events in the outbox. It starts from the clock, so that it orders the outbox over all tasks too,
as well as clocks can.
"""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from typing import Any, Final
from uuid import UUID

from pydantic import TypeAdapter
from pymongo import DESCENDING, IndexModel, ReturnDocument
from pymongo.asynchronous.client_session import AsyncClientSession

from loopai_artifact_store.adapters.mongo import Document, MongoAdapter, take_page
from loopai_artifact_store.domain import (
    Activation,
    Artifact,
    Backlog,
    Census,
    Change,
    Decision,
    Event,
    Generation,
    IdempotencyClaim,
    Page,
    Task,
    TaskCopy,
    TaskCreation,
    TaskKey,
    TaskState,
    Undocumented,
    artifact_not_found,
    share_of,
    task_not_found,
)
from loopai_artifact_store.ports import VersionKey
from loopai_common.contracts.artifacts import ArtifactStatus, ProgramArtifact
from loopai_common.contracts.base import Digest, GenerationId, TaskId, Version
from loopai_common.contracts.tasks import Rollout, TaskStatus
from loopai_common.errors import TaskAlreadyExists

CATALOG_INDEXES: Final[dict[str, Sequence[IndexModel]]] = {
    "tasks": (
        IndexModel(["name"], unique=True),
        IndexModel(["status", "_id", "active_version"]),
    ),
    "examples": (IndexModel(["task_id", "position"], unique=True),),
    "artifacts": (
        IndexModel(["task_id", "version"], unique=True),
        IndexModel(["task_id", "generation_id"], unique=True),
        IndexModel(["task_id", "digest"]),
        IndexModel(["verdict", "deployed_at"]),
    ),
    "activations": (IndexModel(["task_id", "number"], unique=True),),
    "generations": (IndexModel(["task_id", "id"], unique=True),),
    "claims": (IndexModel(["created_at"]),),
    "outbox": (IndexModel(["position"]),),
    "undocumented": (IndexModel(["task_id", "revision", "version"]), IndexModel(["at"])),
}

_TASK: Final = TypeAdapter(Task)
_ACTIVATION: Final = TypeAdapter(Activation)
_EVENT: Final = TypeAdapter(Event)
_ROLLOUT: Final = TypeAdapter(Rollout | None)

_POINTER: Final = {"active_version": True, "rollout": True}
_NO_POINTER: Final[Document] = dict.fromkeys(_POINTER)


class MongoCatalog(MongoAdapter):
    """A catalog in a prepared database."""

    _port = "catalog"

    async def create_task(self, creation: TaskCreation) -> TaskId:
        claim, task = creation.claim, creation.task

        async def work(session: AsyncClientSession) -> TaskId:
            claimed = None if claim is None else await self._find_claim(claim, session)
            if claimed is not None:
                return claimed
            if await self._database["tasks"].find_one({"name": task.name}, {"_id": True}, session=session) is not None:
                raise TaskAlreadyExists(f"there is a task named '{task.name}' already")
            position = _now()
            if claim is not None:
                await self._insert_claim(claim, task.id, session)
            await self._insert(session, "tasks", **_task_document(task), position=position)
            await self._insert(session, "examples", task_id=task.id, position=position, text=creation.examples.text)
            await self._insert(session, "outbox", **_event_document(creation.event), position=position)
            await self._insert(session, "undocumented", **_undocumented_document(task, None))
            return task.id

        async with self._operation_in_turn("create_task", task.name):
            return await self._database.transaction(work)

    async def change_task(
        self,
        key: TaskKey,
        decide: Decision,
        *,
        generation_id: GenerationId | None = None,
        version: Version | None = None,
        claim: IdempotencyClaim | None = None,
    ) -> Change:
        async def work(session: AsyncClientSession) -> Change:
            known = await self._hold_task(key, session)
            task = _task(known)
            generation = None if generation_id is None else await self._find_generation(task.id, generation_id, session)
            target = None
            if version is not None:
                found = await self._find_artifact(task.id, version, session)
                target = None if found is None else _artifact(found, known)
            claimed = claim is not None and await self._find_claim(claim, session) is not None
            change = decide(TaskState(task, generation, target, claimed))
            if claim is not None and not claimed:
                await self._insert_claim(claim, task.id, session)
            if change != Change(task, change.version):
                await self._apply(session, known, change)
            return change

        async with self._operation_in_turn("change_task", key):
            return await self._database.transaction(work)

    async def task(self, key: TaskKey) -> Task:
        with self._operation("task"):
            return _task(await self._find_task(key))

    async def find_tasks(self, keys: Sequence[TaskKey]) -> Mapping[TaskKey, Task]:
        ids = [key for key in keys if isinstance(key, UUID)]
        names = [key for key in keys if isinstance(key, str)]
        known: dict[TaskKey, Task] = {}
        with self._operation("find_tasks"):
            async for document in self._database["tasks"].find(
                {"$or": [{"_id": {"$in": ids}}, {"name": {"$in": names}}]}
            ):
                known[document["_id"]] = known[document["name"]] = _task(document)
        return {key: known[key] for key in keys if key in known}

    async def examples(self, task_id: TaskId) -> str:
        with self._operation("examples"):
            found = self._database["examples"].find({"task_id": task_id}, {"text": True}, sort=["position"])
            lists = [part["text"][1:-1] async for part in found]
            if not lists:
                raise task_not_found(task_id)
            return f"[{','.join(filter(None, lists))}]"

    async def copy_of(self, task_id: TaskId) -> TaskCopy:
        with self._operation("copy_of"):
            async with self._database.snapshot() as session:
                known = await self._find_task(task_id, session)

                async def parts(collection: str, order: str) -> list[Document]:
                    found = self._database[collection].find({"task_id": task_id}, sort=[order], session=session)
                    return await found.to_list()

                examples = [part["text"][1:-1] for part in await parts("examples", "position")]
                return TaskCopy(
                    _task(known),
                    f"[{','.join(filter(None, examples))}]",
                    tuple(_artifact(document, known) for document in await parts("artifacts", "version")),
                    tuple(
                        replace(_ACTIVATION.validate_python(document), number=0)
                        for document in await parts("activations", "number")
                    ),
                    tuple(
                        Generation(GenerationId(document["id"]), document["version"])
                        for document in await parts("generations", "id")
                    ),
                )

    async def add_copy(self, copy: TaskCopy, events: Sequence[Event]) -> None:
        task = copy.task

        async def work(session: AsyncClientSession) -> None:
            taken = {"$or": [{"_id": task.id}, {"name": task.name}]}
            if await self._database["tasks"].find_one(taken, {"_id": True}, session=session) is not None:
                raise TaskAlreadyExists(f"there is a task {task.id}, or one named '{task.name}', already")
            positions = count(_now())
            await self._insert(session, "examples", task_id=task.id, position=next(positions), text=copy.examples)
            activations = [
                _ACTIVATION.dump_python(activation) | {"task_id": task.id, "number": next(positions)}
                for activation in copy.activations
            ]
            parts: dict[str, list[Document]] = {
                "artifacts": [_artifact_document(task.id, artifact) for artifact in copy.artifacts],
                "activations": activations,
                "generations": [
                    {"task_id": task.id, "id": made.id, "version": made.version} for made in copy.generations
                ],
                "outbox": [_event_document(event) | {"position": next(positions)} for event in events],
                "undocumented": [
                    _undocumented_document(task, None),
                    *(_undocumented_document(task, artifact.version) for artifact in copy.artifacts),
                ],
            }
            for collection, documents in parts.items():
                if documents:
                    await self._database[collection].insert_many(documents, session=session)
            await self._insert(session, "tasks", **_task_document(task), position=next(positions))

        async with self._operation_in_turn("add_copy", task.name):
            await self._database.transaction(work)

    async def tasks(
        self, *, after: TaskId | None, limit: int, status: TaskStatus | None, name_prefix: str | None
    ) -> Page[Task]:
        conditions: Document = {}
        if after is not None:
            conditions["_id"] = {"$gt": after}
        if status is not None:
            conditions["status"] = status.value
        if name_prefix:
            conditions["name"] = {"$regex": f"^{re.escape(name_prefix)}"}
        with self._operation("tasks"):
            found = self._database["tasks"].find(conditions, sort=["_id"]).limit(limit + 1)
            page = await take_page(found, limit, lambda document: _task(document).size_bytes)
        return Page(tuple(map(_task, page.items)), page.more)

    async def artifact(self, task: Task, version: Version) -> Artifact:
        with self._operation("artifact"):
            found = await self._find_artifact(task.id, version)
            if found is None:
                raise artifact_not_found(task, version)
            return _artifact(found, await self._find_pointer(task.id))

    async def find_artifacts(self, wanted: Sequence[tuple[Task, Version]]) -> Mapping[VersionKey, Artifact]:
        conditions = [{"task_id": task.id, "version": version} for task, version in wanted]
        if not conditions:
            return {}
        with self._operation("find_artifacts"):
            found = await self._database["artifacts"].find({"$or": conditions}).to_list()
            task_ids = list({task.id for task, _ in wanted})
            # After the versions, as with one.
            pointers = {
                task["_id"]: task async for task in self._database["tasks"].find({"_id": {"$in": task_ids}}, _POINTER)
            }
        return {
            (TaskId(document["task_id"]), Version(document["version"])): _artifact(
                document, pointers.get(document["task_id"], _NO_POINTER)
            )
            for document in found
        }

    async def artifacts(self, task_id: TaskId, *, after: Version, limit: int) -> Page[Artifact]:
        with self._operation("artifacts"):
            conditions = {"task_id": task_id, "version": {"$gt": after}}
            found = self._database["artifacts"].find(conditions, sort=["version"]).limit(limit + 1)
            page = await take_page(found, limit, lambda document: len(document["document"]))
            pointer = await self._find_pointer(task_id)
        return Page(tuple(_artifact(document, pointer) for document in page.items), page.more)

    async def activations(self, task_id: TaskId, *, before: int | None, limit: int) -> Page[Activation]:
        conditions: Document = {"task_id": task_id}
        if before is not None:
            conditions["number"] = {"$lt": before}
        with self._operation("activations"):
            found = self._database["activations"].find(conditions, sort=[("number", DESCENDING)]).limit(limit + 1)
            page = await take_page(found, limit, lambda document: len(document["reason"]))
        return Page(tuple(map(_ACTIVATION.validate_python, page.items)), page.more)

    async def generation(self, task_id: TaskId, generation_id: GenerationId) -> Generation | None:
        with self._operation("generation"):
            return await self._find_generation(task_id, generation_id)

    async def digests(self, task_id: TaskId) -> frozenset[Digest]:
        with self._operation("digests"):
            return frozenset(await self._database["artifacts"].distinct("digest", {"task_id": task_id}))

    async def pending_events(self, limit: int) -> tuple[Event, ...]:
        # At one moment: a scan that others overtake could find a later event of a task, and not the earlier one.
        with self._operation("pending_events"):
            async with self._database.snapshot() as session:
                found = self._database["outbox"].find({}, sort=["position"], session=session).limit(limit)
                return tuple([_event(document) async for document in found])

    async def remove_events(self, ids: Sequence[str]) -> None:
        with self._operation("remove_events"):
            await self._database["outbox"].delete_many({"_id": {"$in": list(ids)}})

    async def undocumented(self, *, after: TaskId | None, limit: int) -> Page[Undocumented]:
        pipeline: list[Document] = [
            {"$match": {} if after is None else {"task_id": {"$gt": after}}},
            {
                "$group": {
                    "_id": "$task_id",
                    "revision": {"$max": "$revision"},
                    "versions": {"$addToSet": "$version"},
                }
            },
            {"$sort": {"_id": 1}},
            {"$limit": limit + 1},
        ]
        # At one moment, as with events: what is overlooked would be taken for documented.
        with self._operation("undocumented"):
            async with self._database.snapshot() as session:
                cursor = await self._database["undocumented"].aggregate(pipeline, session=session)
                found = [_undocumented(document) async for document in cursor]
        return Page(tuple(found[:limit]), more=len(found) > limit)

    async def documented(self, task_id: TaskId, revision: int) -> None:
        with self._operation("documented"):
            await self._database["undocumented"].delete_many({"task_id": task_id, "revision": {"$lte": revision}})

    async def forget_claims(self, before: datetime) -> int:
        with self._operation("forget_claims"):
            return (await self._database["claims"].delete_many({"created_at": {"$lt": before}})).deleted_count

    async def backlog(self) -> Backlog:
        with self._operation("backlog"):
            async with self._database.snapshot() as session:
                first = await self._database["outbox"].find_one(
                    {}, {"origin": True}, sort=["position"], session=session
                )
                change = await self._database["undocumented"].find_one({}, {"at": True}, sort=["at"], session=session)
                events = await self._count("outbox", {}, None, session)
                changes = await self._count("undocumented", {}, None, session)
        return Backlog(
            events[0]["n"] if events else 0,
            None if first is None else first["origin"]["at"],
            changes[0]["n"] if changes else 0,
            None if change is None else change["at"],
        )

    async def census(self) -> Census:
        # Both counts read nothing but an index: the conditions hold for every document.
        known = {"status": {"$in": list(TaskStatus)}}
        active = {"status": "$status", "active": {"$gt": ["$active_version", None]}}
        judged = {"verdict": {"$in": list(ArtifactStatus)}}
        deployed = {"verdict": "$verdict", "deployed": {"$gt": ["$deployed_at", None]}}
        with self._operation("census"):
            async with self._database.snapshot() as session:
                tasks = await self._count("tasks", known, active, session)
                artifacts = await self._count("artifacts", judged, deployed, session)
        by_task_status = dict.fromkeys(TaskStatus, 0)
        by_status = dict.fromkeys(ArtifactStatus, 0)
        for group in tasks:
            by_task_status[TaskStatus(group["_id"]["status"])] += group["n"]
            if group["_id"]["active"]:
                by_status[ArtifactStatus.ACTIVE] += group["n"]
        by_status[ArtifactStatus.DEPRECATED] = -by_status[ArtifactStatus.ACTIVE]
        for group in artifacts:
            deployed_once, verdict = group["_id"]["deployed"], ArtifactStatus(group["_id"]["verdict"])
            by_status[ArtifactStatus.DEPRECATED if deployed_once else verdict] += group["n"]
        return Census(by_task_status, by_status)

    async def _apply(self, session: AsyncClientSession, known: Document, change: Change) -> None:
        task_id = known["_id"]
        positions = count(max(known["position"], _now()))
        examples_at, activated_at = next(positions), next(positions)
        events = [_event_document(event) | {"position": next(positions)} for event in change.events]
        changed = _task_document(change.task) | {"position": next(positions)}
        await self._database["tasks"].update_one({"_id": task_id}, {"$set": changed}, session=session)
        if change.task != _task(known):
            await self._insert(session, "undocumented", **_undocumented_document(change.task, change.version))
        if change.artifact is not None:
            await self._insert(session, "artifacts", **_artifact_document(task_id, change.artifact))
        activation = change.activation
        if activation is not None:
            values = _ACTIVATION.dump_python(activation)
            await self._insert(session, "activations", **values | {"task_id": task_id, "number": activated_at})
            if activation.moves_pointer and change.artifact is None:
                await self._database["artifacts"].update_one(
                    {"task_id": task_id, "version": activation.to_version},
                    {"$set": {"deployed_at": activation.at}},
                    session=session,
                )
        if change.examples is not None:
            await self._insert(session, "examples", task_id=task_id, position=examples_at, text=change.examples.text)
        if change.generation is not None:
            await self._database["generations"].update_one(
                {"task_id": task_id, "id": change.generation.id},
                {"$set": {"version": change.generation.version}},
                upsert=True,
                session=session,
            )
        if events:
            await self._database["outbox"].insert_many(events, session=session)

    async def _insert(self, session: AsyncClientSession, collection: str, /, **document: Any) -> None:
        await self._database[collection].insert_one(document, session=session)

    async def _find_claim(self, claim: IdempotencyClaim, session: AsyncClientSession) -> TaskId | None:
        known = await self._database["claims"].find_one({"_id": claim.key}, session=session)
        if known is None:
            return None
        claim.check(known["definition_digest"])
        return TaskId(known["task_id"])

    async def _insert_claim(self, claim: IdempotencyClaim, task_id: TaskId, session: AsyncClientSession) -> None:
        known = {"definition_digest": claim.digest, "task_id": task_id, "created_at": claim.at}
        await self._insert(session, "claims", _id=claim.key, **known)

    async def _find_task(self, key: TaskKey, session: AsyncClientSession | None = None) -> Document:
        return _existing(key, await self._database["tasks"].find_one(_named(key), session=session))

    async def _hold_task(self, key: TaskKey, session: AsyncClientSession) -> Document:
        """The task, which until the end of the transaction nobody else can hold."""
        held = {"$inc": {"position": 1}}
        found = await self._database["tasks"].find_one_and_update(
            _named(key), held, session=session, return_document=ReturnDocument.AFTER
        )
        return _existing(key, found)

    async def _find_pointer(self, task_id: TaskId) -> Document:
        # After the versions: one that was active in between then still counts as active, or has been it.
        return await self._database["tasks"].find_one({"_id": task_id}, _POINTER) or _NO_POINTER

    async def _find_artifact(
        self, task_id: TaskId, version: Version, session: AsyncClientSession | None = None
    ) -> Document | None:
        return await self._database["artifacts"].find_one({"task_id": task_id, "version": version}, session=session)

    async def _find_generation(
        self, task_id: TaskId, generation_id: GenerationId, session: AsyncClientSession | None = None
    ) -> Generation | None:
        key = {"task_id": task_id, "id": generation_id}
        found = await self._database["generations"].find_one(key, session=session)
        return None if found is None else Generation(generation_id, found["version"])

    async def _count(
        self, collection: str, conditions: Document, group: Document | None, session: AsyncClientSession
    ) -> list[Document]:
        pipeline = [{"$match": conditions}, {"$group": {"_id": group, "n": {"$sum": 1}}}]
        return await (await self._database[collection].aggregate(pipeline, session=session)).to_list()


def _named(key: TaskKey) -> Document:
    return {"_id" if isinstance(key, UUID) else "name": key}


def _existing(key: TaskKey, found: Document | None) -> Document:
    if found is None:
        raise task_not_found(key)
    return found


def _now() -> int:
    return time.time_ns() // 1000


def _task_document(task: Task) -> Document:
    values: Document = _TASK.dump_python(task)
    return {"_id": values.pop("id"), **values}


def _task(document: Document) -> Task:
    return _TASK.validate_python({**document, "id": document["_id"]})


def _artifact_document(task_id: TaskId, artifact: Artifact) -> Document:
    document = artifact.document
    return {
        "_id": document.id,
        "task_id": task_id,
        "version": document.version,
        "generation_id": artifact.generation_id,
        "digest": document.digest,
        "verdict": document.status.value,
        "deployed_at": artifact.deployed_at,
        "document": document.model_dump_json(),
    }


def _artifact(document: Document, pointer: Document) -> Artifact:
    version, active = document["version"], pointer["active_version"]
    return Artifact(
        ProgramArtifact.model_validate_json(document["document"]),
        GenerationId(document["generation_id"]),
        document["deployed_at"],
        version == active,
        share_of(version, active, _ROLLOUT.validate_python(pointer["rollout"])),
    )


def _undocumented_document(task: Task, version: Version | None) -> Document:
    return {"task_id": task.id, "revision": task.revision, "version": version, "at": datetime.now(UTC)}


def _undocumented(document: Document) -> Undocumented:
    versions = sorted(version for version in document["versions"] if version is not None)
    return Undocumented(TaskId(document["_id"]), document["revision"], tuple(map(Version, versions)))


def _event_document(event: Event) -> Document:
    values: Document = _EVENT.dump_python(event)
    return {"_id": values.pop("id"), **values}


def _event(document: Document) -> Event:
    return _EVENT.validate_python({**document, "id": document["_id"]})
