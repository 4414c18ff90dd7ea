"""A catalog that is lost is made again from what is kept beside the programs."""

from dataclasses import dataclass, replace
from typing import Final

from loopai_artifact_store.documents import (
    BadDocument,
    decode_copy,
    decode_version,
)
from loopai_artifact_store.domain import (
    WHOLE,
    Activation,
    Artifact,
    Generation,
    Task,
    TaskCopy,
    checked_digest,
    digest_of,
    import_events,
    share_of,
)
from loopai_artifact_store.labelling import everything_of, label
from loopai_artifact_store.origin import current_origin
from loopai_artifact_store.ports import ArtifactStorage, Labels, Store
from loopai_common.contracts.artifacts import (
    ArtifactStatus,
    ComplexityMetrics,
    Language,
    ProgramArtifact,
    SynthesisStrategy,
)
from loopai_common.contracts.base import ArtifactId, GenerationId, TaskId, Version
from loopai_common.contracts.tasks import TaskStatus
from loopai_common.errors import (
    ArtifactCorrupt,
    ArtifactNotFound,
    LoopaiError,
    TaskAlreadyExists,
    ValidationFailed,
)
from loopai_common.identifiers import new_uuid

_NO_CODE: Final = digest_of(b"")


class CatalogNotEmpty(LoopaiError):
    """There are tasks in the catalog that a rebuild would have to guess about."""

    code = "catalog_not_empty"
    remedy = "Move the catalog away, or choose an empty one, and try again."


@dataclass(frozen=True, slots=True)
class Loss:
    """What could not be recovered of a task."""

    task: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What was recovered, and what was not."""

    tasks: int
    versions: int
    losses: tuple[Loss, ...]


async def rebuild(store: Store) -> Rebuilt:
    """Makes an empty catalog anew out of what is kept beside the programs.

    A version whose bytes or document are lost stays as a failed one without code, so that numbers stay what they were.
    A task whose active version is lost has failed until another one is activated. Of the history only its last entry
    is made. Raises :class:`CatalogNotEmpty`, and :class:`~loopai_common.errors.StoreUnavailable`.
    """
    if sum((await store.catalog.census()).tasks.values()):
        raise CatalogNotEmpty("the catalog has tasks; a rebuild needs an empty one, so move the old one away first")
    tasks = versions = 0
    losses: list[Loss] = []
    async for task_id in store.storage.labelled():
        labels = await store.storage.labels(task_id)
        if labels == Labels():
            continue
        try:
            copy, lost = await _recovered(store.storage, task_id, labels)
            await store.catalog.add_copy(copy, import_events(copy.task, copy.artifacts, current_origin()))
        except (BadDocument, TaskAlreadyExists) as error:
            losses.append(Loss(str(task_id), f"the task cannot be recovered: {error.message}"))
            continue
        await label(store.catalog, store.storage, everything_of(copy.task))
        tasks, versions = tasks + 1, versions + len(copy.artifacts) - len(lost)
        losses += [Loss(copy.task.name, sentence) for sentence in lost]
    return Rebuilt(tasks, versions, tuple(losses))


async def _recovered(storage: ArtifactStorage, task_id: TaskId, labels: Labels) -> tuple[TaskCopy, list[str]]:
    """The task, and what of it is lost; raises :class:`BadDocument`."""
    if labels.task is None:
        raise BadDocument("its document is not there")
    kept = decode_copy(labels.task.encode())
    if kept.task.id != task_id:
        raise BadDocument("its document is one of another task")
    found = {version: await _version(storage, kept.task, version, text) for version, text in labels.documents.items()}
    there = {version: artifact for version, artifact in found.items() if artifact is not None}
    total = max(kept.task.total_versions, *there) if there else kept.task.total_versions
    lost: list[str] = []
    for number in range(1, total + 1):
        version = Version(number)
        if version not in there:
            lost.append(f"version {version} is lost; a failed one without code stands in its place")
            await storage.put(task_id, _NO_CODE, b"")
            there[version] = _placeholder(kept.task, version)
    task = replace(kept.task, total_versions=total)
    usable = {version for version, artifact in there.items() if artifact.document.digest != _NO_CODE}
    if task.rollout is not None and task.rollout.version not in usable:
        task = replace(task, rollout=None)
    if task.active_version is not None and task.active_version not in usable:
        lost.append(f"version {task.active_version} was the active one; activate another")
        status = TaskStatus.ARCHIVED if task.status is TaskStatus.ARCHIVED else TaskStatus.FAILED
        reason = f"version {task.active_version}, the active one, was lost; activate another"
        task = replace(task, status=status, status_reason=reason, active_version=None, rollout=None)
    artifacts = tuple(there[version] for version in sorted(there))
    generations = tuple(Generation(artifact.generation_id, artifact.version) for artifact in artifacts)
    return TaskCopy(task, kept.examples, _moved(task, artifacts), _history(task), generations), lost


async def _version(storage: ArtifactStorage, task: Task, version: Version, text: str) -> Artifact | None:
    """The version, when its document and its bytes are what they were."""
    try:
        artifact = decode_version(text, task)
        if (artifact.document.task_id, artifact.version) != (task.id, version):
            return None
        await storage.get(task.id, checked_digest(artifact.document.digest))
    except (BadDocument, ArtifactNotFound, ArtifactCorrupt, ValidationFailed):
        return None
    return artifact


def _placeholder(task: Task, version: Version) -> Artifact:
    document = ProgramArtifact(
        id=ArtifactId(new_uuid()),
        task_id=task.id,
        version=version,
        language=Language.PYTHON,
        entry_point="run",
        digest=_NO_CODE,
        size_bytes=0,
        synthesis_strategy=SynthesisStrategy.AUTO,
        confidence_score=0.0,
        complexity_metrics=ComplexityMetrics(),
        llm_provider=None,
        llm_model=None,
        generation_cost=0.0,
        generation_time_sec=0.0,
        validation=None,
        status=ArtifactStatus.FAILED,
        deployment_percentage=0.0,
        created_at=task.created_at,
        deployed_at=None,
        parent_version=None,
    )
    return Artifact(document, GenerationId(new_uuid()), None, active=False, percentage=0.0)


def _moved(task: Task, artifacts: tuple[Artifact, ...]) -> tuple[Artifact, ...]:
    return tuple(
        replace(
            artifact,
            active=artifact.version == task.active_version,
            percentage=share_of(artifact.version, task.active_version, task.rollout),
        )
        for artifact in artifacts
    )


def _history(task: Task) -> tuple[Activation, ...]:
    if task.active_version is None:
        return ()
    at = task.updated_at
    return (Activation(at, "system", None, task.active_version, WHOLE, "recovered from the storage of programs"),)
