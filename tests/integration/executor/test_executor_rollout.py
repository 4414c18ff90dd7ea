"""A version that is rolled out beside the active one: each execution runs one of the two, chosen by its id."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from loopai_client.local.nats_server import NatsServer
from loopai_common.contracts import subjects
from loopai_common.contracts.frames import FRAME_FORMAT, AnswerKind, Frame, FrameGroup
from loopai_executor.domain import rollout_share
from tests.integration.executor.test_executor_over_nats import Stage, executor
from tests.support.bus import new_bus, running
from tests.support.frames import answered, frame_group
from tests.support.stub_store import StubStore, activated

ONE, TWO = ("def run(x):\n    return 1\n", "def run(x):\n    return 2\n")
DIES = "import os\ndef run(x):\n    os._exit(1)\n"
IDS = [f"order-{n}" for n in range(250)]
PERCENTAGE = 30.0
SPLIT = {execution_id: 2 if rollout_share(execution_id) < PERCENTAGE else 1 for execution_id in IDS}


@pytest.fixture
async def stage(nats_server: NatsServer) -> AsyncIterator[Stage]:
    store = StubStore()
    async with (
        running(new_bus("tests", nats_server.url)) as bus,
        store.serving(nats_server.url),
        executor(nats_server.url),
    ):
        yield Stage(bus, store)


async def _versions_in_frame(stage: Stage, group: FrameGroup) -> dict[str, int]:
    """The version that ran for each execution id of a group, according to the frame's answer groups."""
    _, parts = await stage.frame(Frame(FRAME_FORMAT, [group]), len(group.inputs))
    versions: dict[str, int] = {}
    for answer in answered(parts):
        assert answer.kind == AnswerKind.SUCCESS
        assert answer.payload == str(answer.version).encode()
        versions[group.execution_ids[answer.index]] = answer.version
    return versions


def _group(task: str, version: int = 0) -> FrameGroup:
    return frame_group(task, *([0] * len(IDS)), version=version, ids=IDS)


def _batch(ids: list[str | None]) -> dict[str, Any]:
    return {"executions": [{"input": 0, "execution_id": execution_id} for execution_id in ids]}


async def test_every_lane_gives_an_execution_the_version_of_its_id(stage: Stage) -> None:
    stage.store.add("spam", ONE, TWO, rollout=(2, PERCENTAGE))
    assert 50 <= sum(version == 2 for version in SPLIT.values()) <= 100, "about 30 % of 250"
    for _ in range(2):
        assert await _versions_in_frame(stage, _group("spam")) == SPLIT
        results = (await stage.execute("spam", _batch(list(IDS))))["results"]
        assert [r["execution_id"] for r in results] == IDS
        assert [r["version"] for r in results] == [r["output"] for r in results] == list(SPLIT.values())
        assert len({r["program_id"] for r in results}) == 2
    for execution_id in IDS[:20]:
        result = await stage.execute("spam", {"input": 0, "execution_id": execution_id})
        assert (result["execution_id"], result["version"]) == (execution_id, SPLIT[execution_id])


async def test_executions_without_an_id_are_given_one_and_split_as_well(stage: Stage) -> None:
    stage.store.add("spam", ONE, TWO, rollout=(2, PERCENTAGE))
    results = (await stage.execute("spam", _batch([None] * 2000)))["results"]
    assert len({r["execution_id"] for r in results}) == 2000
    assert all((rollout_share(r["execution_id"]) < PERCENTAGE) == (r["version"] == 2) for r in results)
    assert 450 <= sum(r["version"] == 2 for r in results) <= 750, "30 % of 2000, within seven standard deviations"


async def test_explicit_version_runs_whole(stage: Stage) -> None:
    stage.store.add("spam", ONE, TWO, rollout=(2, PERCENTAGE))
    for version in (1, 2):
        assert set((await _versions_in_frame(stage, _group("spam", version))).values()) == {version}
        results = (await stage.execute("spam", _batch(list(IDS)), version=version))["results"]
        assert {r["version"] for r in results} == {version}


async def test_candidate_whose_code_is_not_to_be_had_leaves_everything_to_the_active_version(stage: Stage) -> None:
    task = stage.store.add("spam", ONE, TWO, rollout=(2, 100.0))
    stage.store.lost = {TWO}
    assert (await stage.execute("spam", {"input": 0}))["version"] == 1
    stage.store.lost = set()
    await stage.bus.client.publish(subjects.ARTIFACT_ACTIVATED, activated(task, None).model_dump_json().encode())
    async with asyncio.timeout(30):
        while (await stage.execute("spam", {"input": 0}))["version"] != 2:
            await asyncio.sleep(0.01)


async def test_event_has_both_programs_fetched_before_anybody_asks(stage: Stage) -> None:
    task = stage.store.add("spam", ONE, TWO, rollout=(2, PERCENTAGE))
    await stage.bus.client.publish(subjects.ARTIFACT_ACTIVATED, activated(task, None).model_dump_json().encode())
    async with asyncio.timeout(30):
        while stage.store.fetched < 2:
            await asyncio.sleep(0.01)
    results = (await stage.execute(str(task.id), _batch(list(IDS))))["results"]
    assert [r["version"] for r in results] == list(SPLIT.values())
    assert (stage.store.resolved, stage.store.fetched) == (1, 2)


@pytest.mark.parametrize(
    ("candidate", "code"), [("def run(x:\n", "load_failed"), ("def run(x):\n    return 1 / 0\n", "program_raised")]
)
async def test_executions_of_a_candidate_that_fails_are_answered_with_its_failure(
    stage: Stage, candidate: str, code: str
) -> None:
    stage.store.add("spam", ONE, candidate, rollout=(2, PERCENTAGE))
    answers, _ = await stage.frame(Frame(FRAME_FORMAT, [_group("spam")]), len(IDS))
    for index, version in enumerate(SPLIT.values()):
        if version == 1:
            assert answers[index].kind == AnswerKind.SUCCESS
        else:
            assert json.loads(answers[index].payload)[0] == code
    results = (await stage.execute("spam", _batch(list(IDS))))["results"]
    assert {(r["version"], r["error_code"]) for r in results} == {(1, None), (2, code)}


async def test_quarantined_candidate_does_not_touch_the_active_version(stage: Stage) -> None:
    stage.store.add("spam", ONE, DIES, rollout=(2, PERCENTAGE))
    results = (await stage.execute("spam", _batch(list(IDS))))["results"]
    assert [r["version"] for r in results] == list(SPLIT.values())
    assert {(r["version"], r["error_code"]) for r in results} >= {(1, None), (2, "crashed"), (2, "quarantined")}
    assert all(r["status"] == ("success" if r["version"] == 1 else "error") for r in results)
