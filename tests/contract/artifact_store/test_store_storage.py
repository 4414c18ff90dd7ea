"""What every storage of programs does."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from loopai_artifact_store.domain import digest_of
from loopai_artifact_store.ports import ArtifactStorage, Labels, StoredProgram
from loopai_common.contracts.base import Digest, TaskId, Version
from loopai_common.errors import ArtifactNotFound, ValidationFailed
from loopai_common.identifiers import new_uuid

CONTENT = "def run(input):\n    return 'ham — 日本語'\n".encode()
DIGEST = digest_of(CONTENT)


@pytest.fixture
def task_id() -> TaskId:
    return TaskId(new_uuid())


async def stored_in(storage: ArtifactStorage) -> list[StoredProgram]:
    return [program async for program in storage.stored()]


async def test_what_was_put_is_got(storage: ArtifactStorage, task_id: TaskId) -> None:
    await storage.put(task_id, DIGEST, CONTENT)
    assert await storage.get(task_id, DIGEST) == CONTENT


async def test_a_second_put_of_the_same_digest_is_a_no_op(storage: ArtifactStorage, task_id: TaskId) -> None:
    await storage.put(task_id, DIGEST, CONTENT)
    await storage.put(task_id, DIGEST, CONTENT)
    assert len(await stored_in(storage)) == 1


async def test_parallel_puts_of_the_same_digest_leave_one(storage: ArtifactStorage, task_id: TaskId) -> None:
    await asyncio.gather(*(storage.put(task_id, DIGEST, CONTENT) for _ in range(20)))
    assert await storage.get(task_id, DIGEST) == CONTENT
    assert len(await stored_in(storage)) == 1


async def test_a_program_of_another_task_is_not_found(storage: ArtifactStorage, task_id: TaskId) -> None:
    await storage.put(task_id, DIGEST, CONTENT)
    with pytest.raises(ArtifactNotFound, match=DIGEST):
        await storage.get(TaskId(new_uuid()), DIGEST)


async def test_a_deleted_program_is_not_found_and_may_be_put_again(storage: ArtifactStorage, task_id: TaskId) -> None:
    await storage.put(task_id, DIGEST, CONTENT)
    (program,) = await stored_in(storage)
    await storage.delete(program)
    await storage.delete(program)
    with pytest.raises(ArtifactNotFound):
        await storage.get(task_id, DIGEST)
    await storage.put(task_id, DIGEST, CONTENT)
    assert await storage.get(task_id, DIGEST) == CONTENT


async def test_a_program_that_was_put_again_since_it_was_listed_is_not_deleted(
    storage: ArtifactStorage, task_id: TaskId
) -> None:
    await storage.put(task_id, DIGEST, CONTENT)
    (program,) = await stored_in(storage)
    listed_earlier = replace(program, touched_at=program.touched_at - timedelta(hours=1))
    await storage.put(task_id, DIGEST, CONTENT)
    await storage.delete(listed_earlier)
    assert await storage.get(task_id, DIGEST) == CONTENT


async def test_the_listing_tells_what_is_stored_and_since_when(storage: ArtifactStorage, task_id: TaskId) -> None:
    other = b"other"
    await storage.put(task_id, DIGEST, CONTENT)
    await storage.put(task_id, digest_of(other), other)
    await storage.label(task_id, Version(1), DIGEST, "{}")
    await storage.label_active(task_id, Version(1))
    listed = await stored_in(storage)
    assert {(program.task_id, program.digest) for program in listed} == {
        (task_id, DIGEST),
        (task_id, digest_of(other)),
    }
    assert all(abs(datetime.now(UTC) - program.touched_at) < timedelta(minutes=1) for program in listed)


async def test_labels_may_be_set_again(storage: ArtifactStorage, task_id: TaskId) -> None:
    await storage.put(task_id, DIGEST, CONTENT)
    for _ in range(2):
        await storage.label(task_id, Version(1), DIGEST, "{}")
        await storage.label_active(task_id, Version(1))


async def test_labels_tell_what_they_were_given_last(storage: ArtifactStorage, task_id: TaskId) -> None:
    other = digest_of(b"other")
    assert await storage.labels(task_id) == Labels()
    await storage.label_task(task_id, '{"first": 1}')
    assert await storage.labels(task_id) == Labels('{"first": 1}')
    for version, digest in enumerate((DIGEST, other, DIGEST), start=1):
        await storage.label(task_id, Version(version), digest, "{}")
    await storage.label(task_id, Version(2), other, '{"name": "日"}')
    await storage.label_active(task_id, Version(3))
    await storage.label_active(task_id, Version(2))
    await storage.label_task(task_id, '{"second": 2}')
    labels = await storage.labels(task_id)
    assert (labels.task, labels.active) == ('{"second": 2}', 2)
    assert labels.digests == {1: DIGEST, 2: other, 3: DIGEST}
    assert labels.documents == {1: "{}", 2: '{"name": "日"}', 3: "{}"}
    await storage.label_task(TaskId(new_uuid()), "{}")
    assert len([task async for task in storage.labelled()]) == 2
    assert await stored_in(storage) == []


@pytest.mark.parametrize(
    "digest", ["../../etc/passwd", "sha256:..", "", "versions", "sha256:" + "A" * 64, DIGEST + "/..", DIGEST + "\n"]
)
async def test_what_is_no_digest_never_becomes_a_path(storage: ArtifactStorage, task_id: TaskId, digest: str) -> None:
    with pytest.raises(ValidationFailed):
        await storage.put(task_id, Digest(digest), CONTENT)
    with pytest.raises(ValidationFailed):
        await storage.get(task_id, Digest(digest))
    with pytest.raises(ValidationFailed):
        await storage.delete(StoredProgram(task_id, Digest(digest), datetime.now(UTC)))
    with pytest.raises(ValidationFailed):
        await storage.label(task_id, Version(1), Digest(digest), "{}")


async def test_it_says_that_it_works(storage: ArtifactStorage) -> None:
    await storage.check()
