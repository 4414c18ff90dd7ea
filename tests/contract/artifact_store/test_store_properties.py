"""Whatever is done to a task, in whatever order: its versions and its pointer stay valid, in every catalog."""

import asyncio
import base64
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loopai_artifact_store.adapters.memory_catalog import MemoryCatalog
from loopai_artifact_store.domain import decode_cursor, encode_cursor
from loopai_artifact_store.ports import Catalog
from loopai_common.contracts.artifacts import ActivateArtifact, ArtifactStatus, ListArtifacts
from loopai_common.contracts.base import GenerationId, TaskId
from loopai_common.contracts.tasks import FailTask, TaskStatus
from loopai_common.errors import ArtifactNotFound, ValidationFailed, VersionConflict
from loopai_common.identifiers import new_uuid
from tests.contract.artifact_store.builders import creating, mongodb_of, open_sqlite, publishing, store_on
from tests.support.servers import Mongo

GENERATIONS = [GenerationId(new_uuid()) for _ in range(4)]


@dataclass(frozen=True)
class Publish:
    generation_id: GenerationId
    activate: bool


@dataclass(frozen=True)
class Fail:
    generation_id: GenerationId


@dataclass(frozen=True)
class Move:
    version: int
    expected: int | Literal["actual"] | None


Step = Publish | Fail | Move

generations = st.sampled_from(GENERATIONS)
publish = st.builds(Publish, generations, st.booleans())
move = st.builds(Move, st.integers(1, 5), st.none() | st.integers(1, 5) | st.just("actual"))
steps = st.lists(publish | move | st.builds(Fail, generations), min_size=1, max_size=12)


async def check(catalog: Catalog, script: list[Step]) -> None:
    store = store_on(catalog)
    task_id = (await store.create_task(creating())).id
    versions: dict[GenerationId, int] = {}
    pointer: int | None = None
    moves: list[tuple[int | None, int]] = []

    for step in script:
        match step:
            case Publish(generation_id, activate):
                known = versions.get(generation_id)
                artifact = await store.publish(publishing(task_id, generation_id=generation_id, activate=activate))
                assert artifact.version == (known or len(versions) + 1)
                versions[generation_id] = artifact.version
                if activate and known is None:
                    moves.append((pointer, artifact.version))
                    pointer = artifact.version
            case Fail(generation_id):
                await store.fail_task(FailTask(task_id=task_id, generation_id=generation_id, reason="no"))
            case Move(version, wanted):
                expected = pointer if wanted == "actual" else wanted
                command = ActivateArtifact.model_validate(
                    {"task": str(task_id), "version": version, "expected_version": expected}
                )
                if version > len(versions):
                    with pytest.raises(ArtifactNotFound):
                        await store.activate(command)
                elif expected != pointer:
                    with pytest.raises(VersionConflict):
                        await store.activate(command)
                else:
                    await store.activate(command)
                    if version != pointer:
                        moves.append((pointer, version))
                    pointer = version
        await check_invariants(catalog, task_id, len(versions), pointer)
    history = (await catalog.activations(task_id, before=None, limit=1000)).items
    assert [(move.from_version, move.to_version) for move in history[::-1]] == moves


async def check_invariants(catalog: Catalog, task_id: TaskId, versions: int, pointer: int | None) -> None:
    task = await catalog.task(task_id)
    listed = (await store_on(catalog).list_artifacts(ListArtifacts(task=str(task_id)))).items
    active = [artifact.version for artifact in listed if artifact.status is ArtifactStatus.ACTIVE]
    assert [artifact.version for artifact in listed] == list(range(1, versions + 1))
    assert (task.total_versions, task.active_version) == (versions, pointer)
    assert active == ([] if pointer is None else [pointer])
    assert (task.status is TaskStatus.READY) == (pointer is not None)
    assert all((artifact.deployment_percentage == 100.0) == (artifact.version == pointer) for artifact in listed)


@given(steps)
@settings(max_examples=40, deadline=None)
def test_versions_and_pointer_stay_valid_in_memory(script: list[Step]) -> None:
    asyncio.run(check(MemoryCatalog(), script))


@given(steps)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_versions_and_pointer_stay_valid_in_sqlite(script: list[Step]) -> None:
    async def run(directory: Path) -> None:
        catalog = open_sqlite(directory)
        try:
            await check(catalog, script)
        finally:
            await catalog.close()

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(run(Path(directory)))


@given(steps)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_versions_and_pointer_stay_valid_in_mongodb(mongo: Mongo, script: list[Step]) -> None:
    async def run() -> None:
        async with mongodb_of(mongo) as opened:
            await check(opened.catalog, script)

    asyncio.run(run())


@given(st.binary(min_size=1, max_size=40), st.binary(max_size=20))
def test_a_cursor_leads_back_to_its_position(scope: bytes, position: bytes) -> None:
    assert decode_cursor(scope, encode_cursor(scope, position)) == position


@given(st.binary(min_size=16, max_size=16), st.integers(0, 23), st.integers(1, 255))
def test_a_changed_cursor_is_refused(position: bytes, index: int, change: int) -> None:
    sealed = bytearray(base64.urlsafe_b64decode(encode_cursor(b"tasks", position)))
    sealed[index] ^= change
    with pytest.raises(ValidationFailed):
        decode_cursor(b"tasks", base64.urlsafe_b64encode(sealed).decode())


@given(st.text(max_size=60))
def test_a_made_up_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(ValidationFailed):
        decode_cursor(b"tasks", cursor)
