"""The use case of verifying a store: every digest, and every reference between catalog and storage."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from loopai_artifact_store.documents import encode_copy, encode_version
from loopai_artifact_store.domain import Artifact, Event, Task, TaskCopy, flaws
from loopai_artifact_store.ports import Labels, Store, all_tasks
from loopai_common.contracts import subjects
from loopai_common.contracts.base import TaskId
from loopai_common.errors import ArtifactCorrupt, ArtifactNotFound, TaskNotFound

_SETTLED_AFTER_SECONDS: Final = 2.5
"""What is wrong only while somebody is changing it is not wrong."""
_OF_LABELS: Final = frozenset({"missing_label", "wrong_label", "missing_document", "wrong_document"})
_EVENTS_CHECKED: Final = 10_000
_TASKS_AT_ONCE: Final = 1000
_SUBJECTS: Final = frozenset(
    {
        subjects.TASK_CREATED,
        subjects.TASK_UPDATED,
        subjects.TASK_FAILED,
        subjects.TASK_ARCHIVED,
        subjects.TASK_GENERATE_COMMAND,
        subjects.ARTIFACT_PUBLISHED,
        subjects.ARTIFACT_ACTIVATED,
        subjects.ARTIFACT_ROLLED_BACK,
    }
)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong: a word for its kind, the task that it is about, and a sentence."""

    kind: str
    task: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Verified:
    """What was looked at, and what is wrong.

    Orphans are no problem: they are swept when they are a day old. Nor are changes that the recovery documents do not
    tell yet: a service writes them, at the latest when it is started.
    """

    tasks: int
    versions: int
    programs: int
    orphans: int
    waiting_events: int
    oldest_event_at: datetime | None
    waiting_changes: int
    oldest_change_at: datetime | None
    problems: tuple[Problem, ...]


async def verify(store: Store) -> Verified:
    """Looks at everything without changing anything; the store may be in use. Raises ``StoreUnavailable``."""
    tasks = versions = 0
    suspects: list[tuple[Task, list[Problem]]] = []
    async for task in all_tasks(store.catalog):
        copy = await store.catalog.copy_of(task.id)
        tasks, versions = tasks + 1, versions + len(copy.artifacts)
        if found := await _problems_of(store, copy):
            suspects.append((copy.task, found))
    programs = orphans = 0
    async for program in store.storage.stored():
        programs += 1
        orphans += program.digest not in await store.catalog.digests(program.task_id)
    problems = [*await _confirmed(store, suspects)]
    problems += [problem async for problem in _unknown_tasks(store)]
    problems += [problem async for problem in _bad_events(store)]
    backlog = await store.catalog.backlog()
    return Verified(
        tasks,
        versions,
        programs,
        orphans,
        backlog.events,
        backlog.oldest,
        backlog.changes,
        backlog.oldest_change,
        tuple(problems),
    )


async def _confirmed(store: Store, suspects: list[tuple[Task, list[Problem]]]) -> list[Problem]:
    """What is still wrong after those who were changing something had time to finish.

    The labels of a task that goes on changing are never seen at rest, and those of one that is undocumented are known
    to be behind: nothing is said about them.
    """
    if not suspects:
        return []
    await asyncio.sleep(_SETTLED_AFTER_SECONDS)
    behind = await _behind(store)
    confirmed: list[Problem] = []
    for task, found in suspects:
        copy = await store.catalog.copy_of(task.id)
        again = [problem for problem in await _problems_of(store, copy) if problem in found]
        at_rest = copy.task == task and task.id not in behind
        confirmed += [problem for problem in again if at_rest or problem.kind not in _OF_LABELS]
    return confirmed


async def _behind(store: Store) -> set[TaskId]:
    behind: set[TaskId] = set()
    after: TaskId | None = None
    while True:
        page = await store.catalog.undocumented(after=after, limit=_TASKS_AT_ONCE)
        behind |= {task.task_id for task in page.items}
        if not page.more:
            return behind
        after = page.items[-1].task_id


async def _problems_of(store: Store, copy: TaskCopy) -> list[Problem]:
    name = copy.task.name
    problems = [Problem(flaw.kind, name, flaw.sentence) for flaw in flaws(copy)]
    labels = await store.storage.labels(copy.task.id)
    for artifact in copy.artifacts:
        problems += [Problem(kind, name, text) for kind, text in _label_flaws(artifact, labels)]
        try:
            content = await store.storage.get(copy.task.id, artifact.document.digest)
        except ArtifactNotFound as error:
            problems.append(Problem("missing_bytes", name, f"version {artifact.version}: {error.message}"))
        except ArtifactCorrupt as error:
            problems.append(Problem("wrong_bytes", name, f"version {artifact.version}: {error.message}"))
        else:
            if len(content) != artifact.document.size_bytes:
                problems.append(Problem("wrong_size", name, f"version {artifact.version} has another size than noted"))
    if labels.active != copy.task.active_version:
        sentence = f"the label of the active version says {labels.active}, and it is {copy.task.active_version}"
        problems.append(Problem("wrong_label", name, sentence))
    if labels.task != await asyncio.to_thread(encode_copy, TaskCopy(copy.task, copy.examples)):
        kind = "missing_document" if labels.task is None else "wrong_document"
        problems.append(Problem(kind, name, "the document of the task, for recovery, is not what the catalog has"))
    return problems


def _label_flaws(artifact: Artifact, labels: Labels) -> list[tuple[str, str]]:
    version, found = artifact.version, []
    digest, document = labels.digests.get(version), labels.documents.get(version)
    if digest is None:
        found.append(("missing_label", f"version {version} has no label"))
    elif digest != artifact.document.digest:
        found.append(("wrong_label", f"the label of version {version} names another program"))
    if document is None:
        found.append(("missing_document", f"version {version} has no document for recovery"))
    elif document != encode_version(artifact):
        found.append(("wrong_document", f"the document of version {version} is not what the catalog has"))
    return found


async def _unknown_tasks(store: Store) -> AsyncIterator[Problem]:
    async for task_id in store.storage.labelled():
        try:
            await store.catalog.task(task_id)
        except TaskNotFound:
            if await store.storage.labels(task_id) != Labels():
                yield Problem("unknown_task", str(task_id), "the storage has versions of a task that the catalog lacks")


async def _bad_events(store: Store) -> AsyncIterator[Problem]:
    for event in await store.catalog.pending_events(_EVENTS_CHECKED):
        if event.subject not in _SUBJECTS or not _is_object(event):
            yield Problem("bad_event", str(event.task_id), f"the event {event.id} in the outbox cannot be understood")
        try:
            await store.catalog.task(event.task_id)
        except TaskNotFound:
            yield Problem("bad_event", str(event.task_id), f"the event {event.id} is about a task that is not there")


def _is_object(event: Event) -> bool:
    try:
        return isinstance(json.loads(event.body), dict)
    except ValueError:
        return False
