"""The use cases of the artifact store."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final
from uuid import UUID, uuid5

from pydantic import TypeAdapter

from loopai_artifact_store import domain
from loopai_artifact_store.documents import activation, specification, summary
from loopai_artifact_store.domain import (
    Artifact,
    Change,
    Decision,
    Examples,
    IdempotencyClaim,
    Origin,
    Task,
    TaskCreation,
    TaskKey,
    artifact_not_found,
    decode_cursor,
    digest_of,
    encode_cursor,
    event,
    json_text,
    program_of,
    runnable_version,
    take_page,
    task_key,
    task_not_found,
)
from loopai_artifact_store.origin import current_origin
from loopai_artifact_store.ports import ArtifactStorage, Catalog, Observer, VersionKey
from loopai_common.contracts import subjects
from loopai_common.contracts.artifacts import (
    MAX_CODE_BYTES,
    ActivateArtifact,
    ActivationPage,
    ArtifactPage,
    FetchProgram,
    GetArtifact,
    ListActivations,
    ListArtifacts,
    ProgramArtifact,
    ProgramCode,
    PublishArtifact,
    ResolvedProgram,
    ResolvedPrograms,
    ResolvedRollout,
    ResolveProgram,
    ResolvePrograms,
)
from loopai_common.contracts.base import ArtifactId, GenerationId, TaskId, Version
from loopai_common.contracts.failure import Failure
from loopai_common.contracts.generation import GenerationStarted, GenerationState, GetGeneration, StartGeneration
from loopai_common.contracts.tasks import (
    ArchiveTask,
    CreateTask,
    Example,
    FailTask,
    GetTask,
    ListTasks,
    Rollout,
    TaskCreated,
    TaskDefinition,
    TaskPage,
    TaskSpecification,
    TaskStatus,
    TaskSummary,
    UpdateTask,
)
from loopai_common.definitions import definition_violations, example_violations
from loopai_common.errors import (
    LoopaiError,
    PayloadTooLarge,
    StoreUnavailable,
    TaskArchived,
    TaskNotReady,
    ValidationFailed,
)
from loopai_common.identifiers import new_uuid
from loopai_common.runtime.errors import failure_of

ORPHANS_KEPT_FOR: Final = timedelta(days=1)
"""Bytes without a version may belong to a publish that is still under way; after a day they do not."""

CLAIMS_KEPT_FOR: Final = timedelta(days=7)
"""How long an idempotency key answers with the task that it made."""

_ADDED: Final = {"comparison", "comparison_threshold"}
"""Fields that came later: at their defaults they are no part of what an idempotency key stands for, so that a key that
was used before there were such fields still answers with its task.
"""

_TASKS_LIST: Final = b"tasks"
_EXAMPLES: TypeAdapter[tuple[Example, ...]] = TypeAdapter(tuple[Example, ...])


class ArtifactStore:
    """The only owner of tasks and their versions. ``on_commit`` is called after a change was stored."""

    def __init__(
        self,
        catalog: Catalog,
        storage: ArtifactStorage,
        observer: Observer,
        on_commit: Callable[[], None],
    ) -> None:
        self._catalog = catalog
        self._storage = storage
        self._observer = observer
        self._on_commit = on_commit

    async def create_task(self, command: CreateTask) -> TaskSpecification:
        """Stores the task, for which a program is generated from then on.

        The same idempotency key with the same definition answers with the task that exists. Raises
        :class:`ValidationFailed`, ``TaskAlreadyExists`` and ``IdempotencyKeyReused``.
        """
        creation = await asyncio.to_thread(_creation, command.definition, command.idempotency_key, current_origin())
        task_id = await self._catalog.create_task(creation)
        self._on_commit()
        task = await self._catalog.task(task_id)
        return specification(task, command.definition.examples)

    async def get_task(self, query: GetTask) -> TaskSpecification:
        """One task; raises ``TaskNotFound``."""
        task = await self._catalog.task(task_key(query.task))
        if not query.include_examples:
            return specification(task, ())
        examples = await self._catalog.examples(task.id)
        return await asyncio.to_thread(lambda: specification(task, _EXAMPLES.validate_json(examples)))

    async def list_tasks(self, query: ListTasks) -> TaskPage:
        """A page of tasks, in the order of their creation. A page ends early when its tasks are large."""
        after = None
        if query.cursor is not None:
            after = TaskId(UUID(bytes=decode_cursor(_TASKS_LIST, query.cursor)))
        page = await self._catalog.tasks(
            after=after, limit=query.limit, status=query.status, name_prefix=query.name_prefix
        )
        next_cursor = encode_cursor(_TASKS_LIST, page.items[-1].id.bytes) if page.more else None
        return TaskPage(items=tuple(map(summary, page.items)), next_cursor=next_cursor)

    async def update_task(self, command: UpdateTask) -> TaskSpecification:
        """The task as it is after the change; a change to what it is already changes nothing.

        Raises ``TaskNotFound``, ``TaskArchived``, ``PreconditionFailed``, :class:`ValidationFailed` for examples that
        break the schemas or are too many, and ``PayloadTooLarge``.
        """
        task = await self._catalog.task(task_key(command.task))
        more = await asyncio.to_thread(_examples, task, command.changes.examples)
        await self._change(task.id, partial(domain.update, command=command, more=more, origin=current_origin()))
        return await self.get_task(GetTask(task=str(task.id)))

    async def archive_task(self, command: ArchiveTask) -> TaskSummary:
        """Ends the life of the task, if it has not ended already. Raises ``TaskNotFound``."""
        change = await self._change(task_key(command.task), partial(domain.archive, origin=current_origin()))
        return summary(await self._catalog.task(change.task.id))

    async def start_generation(self, command: StartGeneration) -> GenerationStarted:
        """Has a new version made, on the examples there are and those that come with the command.

        The same idempotency key with the same command answers with the generation that was started. Raises as
        :meth:`update_task`, and ``IdempotencyKeyReused``.
        """
        task, origin = await self._catalog.task(task_key(command.task)), current_origin()
        more = await asyncio.to_thread(_examples, task, command.examples)
        claim = await asyncio.to_thread(_order_claim, task.id, command, origin)
        generation_id = GenerationId(new_uuid() if claim is None else uuid5(task.id, f"{claim.key} {claim.digest}"))
        decide = partial(
            domain.start_generation, command=command, more=more, generation_id=generation_id, origin=origin
        )
        await self._change(task.id, decide, generation_id=generation_id, claim=claim)
        return GenerationStarted(task_id=task.id, generation_id=generation_id)

    async def get_generation(self, query: GetGeneration) -> GenerationState:
        """What became of a generation; one that nobody knows has not ended."""
        known = await self._catalog.generation(query.task_id, query.generation_id)
        return GenerationState(ended=known is not None, version=None if known is None else known.version)

    async def fail_task(self, command: FailTask) -> TaskSummary:
        """Notes that a generation ended without a program; once for each generation.

        Raises ``TaskNotFound`` and ``TaskArchived``; for a fallback that cannot run ``ArtifactNotFound`` and
        ``ActivationRefused``.
        """
        await self._change(
            command.task_id,
            partial(domain.fail, command=command, origin=current_origin()),
            generation_id=command.generation_id,
            version=command.fallback_version,
        )
        return summary(await self._catalog.task(command.task_id))

    async def publish(self, command: PublishArtifact) -> ProgramArtifact:
        """Stores the program as the next version; the version that exists when this generation was published before.

        Raises ``TaskNotFound``, ``TaskArchived``, :class:`ValidationFailed`, and :class:`PayloadTooLarge` for code of
        more than ``MAX_CODE_BYTES``.
        """
        program = program_of(command.code)
        if len(program.content) > MAX_CODE_BYTES:
            raise PayloadTooLarge(f"the code is larger than {MAX_CODE_BYTES} bytes")
        task = await self._catalog.task(command.task_id)
        # Bytes first: a crash in between leaves bytes that nobody refers to, never a version without bytes.
        await self._storage.put(task.id, program.digest, program.content)
        decide = partial(
            domain.publish,
            command=command,
            program=program,
            artifact_id=ArtifactId(new_uuid()),
            origin=current_origin(),
        )
        change = await self._change(task.id, decide, generation_id=command.generation_id)
        if change.artifact is not None:
            self._observer.published(command.synthesis_strategy)
        return await self._about(change)

    async def activate(self, command: ActivateArtifact) -> ProgramArtifact:
        """Gives a version its share of the executions; all of them move the pointer.

        Raises ``TaskNotFound``, ``TaskArchived``, ``ArtifactNotFound``, ``VersionConflict``, ``ActivationRefused`` and
        ``TaskNotReady``.
        """
        decide = partial(domain.activate, command=command, origin=current_origin())
        return await self._about(await self._change(task_key(command.task), decide, version=command.version))

    async def list_activations(self, query: ListActivations) -> ActivationPage:
        """A page of what was done to the pointer, newest first. Raises ``TaskNotFound``."""
        task = await self._catalog.task(task_key(query.task))
        scope = b"activations" + task.id.bytes
        before = None if query.cursor is None else int.from_bytes(decode_cursor(scope, query.cursor))
        page = await self._catalog.activations(task.id, before=before, limit=query.limit)
        next_cursor = encode_cursor(scope, page.items[-1].number.to_bytes(8)) if page.more else None
        return ActivationPage(items=tuple(map(activation, page.items)), next_cursor=next_cursor)

    async def list_artifacts(self, query: ListArtifacts) -> ArtifactPage:
        """A page of versions, oldest first. A page ends early when its programs are large. Raises ``TaskNotFound``."""
        task = await self._catalog.task(task_key(query.task))
        scope = task.id.bytes
        after = 0 if query.cursor is None else int.from_bytes(decode_cursor(scope, query.cursor))
        page = await self._catalog.artifacts(task.id, after=Version(after), limit=query.limit)
        if query.include_code:
            short = take_page(page.items, query.limit, lambda artifact: artifact.document.size_bytes)
            page = domain.Page(short.items, page.more or short.more)
        items = [await self._as_contract(artifact, with_code=query.include_code) for artifact in page.items]
        next_cursor = encode_cursor(scope, page.items[-1].version.to_bytes(4)) if page.more else None
        return ArtifactPage(items=tuple(items), next_cursor=next_cursor)

    async def get_artifact(self, query: GetArtifact) -> ProgramArtifact:
        """One version; raises ``TaskNotFound``, ``TaskNotReady``, ``ArtifactNotFound`` and ``ArtifactCorrupt``."""
        task = await self._catalog.task(task_key(query.task))
        version = domain.active_version(task) if query.version is None else query.version
        artifact = await self._catalog.artifact(task, version)
        return await self._as_contract(artifact, with_code=query.include_code)

    async def resolve(self, query: ResolveProgram) -> ResolvedProgram:
        """What an executor must know to run a version; any version runs when it is asked for by its number.

        Raises ``TaskNotFound``, ``TaskArchived``, ``TaskNotReady`` and ``ArtifactNotFound``.
        """
        task = await self._catalog.task(task_key(query.task))
        artifact = await self._catalog.artifact(task, runnable_version(task, query.version))
        if query.version is not None or task.rollout is None:
            return _resolved(task, artifact, None)
        return _resolved(task, artifact, await self._catalog.artifact(task, task.rollout.version))

    async def resolve_many(self, query: ResolvePrograms) -> ResolvedPrograms:
        """As :meth:`resolve`, for several at once; what one of them raises is its outcome."""
        try:
            found = await self._find_all(query.queries)
        except StoreUnavailable as error:
            return ResolvedPrograms(outcomes=(failure_of(error),) * len(query.queries))
        outcomes: list[ResolvedProgram | Failure] = []
        size = 0
        for one in query.queries:
            outcome = _outcome(one, *found)
            size += len(outcome.model_dump_json())
            if outcomes and size > domain.MAX_PAGE_BYTES:
                break
            outcomes.append(outcome)
        return ResolvedPrograms(outcomes=tuple(outcomes))

    async def fetch_program(self, query: FetchProgram) -> ProgramCode:
        """The code with this digest; raises ``ArtifactNotFound`` and ``ArtifactCorrupt``."""
        content = await self._storage.get(query.task_id, query.digest)
        return ProgramCode(digest=query.digest, code=content.decode("utf-8"))

    async def sweep_orphans(self, now: datetime) -> int:
        """Deletes bytes that no version refers to and nobody put for a day; returns how many programs that were."""
        deleted = 0
        async for stored in self._storage.stored():
            if now - stored.touched_at < ORPHANS_KEPT_FOR:
                continue
            if stored.digest not in await self._catalog.digests(stored.task_id):
                await self._storage.delete(stored)  # unless a publish put them again while the catalog was asked
                deleted += 1
        return deleted

    async def purge_claims(self, now: datetime) -> int:
        """Frees the idempotency keys of a week ago; returns how many those were."""
        return await self._catalog.forget_claims(now - CLAIMS_KEPT_FOR)

    async def _change(
        self,
        key: TaskKey,
        decide: Decision,
        *,
        generation_id: GenerationId | None = None,
        version: Version | None = None,
        claim: IdempotencyClaim | None = None,
    ) -> Change:
        revised = partial(domain.revised, decide=decide)
        change = await self._catalog.change_task(
            key, revised, generation_id=generation_id, version=version, claim=claim
        )
        if change.events:
            self._on_commit()
        if change.activation is not None:
            self._observer.activated(change.activation)
        return change

    async def _find_all(
        self, queries: Sequence[ResolveProgram]
    ) -> tuple[Mapping[TaskKey, Task], Mapping[VersionKey, Artifact]]:
        """The tasks and the versions that the queries are about, as far as they are there."""
        tasks = await self._catalog.find_tasks([task_key(query.task) for query in queries])
        wanted: list[tuple[Task, Version]] = []
        for query in queries:
            task = tasks.get(task_key(query.task))
            if task is None:
                continue
            with suppress(TaskArchived, TaskNotReady):
                wanted.append((task, runnable_version(task, query.version)))
            if query.version is None and task.rollout is not None:
                wanted.append((task, task.rollout.version))
        return tasks, await self._catalog.find_artifacts(wanted)

    async def _as_contract(self, artifact: Artifact, *, with_code: bool) -> ProgramArtifact:
        if not with_code:
            return artifact.as_contract()
        document = artifact.document
        content = await self._storage.get(document.task_id, document.digest)
        return artifact.as_contract(content.decode("utf-8"))

    async def _about(self, change: Change) -> ProgramArtifact:
        """The version that the change is about, as it stands now."""
        assert change.version is not None, "a change of a version names it"
        return (await self._catalog.artifact(change.task, change.version)).as_contract()


def _outcome(
    query: ResolveProgram, tasks: Mapping[TaskKey, Task], artifacts: Mapping[VersionKey, Artifact]
) -> ResolvedProgram | Failure:
    """As :meth:`ArtifactStore.resolve`, of what was found."""

    def artifact(task: Task, version: Version) -> Artifact:
        if (task.id, version) not in artifacts:
            raise artifact_not_found(task, version)
        return artifacts[task.id, version]

    key = task_key(query.task)
    try:
        if key not in tasks:
            raise task_not_found(key)
        task = tasks[key]
        runnable = artifact(task, runnable_version(task, query.version))
        with_rollout = query.version is None and task.rollout is not None
        return _resolved(
            task, runnable, artifact(task, task.rollout.version) if task.rollout and with_rollout else None
        )
    except LoopaiError as error:
        return failure_of(error)


def _resolved(task: Task, artifact: Artifact, rollout: Artifact | None) -> ResolvedProgram:
    return ResolvedProgram(
        task_id=task.id,
        task_name=task.name,
        artifact_id=artifact.document.id,
        version=artifact.version,
        digest=artifact.document.digest,
        entry_point=artifact.document.entry_point,
        input_schema=json.loads(task.input_schema),
        output_schema=json.loads(task.output_schema),
        sampling_rate=task.sampling_rate,
        isolation=task.isolation,
        rollout=None if rollout is None or task.rollout is None else _resolved_rollout(rollout, task.rollout),
    )


def _resolved_rollout(artifact: Artifact, rollout: Rollout) -> ResolvedRollout:
    return ResolvedRollout(
        artifact_id=artifact.document.id,
        version=artifact.version,
        digest=artifact.document.digest,
        entry_point=artifact.document.entry_point,
        percentage=rollout.percentage,
    )


def _creation(definition: TaskDefinition, key: str | None, origin: Origin) -> TaskCreation:
    """Checks the definition and lays it out for the catalog. Takes tens of milliseconds for 10,000 examples."""
    values: dict[str, Any] = definition.model_dump()
    examples = Examples(len(definition.examples), json_text(values["examples"]))
    input_schema, output_schema = json_text(definition.input_schema), json_text(definition.output_schema)
    violations = definition_violations(definition)
    if violations:
        raise ValidationFailed("the definition of the task breaks rules", details=violations)
    claim = None
    if key is not None:
        said = {field: value for field, value in values.items() if field not in _ADDED}
        said |= definition.model_dump(include=_ADDED, exclude_defaults=True)
        claim = IdempotencyClaim(key, _digest(said), origin.at)
    task = Task(
        id=TaskId(new_uuid()),
        name=definition.name,
        description=definition.description,
        input_schema=input_schema,
        output_schema=output_schema,
        total_examples=examples.count,
        examples_bytes=examples.size_bytes,
        accuracy_target=definition.accuracy_target,
        latency_target_ms=definition.latency_target_ms,
        sampling_rate=definition.sampling_rate,
        isolation=definition.isolation,
        comparison=definition.comparison,
        comparison_threshold=definition.comparison_threshold,
        status=TaskStatus.GENERATING,
        status_reason=None,
        active_version=None,
        rollout=None,
        total_versions=0,
        revision=1,
        created_at=origin.at,
        updated_at=origin.at,
    )
    domain.check_size(task)
    created = TaskCreated(task_id=task.id, name=task.name, generation_id=GenerationId(new_uuid()))
    return TaskCreation(task, examples, event(subjects.TASK_CREATED, task.id, created, origin), claim)


def _order_claim(task_id: TaskId, command: StartGeneration, origin: Origin) -> IdempotencyClaim | None:
    """What the key of a command to make a version stands for: the same key may be used for another task."""
    if command.idempotency_key is None:
        return None
    said = command.model_dump(exclude={"task", "idempotency_key"}, exclude_defaults=True)
    return IdempotencyClaim(f"generate {task_id} {command.idempotency_key}", _digest(said), origin.at)


def _digest(said: dict[str, Any]) -> str:
    return digest_of(json_text(said, canonical=True).encode("utf-8"))


def _examples(task: Task, examples: tuple[Example, ...]) -> Examples:
    """Checks examples against the schemas of the task and lays them out for the catalog."""
    input_schema, output_schema = json.loads(task.input_schema), json.loads(task.output_schema)
    text = json_text([example.model_dump() for example in examples])
    violations = example_violations(examples, input_schema, output_schema)
    if violations:
        raise ValidationFailed("the examples do not satisfy the schemas of the task", details=violations)
    return Examples(len(examples), text)
