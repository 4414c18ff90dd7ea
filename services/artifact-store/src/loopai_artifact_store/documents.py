"""Tasks as documents: as they are answered, as they stand in an archive, and as they are kept for recovery."""

import json
from typing import Any

from pydantic import JsonValue, ValidationError

from loopai_artifact_store import domain
from loopai_artifact_store.domain import Artifact, Generation, Task, TaskCopy, json_text, share_of
from loopai_common import json_text as strict_json
from loopai_common.contracts.artifacts import Activation, ProgramArtifact
from loopai_common.contracts.base import Contract, GenerationId, Timestamp, Version
from loopai_common.contracts.tasks import Example, TaskSpecification, TaskSummary
from loopai_common.errors import LoopaiError, MalformedJson


class BadDocument(LoopaiError):
    """A stored document is not one of this release."""

    code = "bad_document"
    remedy = "Use a release that is as new as the one that wrote it, or another copy."


class VersionDocument(Contract):
    """A version. ``artifact`` is what was published; ``deployed_at`` is when the pointer was last moved to it."""

    artifact: ProgramArtifact
    generation_id: GenerationId
    deployed_at: Timestamp | None


class GenerationDocument(Contract):
    """What became of a generation; ``version`` is ``None`` when it failed."""

    id: GenerationId
    version: Version | None


class TaskDocument(Contract):
    """A whole task: :class:`~loopai_artifact_store.domain.TaskCopy` as JSON."""

    task: TaskSummary
    examples: list[JsonValue]
    examples_bytes: int
    versions: tuple[VersionDocument, ...]
    activations: tuple[Activation, ...]
    generations: tuple[GenerationDocument, ...]


def summary(task: Task) -> TaskSummary:
    """The task without its examples, as it is answered."""
    return TaskSummary(**_values(task))


def specification(task: Task, examples: tuple[Example, ...]) -> TaskSpecification:
    """The whole task, as it is answered."""
    return TaskSpecification(**_values(task), examples=examples)


def activation(activation: domain.Activation) -> Activation:
    """An entry of the history, as it is answered."""
    return Activation(
        at=activation.at,
        actor=activation.actor,
        from_version=activation.from_version,
        to_version=activation.to_version,
        percentage=activation.percentage,
        reason=activation.reason,
    )


def encode_copy(copy: TaskCopy) -> str:
    """The copy as JSON; equal copies give equal text."""
    document = {
        "task": summary(copy.task).model_dump(mode="json"),
        "examples_bytes": copy.task.examples_bytes,
        "versions": [_version(artifact).model_dump(mode="json") for artifact in copy.artifacts],
        "activations": [activation(each).model_dump(mode="json") for each in copy.activations],
        "generations": [{"id": str(made.id), "version": made.version} for made in copy.generations],
        "examples": json.loads(copy.examples),
    }
    return json_text(document)


def decode_copy(text: bytes) -> TaskCopy:
    """The copy that :func:`encode_copy` wrote; raises :class:`BadDocument`."""
    try:
        document = TaskDocument.model_validate(strict_json.loads(text))
    except (MalformedJson, ValidationError) as error:
        raise BadDocument(f"the document of a task cannot be read: {_reason(error)}") from error
    task = _task(document.task, document.examples_bytes)
    if task.total_examples != len(document.examples):
        raise BadDocument(f"task '{task.name}' shall have {task.total_examples} examples, not {len(document.examples)}")
    return TaskCopy(
        task,
        json_text(document.examples),
        tuple(_artifact(version, task) for version in document.versions),
        tuple(domain.Activation(**dict(each)) for each in document.activations),
        tuple(Generation(made.id, made.version) for made in document.generations),
    )


def encode_version(artifact: Artifact) -> str:
    """A version as JSON."""
    return _version(artifact).model_dump_json()


def decode_version(text: str, task: Task) -> Artifact:
    """The version that :func:`encode_version` wrote; raises :class:`BadDocument`."""
    try:
        return _artifact(VersionDocument.model_validate_json(text), task)
    except ValidationError as error:
        raise BadDocument(f"the document of a version of task '{task.name}' cannot be read") from error


def _version(artifact: Artifact) -> VersionDocument:
    return VersionDocument(
        artifact=artifact.document, generation_id=artifact.generation_id, deployed_at=artifact.deployed_at
    )


def _artifact(version: VersionDocument, task: Task) -> Artifact:
    number = version.artifact.version
    return Artifact(
        version.artifact,
        version.generation_id,
        version.deployed_at,
        number == task.active_version,
        share_of(number, task.active_version, task.rollout),
    )


def _task(document: TaskSummary, examples_bytes: int) -> Task:
    schemas = {name: json_text(getattr(document, name)) for name in ("input_schema", "output_schema")}
    return Task(**dict(document) | schemas, examples_bytes=examples_bytes)


def _values(task: Task) -> dict[str, Any]:
    return {
        "id": task.id,
        "name": task.name,
        "description": task.description,
        "input_schema": json.loads(task.input_schema),
        "output_schema": json.loads(task.output_schema),
        "total_examples": task.total_examples,
        "accuracy_target": task.accuracy_target,
        "latency_target_ms": task.latency_target_ms,
        "sampling_rate": task.sampling_rate,
        "isolation": task.isolation,
        "comparison": task.comparison,
        "comparison_threshold": task.comparison_threshold,
        "status": task.status,
        "status_reason": task.status_reason,
        "active_version": task.active_version,
        "rollout": task.rollout,
        "total_versions": task.total_versions,
        "revision": task.revision,
        "created_at": task.created_at,
        "updated_at": task.updated_at,
    }


def _reason(error: MalformedJson | ValidationError) -> str:
    if isinstance(error, MalformedJson):
        return error.message
    return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False)[:5])
