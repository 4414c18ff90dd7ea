"""A whole task goes out of every catalog and into every other one."""

import asyncio
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from loopai_artifact_store.adapters.memory_catalog import MemoryCatalog
from loopai_artifact_store.adapters.memory_executions import MemoryExecutionLog
from loopai_artifact_store.adapters.memory_storage import MemoryStorage
from loopai_artifact_store.documents import decode_copy, encode_copy
from loopai_artifact_store.domain import TaskCopy, flaws, import_events
from loopai_artifact_store.operations.transfer import export_tasks, import_tasks
from loopai_artifact_store.origin import current_origin
from loopai_artifact_store.ports import Catalog, Store
from loopai_common.contracts import subjects
from loopai_common.contracts.artifacts import ActivateArtifact, ListActivations
from loopai_common.contracts.base import GenerationId, TaskId, Version
from loopai_common.contracts.tasks import ArchiveTask, FailTask, UpdateTask
from loopai_common.errors import TaskAlreadyExists, TaskNotFound
from loopai_common.identifiers import new_uuid
from tests.contract.artifact_store.builders import creating, open_sqlite, publishing, store_on
from tests.contract.artifact_store.test_store_properties import Step, check, steps


async def lively_task(catalog: Catalog) -> TaskId:
    """A task with three versions, a rollout, a history, a failed generation, and odd characters."""
    store = store_on(catalog)
    task = await store.create_task(creating(description='Tells "spam" from — 日本語 \u2028.'))
    for number in range(3):
        code = f"def run(input):\n    return {number}\n"
        await store.publish(publishing(task.id, code=code, activate=number == 0))
    await store.fail_task(FailTask(task_id=task.id, generation_id=GenerationId(new_uuid()), reason="no"))
    for version, percentage in ((2, 100.0), (1, 100.0), (3, 12.5)):
        await store.activate(
            ActivateArtifact.model_validate(
                {
                    "task": str(task.id),
                    "version": version,
                    "expected_version": None,
                    "unconditional": True,
                    "percentage": percentage,
                    "reason": "a “try”",
                }
            )
        )
    changes = {"examples": [{"input": {"text": "1e2"}, "output": "x", "n": 1.0}], "sampling_rate": 0.25}
    await store.update_task(UpdateTask.model_validate({"task": str(task.id), "changes": changes}))
    return task.id


async def copied(catalog: Catalog, other: Catalog, task_id: TaskId) -> TaskCopy:
    copy = decode_copy(encode_copy(await catalog.copy_of(task_id)).encode())
    await other.add_copy(copy, import_events(copy.task, copy.artifacts, current_origin()))
    return copy


async def test_a_copy_is_the_same_task_in_another_catalog(catalog: Catalog) -> None:
    task_id = await lively_task(catalog)
    memory = MemoryCatalog()
    await copied(catalog, memory, task_id)
    assert encode_copy(await memory.copy_of(task_id)) == encode_copy(await catalog.copy_of(task_id))


async def test_a_copy_from_another_catalog_is_the_same_task(catalog: Catalog) -> None:
    memory = MemoryCatalog()
    task_id = await lively_task(memory)
    copy = await copied(memory, catalog, task_id)
    assert await catalog.copy_of(task_id) == copy
    assert await catalog.task(task_id) == copy.task
    assert flaws(copy) == ()


async def test_life_goes_on_where_the_copy_was_made(catalog: Catalog) -> None:
    memory = MemoryCatalog()
    task_id = await lively_task(memory)
    copy = await copied(memory, catalog, task_id)
    store = store_on(catalog)
    again = await store.publish(publishing(task_id, generation_id=copy.artifacts[1].generation_id))
    assert again.version == 2
    assert (await store.publish(publishing(task_id, activate=False))).version == 4
    first = await store.list_activations(ListActivations(task=str(task_id), limit=1))
    rest = await store.list_activations(ListActivations(task=str(task_id), cursor=first.next_cursor))
    assert [each.to_version for each in (*first.items, *rest.items)] == [3, 1, 2, 1]


async def test_executors_hear_of_what_runs_from_now_on(catalog: Catalog) -> None:
    memory = MemoryCatalog()
    task_id = await lively_task(memory)
    await copied(memory, catalog, task_id)
    events = await catalog.pending_events(10)
    assert [event.subject for event in events] == [subjects.ARTIFACT_ACTIVATED] * 2
    assert ['"version":1' in event.body and '"percentage":100.0' in event.body for event in events] == [True, False]
    assert '"version":3' in events[1].body
    assert '"percentage":12.5' in events[1].body


async def test_a_task_without_a_program_is_given_one_and_an_archived_one_rests(catalog: Catalog) -> None:
    memory = MemoryCatalog()
    store = store_on(memory)
    waiting, archived = await store.create_task(creating()), await store.create_task(creating())
    await store.archive_task(ArchiveTask(task=archived.name))
    for task in (waiting, archived):
        await copied(memory, catalog, task.id)
    events = await catalog.pending_events(10)
    assert [(event.subject, event.task_id) for event in events] == [(subjects.TASK_CREATED, waiting.id)]


async def test_a_copy_never_takes_the_place_of_a_task(catalog: Catalog) -> None:
    task_id = await lively_task(catalog)
    copy = await catalog.copy_of(task_id)
    waiting = await catalog.backlog()
    other = replace(copy, task=replace(copy.task, id=TaskId(new_uuid())), artifacts=(), activations=(), generations=())
    renamed = replace(copy, task=replace(copy.task, name="another"))
    for clash in (copy, renamed, other):
        with pytest.raises(TaskAlreadyExists):
            await catalog.add_copy(clash, import_events(clash.task, clash.artifacts, current_origin()))
    assert await catalog.copy_of(task_id) == copy
    assert await catalog.backlog() == waiting
    with pytest.raises(TaskNotFound):
        await catalog.task("another")


async def test_of_many_copies_at_once_one_is_stored(catalog: Catalog) -> None:
    memory = MemoryCatalog()
    task_id = await lively_task(memory)
    outcomes = await asyncio.gather(*(copied(memory, catalog, task_id) for _ in range(8)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes].count(TaskCopy) == 1
    assert len(await catalog.pending_events(10)) == 2


async def test_there_is_no_copy_of_a_task_that_is_not_there(catalog: Catalog) -> None:
    with pytest.raises(TaskNotFound):
        await catalog.copy_of(TaskId(new_uuid()))


async def test_a_copy_taken_while_versions_are_published_is_of_one_moment(catalog: Catalog) -> None:
    store = store_on(catalog)
    task = await store.create_task(creating())

    async def publish() -> None:
        for _ in range(15):
            await store.publish(publishing(task.id))

    publishing_task = asyncio.create_task(publish())
    seen: set[Version] = set()
    while not publishing_task.done():
        copy = await catalog.copy_of(task.id)
        assert flaws(copy) == ()
        seen.add(Version(copy.task.total_versions))
        await asyncio.sleep(0)  # memory never waits by itself
    await publishing_task
    assert len(seen) > 1


@given(steps)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_was_done_to_a_task_its_archive_gives_it_back(script: list[Step]) -> None:
    async def run(directory: Path) -> None:
        memory, storage = MemoryCatalog(), MemoryStorage()
        await check(memory, script)
        (task,) = (await memory.tasks(after=None, limit=10, status=None, name_prefix=None)).items
        for artifact in (await memory.copy_of(task.id)).artifacts:
            code = publishing(task.id).code.encode()
            await storage.put(task.id, artifact.document.digest, code)
        here = Store(memory, MemoryExecutionLog(), storage)
        sqlite = open_sqlite(directory / "there")
        there = Store(sqlite, MemoryExecutionLog(), MemoryStorage())
        try:
            await export_tasks(here, directory / "first.zip", [], executions=True)
            assert (await import_tasks(there, directory / "first.zip", dry_run=False)).tasks == 1
            assert encode_copy(await sqlite.copy_of(task.id)) == encode_copy(await memory.copy_of(task.id))
            await export_tasks(there, directory / "second.zip", [], executions=True)
            assert (directory / "second.zip").read_bytes() == (directory / "first.zip").read_bytes()
            assert (await import_tasks(here, directory / "second.zip", dry_run=False)).skipped == 1
        finally:
            await sqlite.close()

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(run(Path(directory)))
