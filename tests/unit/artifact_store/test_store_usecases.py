"""The use cases, on adapters in memory."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import CollectorRegistry
from pydantic import JsonValue

from loopai_artifact_store import domain
from loopai_artifact_store.adapters.memory_catalog import MemoryCatalog
from loopai_artifact_store.adapters.memory_storage import MemoryStorage
from loopai_artifact_store.domain import Activation, Change, Origin, TaskState
from loopai_artifact_store.metrics import StoreMetrics
from loopai_artifact_store.service import ArtifactStore
from loopai_common.contracts.artifacts import (
    MAX_CODE_BYTES,
    ActivateArtifact,
    ArtifactStatus,
    FetchProgram,
    GetArtifact,
    ListArtifacts,
    ResolveProgram,
)
from loopai_common.contracts.base import Digest, GenerationId, TaskId, Version
from loopai_common.contracts.tasks import Example, FailTask, GetTask, ListTasks, TaskStatus
from loopai_common.errors import (
    ActivationRefused,
    ArtifactCorrupt,
    ArtifactNotFound,
    PayloadTooLarge,
    TaskArchived,
    TaskNotFound,
    TaskNotReady,
    ValidationFailed,
)
from loopai_common.identifiers import new_uuid
from tests.contract.artifact_store.builders import CODE, creating, labeller_on, metrics, publishing, store_on


@pytest.fixture
def catalog() -> MemoryCatalog:
    return MemoryCatalog()


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
def store(catalog: MemoryCatalog, storage: MemoryStorage) -> ArtifactStore:
    return store_on(catalog, storage)


async def archive(catalog: MemoryCatalog, name: str) -> None:
    def archived(state: TaskState) -> Change:
        return Change(replace(state.task, status=TaskStatus.ARCHIVED))

    await catalog.change_task(name, archived)


async def test_every_broken_rule_of_a_definition_is_named(store: ArtifactStore) -> None:
    examples = [{"input": 1, "output": "ham"}, {"input": {}, "output": 2}]
    with pytest.raises(ValidationFailed) as failed:
        await store.create_task(creating(examples=examples))
    assert [violation.field for violation in failed.value.details] == ["examples/0/input", "examples/1/output"]
    assert (await store.list_tasks(ListTasks())).items == ()


async def test_a_bad_schema_is_refused(store: ArtifactStore) -> None:
    with pytest.raises(ValidationFailed) as failed:
        await store.create_task(creating(input_schema={"type": "nonsense"}, examples=[]))
    assert failed.value.details[0].field.startswith("input_schema")


@pytest.mark.parametrize("value", [math.nan, math.inf, "\ud800"])
async def test_what_json_cannot_carry_is_refused(store: ArtifactStore, value: JsonValue) -> None:
    command = creating(input_schema=True, output_schema=True, examples=[])
    example = Example.model_construct(input=value, output=None)
    definition = command.definition.model_copy(update={"examples": (example,)})
    with pytest.raises(ValidationFailed):
        await store.create_task(command.model_copy(update={"definition": definition}))


async def test_examples_are_left_out_on_demand(store: ArtifactStore) -> None:
    task = await store.create_task(creating())
    without = await store.get_task(GetTask(task=task.name, include_examples=False))
    assert (without.examples, without.total_examples) == ((), 1)


@pytest.mark.parametrize("cursor", ["", "x", "AAAA", "not base64!", "é"])
async def test_a_forged_cursor_is_refused(store: ArtifactStore, cursor: str) -> None:
    task = await store.create_task(creating())
    with pytest.raises(ValidationFailed):
        await store.list_tasks(ListTasks(cursor=cursor))
    with pytest.raises(ValidationFailed):
        await store.list_artifacts(ListArtifacts(task=task.name, cursor=cursor))


async def test_a_cursor_of_another_list_is_refused(store: ArtifactStore) -> None:
    one, two = await store.create_task(creating()), await store.create_task(creating())
    for _ in range(2):
        await store.publish(publishing(one.id))
    page = await store.list_artifacts(ListArtifacts(task=one.name, limit=1))
    with pytest.raises(ValidationFailed):
        await store.list_artifacts(ListArtifacts(task=two.name, cursor=page.next_cursor))
    with pytest.raises(ValidationFailed):
        await store.list_tasks(ListTasks(cursor=page.next_cursor))


async def test_code_over_the_limit_is_refused_and_not_stored(store: ArtifactStore, storage: MemoryStorage) -> None:
    task = await store.create_task(creating())
    with pytest.raises(PayloadTooLarge):
        await store.publish(publishing(task.id, code="é" * (MAX_CODE_BYTES // 2) + "x"))
    assert storage.contents == {}
    assert (await store.publish(publishing(task.id, code="é" * (MAX_CODE_BYTES // 2)))).size_bytes == MAX_CODE_BYTES


async def test_bytes_of_an_unknown_task_are_not_stored(store: ArtifactStore, storage: MemoryStorage) -> None:
    with pytest.raises(TaskNotFound):
        await store.publish(publishing(TaskId(new_uuid())))
    assert storage.contents == {}


async def test_two_versions_of_the_same_code_share_their_bytes(store: ArtifactStore, storage: MemoryStorage) -> None:
    task = await store.create_task(creating())
    versions = [await store.publish(publishing(task.id)) for _ in range(2)]
    assert [artifact.version for artifact in versions] == [1, 2]
    assert len(storage.contents) == 1


async def test_code_comes_on_demand(store: ArtifactStore) -> None:
    task = await store.create_task(creating())
    assert (await store.publish(publishing(task.id))).code is None
    assert (await store.get_artifact(GetArtifact(task=task.name))).code is None
    assert (await store.get_artifact(GetArtifact(task=task.name, include_code=True))).code == CODE
    page = await store.list_artifacts(ListArtifacts(task=task.name, include_code=True))
    assert [artifact.code for artifact in page.items] == [CODE]


async def test_a_page_with_large_programs_ends_early_and_goes_on(store: ArtifactStore) -> None:
    task = await store.create_task(creating())
    for number in range(8):
        await store.publish(publishing(task.id, code=f"# {number}\n" + "x" * 900_000))
    seen: list[int] = []
    cursor = None
    while True:
        page = await store.list_artifacts(ListArtifacts(task=task.name, include_code=True, cursor=cursor))
        assert 1 <= len(page.items) <= 3
        seen += [artifact.version for artifact in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == list(range(1, 9))


async def test_resolving_names_program_schemas_and_sampling(store: ArtifactStore) -> None:
    task = await store.create_task(creating(sampling_rate=0.25))
    artifact = await store.publish(publishing(task.id, entry_point="classify"))
    resolved = await store.resolve(ResolveProgram(task=task.name))
    assert (resolved.task_id, resolved.task_name, resolved.artifact_id) == (task.id, task.name, artifact.id)
    assert (resolved.version, resolved.digest, resolved.entry_point) == (1, artifact.digest, "classify")
    assert (resolved.input_schema, resolved.output_schema) == ({"type": "object"}, {"type": "string"})
    assert resolved.sampling_rate == 0.25


async def test_a_draft_runs_when_it_is_asked_for_by_number(store: ArtifactStore) -> None:
    task = await store.create_task(creating())
    await store.publish(publishing(task.id, activate=False, failure_reason="weak"))
    assert (await store.resolve(ResolveProgram(task=task.name, version=Version(1)))).version == 1


async def test_a_task_without_an_active_version_is_not_ready_and_says_why(store: ArtifactStore) -> None:
    task = await store.create_task(creating())
    with pytest.raises(TaskNotReady, match="generating"):
        await store.resolve(ResolveProgram(task=task.name))
    await store.fail_task(FailTask(task_id=task.id, generation_id=GenerationId(new_uuid()), reason="no generator"))
    with pytest.raises(TaskNotReady, match="failed: no generator"):
        await store.resolve(ResolveProgram(task=task.name))
    with pytest.raises(TaskNotReady):
        await store.get_artifact(GetArtifact(task=task.name))


async def test_what_is_not_there_is_not_resolved(store: ArtifactStore) -> None:
    task = await store.create_task(creating())
    await store.publish(publishing(task.id))
    with pytest.raises(TaskNotFound):
        await store.resolve(ResolveProgram(task="nobody"))
    with pytest.raises(TaskNotFound):
        await store.resolve(ResolveProgram(task=str(new_uuid())))
    with pytest.raises(ArtifactNotFound, match="version 2"):
        await store.resolve(ResolveProgram(task=task.name, version=Version(2)))


async def test_an_id_in_upper_case_is_only_a_name(store: ArtifactStore) -> None:
    task = await store.create_task(creating())
    with pytest.raises(TaskNotFound):
        await store.get_task(GetTask(task=str(task.id).upper()))


async def test_an_archived_task_neither_runs_nor_changes(store: ArtifactStore, catalog: MemoryCatalog) -> None:
    task = await store.create_task(creating())
    await store.publish(publishing(task.id))
    await archive(catalog, task.name)
    with pytest.raises(TaskArchived):
        await store.resolve(ResolveProgram(task=task.name))
    with pytest.raises(TaskArchived):
        await store.publish(publishing(task.id))
    with pytest.raises(TaskArchived):
        await store.fail_task(FailTask(task_id=task.id, generation_id=GenerationId(new_uuid()), reason="no"))
    with pytest.raises(TaskArchived):
        await store.activate(ActivateArtifact(task=task.name, version=Version(1), expected_version=Version(1)))
    assert (await store.get_artifact(GetArtifact(task=task.name))).version == 1


async def test_programs_are_fetched_by_digest(store: ArtifactStore) -> None:
    task = await store.create_task(creating())
    artifact = await store.publish(publishing(task.id))
    fetched = await store.fetch_program(FetchProgram(task_id=task.id, digest=artifact.digest))
    assert (fetched.digest, fetched.code) == (artifact.digest, CODE)
    with pytest.raises(ArtifactNotFound):
        await store.fetch_program(FetchProgram(task_id=task.id, digest=Digest("sha256:" + "0" * 64)))


async def test_changed_bytes_are_never_served(store: ArtifactStore, storage: MemoryStorage) -> None:
    task = await store.create_task(creating())
    artifact = await store.publish(publishing(task.id))
    storage.contents[task.id, artifact.digest] = CODE.replace("ham", "hax").encode()
    with pytest.raises(ArtifactCorrupt, match=artifact.digest):
        await store.fetch_program(FetchProgram(task_id=task.id, digest=artifact.digest))
    with pytest.raises(ArtifactCorrupt):
        await store.get_artifact(GetArtifact(task=task.name, include_code=True))
    with pytest.raises(ArtifactCorrupt):
        await store.list_artifacts(ListArtifacts(task=task.name, include_code=True))


async def test_labels_follow_the_versions_and_the_pointer(
    store: ArtifactStore, catalog: MemoryCatalog, storage: MemoryStorage
) -> None:
    labeller = labeller_on(catalog, storage)
    task = await store.create_task(creating())
    one = await store.publish(publishing(task.id))
    two = await store.publish(publishing(task.id, code="def run(input): return 2"))
    await labeller.catch_up()
    assert storage.kept[task.id].active == 2
    await store.activate(ActivateArtifact(task=task.name, version=Version(1), expected_version=Version(2)))
    await labeller.catch_up()
    kept = storage.kept[task.id]
    assert (kept.digests, kept.active) == ({1: one.digest, 2: two.digest}, 1)
    assert '"active_version":1' in (kept.task or "")


async def test_only_orphans_older_than_a_day_are_swept(store: ArtifactStore, storage: MemoryStorage) -> None:
    task = await store.create_task(creating())
    await store.publish(publishing(task.id))
    orphan = Digest("sha256:" + "0" * 64)
    await storage.put(task.id, orphan, b"")
    assert await store.sweep_orphans(datetime.now(UTC) + timedelta(hours=23)) == 0
    assert await store.sweep_orphans(datetime.now(UTC) + timedelta(hours=25)) == 1
    assert orphan not in {digest for _, digest in storage.contents}
    assert (await store.get_artifact(GetArtifact(task=task.name, include_code=True))).code == CODE


async def test_the_outbox_is_woken_when_events_were_stored_and_only_then(catalog: MemoryCatalog) -> None:
    woken: list[bool] = []
    store = ArtifactStore(catalog, MemoryStorage(), metrics(), lambda: woken.append(True))
    task = await store.create_task(creating())
    command = publishing(task.id)
    await store.publish(command)
    await store.publish(command)
    assert len(woken) == 2


@pytest.mark.parametrize("percentage", [100.0, 10.0])
async def test_a_version_that_failed_is_not_activated(
    store: ArtifactStore, catalog: MemoryCatalog, percentage: float
) -> None:
    task = await store.create_task(creating())
    await store.publish(publishing(task.id))
    artifact = await catalog.artifact(await catalog.task(task.id), Version(1))
    document = artifact.document.model_copy(update={"version": 2, "status": ArtifactStatus.FAILED})
    failed = replace(artifact, document=document, active=False, percentage=0.0, deployed_at=None)
    command = ActivateArtifact(task=task.name, version=Version(2), expected_version=Version(1), percentage=percentage)
    state = TaskState(await catalog.task(task.id), target=failed)
    with pytest.raises(ActivationRefused):
        domain.activate(state, command, Origin(datetime.now(UTC), "order-17", ""))


@pytest.mark.parametrize(
    ("percentage", "previous", "direction"),
    [(100.0, None, "forward"), (100.0, 1, "forward"), (100.0, 3, "back"), (10.0, 3, "rollout"), (0.0, 1, "rollout")],
)
def test_activations_are_counted_by_direction(percentage: float, previous: int | None, direction: str) -> None:
    registry = CollectorRegistry()
    before = None if previous is None else Version(previous)
    activation = Activation(datetime.now(UTC), "ann", before, Version(2), percentage, "")
    StoreMetrics(registry).activated(activation)
    assert registry.get_sample_value("loopai_activations_total", {"direction": direction}) == 1.0
