"""The port ``ProgramSource``, over the bus: what it gives, and which errors it raises."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from loopai_client.local.nats_server import NatsServer
from loopai_common.contracts.artifacts import MAX_RESOLVED, ResolvedProgram
from loopai_common.contracts.base import Digest
from loopai_common.errors import ArtifactCorrupt, ArtifactNotFound, StoreUnavailable, TaskNotFound, TaskNotReady
from loopai_common.runtime.rpc import RpcClient
from loopai_executor.adapters.nats_program_source import NatsProgramSource
from loopai_executor.ports import ProgramSource
from tests.support.bus import new_bus, running
from tests.support.stub_store import StubStore

CODE = "def run(x):\n    return 'é'\n"


@dataclass
class Stage:
    source: ProgramSource
    store: StubStore


@pytest.fixture
async def stage(nats_server: NatsServer) -> AsyncIterator[Stage]:
    store = StubStore()
    async with running(new_bus("executor", nats_server.url)) as bus, store.serving(nats_server.url):
        yield Stage(NatsProgramSource(RpcClient(bus)), store)


async def test_active_and_fixed_versions_are_resolved_by_id_and_name(stage: Stage) -> None:
    task = stage.store.add("spam", CODE, CODE + "#", active=2)
    for reference in ("spam", str(task.id)):
        assert (await stage.source.resolve(reference, None)).version == 2
        assert (await stage.source.resolve(reference, 1)).version == 1


async def test_code_is_fetched_and_matches_its_digest(stage: Stage) -> None:
    task = stage.store.add("spam", CODE)
    resolved = await stage.source.resolve("spam", None)
    assert await stage.source.fetch(task.id, resolved.digest) == CODE


async def test_code_of_another_digest_is_refused(stage: Stage) -> None:
    stage.store.add("spam", CODE)
    resolved = await stage.source.resolve("spam", None)
    stage.store.corrupt = True
    with pytest.raises(ArtifactCorrupt):
        await stage.source.fetch(resolved.task_id, Digest(resolved.digest))


async def test_refusals_keep_their_types(stage: Stage) -> None:
    stage.store.add("unready", active=None)
    stage.store.add("spam", CODE)
    with pytest.raises(TaskNotFound):
        await stage.source.resolve("other", None)
    with pytest.raises(TaskNotReady):
        await stage.source.resolve("unready", None)
    with pytest.raises(ArtifactNotFound):
        await stage.source.resolve("spam", 9)


async def test_store_that_is_not_there_is_unavailable(nats_server: NatsServer) -> None:
    async with running(new_bus("executor", nats_server.url)) as bus:
        with pytest.raises(StoreUnavailable):
            await NatsProgramSource(RpcClient(bus)).resolve("spam", None)


async def test_what_is_asked_at_once_is_one_message_and_keeps_its_outcomes(stage: Stage) -> None:
    stage.store.add("unready", active=None)
    stage.store.add("spam", CODE)
    asked = [stage.source.resolve(task, None) for task in ("spam", "other", "unready", "spam")]
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(outcome) for outcome in found] == [ResolvedProgram, TaskNotFound, TaskNotReady, ResolvedProgram]
    assert stage.store.together == 1


async def test_more_than_one_message_carries_are_all_answered(stage: Stage) -> None:
    stage.store.add("spam", *[CODE + "#" * number for number in range(3 * MAX_RESOLVED)])
    asked = [stage.source.resolve("spam", version) for version in range(1, 2 * MAX_RESOLVED + 2)]
    found = await asyncio.gather(*asked)
    assert [resolved.version for resolved in found] == list(range(1, 2 * MAX_RESOLVED + 2))


async def test_what_the_answer_has_no_room_for_is_asked_alone(stage: Stage) -> None:
    stage.store.add("spam", CODE, CODE + "#", CODE + "##")
    stage.store.terse = True
    found = await asyncio.gather(*(stage.source.resolve("spam", version) for version in (1, 2, 3)))
    assert [resolved.version for resolved in found] == [1, 2, 3]
    assert stage.store.together == 1


async def test_store_of_an_older_release_is_asked_one_by_one(nats_server: NatsServer) -> None:
    store = StubStore()
    store.add("spam", CODE, CODE + "#")
    async with (
        running(new_bus("executor", nats_server.url)) as bus,
        store.serving(nats_server.url, of_an_older_release=True),
    ):
        source = NatsProgramSource(RpcClient(bus))
        found = await asyncio.gather(source.resolve("spam", 1), source.resolve("spam", 2))
    assert [resolved.version for resolved in found] == [1, 2]


async def test_caller_that_gives_up_while_asking_for_all_leaves_nobody_waiting(stage: Stage) -> None:
    stage.store.add("spam", CODE)
    first, second = (asyncio.create_task(stage.source.resolve("spam", None)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(StoreUnavailable):
        await second
    assert (await stage.source.resolve("spam", None)).version == 1
