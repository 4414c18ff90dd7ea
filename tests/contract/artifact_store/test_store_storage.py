"""What every storage of programs does."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from loopai_artifact_store.domain import digest_of
from loopai_artifact_store.ports import ArtifactStorage, Labels, LabelsMoved, StoredProgram
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
    await labelled(storage, task_id, version_labels(1, DIGEST, "{}", active=Version(1)))
    listed = await stored_in(storage)
    assert {(program.task_id, program.digest) for program in listed} == {
        (task_id, DIGEST),
        (task_id, digest_of(other)),
    }
    assert all(abs(datetime.now(UTC) - program.touched_at) < timedelta(minutes=1) for program in listed)


def version_labels(version: int, digest: Digest, document: str, *, active: Version | None = None) -> Labels:
    return Labels(digests={Version(version): digest}, documents={Version(version): document}, active=active)


async def labelled(storage: ArtifactStorage, task_id: TaskId, labels: Labels) -> None:
    await storage.label(task_id, labels, since=await storage.label_tags(task_id, list(labels.digests)))


async def test_labels_may_be_set_again(storage: ArtifactStorage, task_id: TaskId) -> None:
    await storage.put(task_id, DIGEST, CONTENT)
    for _ in range(2):
        await labelled(storage, task_id, version_labels(1, DIGEST, "{}", active=Version(1)))


async def test_labels_tell_what_they_were_given_last(storage: ArtifactStorage, task_id: TaskId) -> None:
    other = digest_of(b"other")
    assert await storage.labels(task_id) == Labels()
    await labelled(storage, task_id, Labels('{"first": 1}'))
    assert await storage.labels(task_id) == Labels('{"first": 1}')
    for version, digest in enumerate((DIGEST, other, DIGEST), start=1):
        await labelled(storage, task_id, version_labels(version, digest, "{}"))
    await labelled(storage, task_id, version_labels(2, other, '{"name": "日"}', active=Version(3)))
    await labelled(storage, task_id, Labels('{"second": 2}', active=Version(2)))
    labels = await storage.labels(task_id)
    assert (labels.task, labels.active) == ('{"second": 2}', 2)
    assert labels.digests == {1: DIGEST, 2: other, 3: DIGEST}
    assert labels.documents == {1: "{}", 2: '{"name": "日"}', 3: "{}"}
    await labelled(storage, TaskId(new_uuid()), Labels("{}"))
    assert len([task async for task in storage.labelled()]) == 2
    assert await stored_in(storage) == []


@pytest.mark.parametrize(
    "labels",
    [Labels("{}"), version_labels(1, DIGEST, '{"late": 1}'), Labels(active=Version(1))],
    ids=["task", "version", "active"],
)
async def test_labels_that_another_one_wrote_meanwhile_stay(
    storage: ArtifactStorage, task_id: TaskId, labels: Labels
) -> None:
    await storage.put(task_id, DIGEST, CONTENT)
    never = await storage.label_tags(task_id, [Version(1)])
    await labelled(storage, task_id, replace(version_labels(1, DIGEST, "{}", active=Version(1)), task='{"of": 1}'))
    once = await storage.label_tags(task_id, [Version(1)])
    newest = replace(version_labels(1, DIGEST, '{"new": 2}', active=Version(2)), task='{"of": 2}')
    await storage.label(task_id, newest, since=once)
    before = await storage.labels(task_id)
    for tags in (never, once):
        with pytest.raises(LabelsMoved):
            await storage.label(task_id, labels, since=tags)
    assert await storage.labels(task_id) == before
    await labelled(storage, task_id, labels)


async def test_of_several_who_label_at_once_the_first_wins(storage: ArtifactStorage, task_id: TaskId) -> None:
    tags = await storage.label_tags(task_id)
    outcomes = await asyncio.gather(
        *(storage.label(task_id, Labels(f'{{"by": {number}}}'), since=tags) for number in range(6)),
        return_exceptions=True,
    )
    (winner,) = [number for number, outcome in enumerate(outcomes) if outcome is None]
    assert [type(outcome) for outcome in outcomes if outcome is not None] == [LabelsMoved] * 5
    assert (await storage.labels(task_id)).task == f'{{"by": {winner}}}'


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
        await storage.label(task_id, version_labels(1, Digest(digest), "{}"), since={})


async def test_it_says_that_it_works(storage: ArtifactStorage) -> None:
    await storage.check()
