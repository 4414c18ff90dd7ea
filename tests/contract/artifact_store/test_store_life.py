"""The life of a task on every catalog: changes by compare-and-set, rollouts, generations, and the end of it."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from loopai_artifact_store.domain import MAX_TASK_BYTES
from loopai_artifact_store.ports import Catalog
from loopai_artifact_store.service import CLAIMS_KEPT_FOR, ArtifactStore
from loopai_common.contracts import subjects
from loopai_common.contracts.artifacts import (
    ActivateArtifact,
    ArtifactActivated,
    ArtifactStatus,
    GetArtifact,
    ListActivations,
    ListArtifacts,
    ResolveProgram,
)
from loopai_common.contracts.base import GenerationId, TaskId, Version
from loopai_common.contracts.generation import GenerateProgram, GetGeneration, StartGeneration
from loopai_common.contracts.tasks import (
    ArchiveTask,
    Comparison,
    FailTask,
    GetTask,
    Isolation,
    ListTasks,
    Rollout,
    TaskArchived,
    TaskStatus,
    TaskUpdated,
    UpdateTask,
)
from loopai_common.errors import (
    ActivationRefused,
    ArtifactNotFound,
    IdempotencyKeyReused,
    PayloadTooLarge,
    PreconditionFailed,
    TaskAlreadyExists,
    TaskNotFound,
    TaskNotReady,
    ValidationFailed,
    VersionConflict,
)
from loopai_common.errors import TaskArchived as TaskArchivedError
from loopai_common.identifiers import new_uuid
from tests.contract.artifact_store.builders import creating, publishing, validation
from tests.contract.artifact_store.test_store_catalog import MISSING, events_of, forget_events


def updating(task: str, expected: tuple[int, ...] | None = None, **changes: Any) -> UpdateTask:
    return UpdateTask.model_validate({"task": task, "changes": changes, "expected_revisions": expected})


def deploying(task: str, version: int, percentage: float = 100.0, **fields: Any) -> ActivateArtifact:
    values = {"task": task, "version": version, "expected_version": None, "unconditional": True}
    return ActivateArtifact.model_validate(values | {"percentage": percentage} | fields)


def generating(task: str, key: str, **fields: Any) -> StartGeneration:
    return StartGeneration.model_validate({"task": task, "idempotency_key": key, **fields})


def example(number: int, **changes: Any) -> dict[str, Any]:
    return {"input": {"text": f"message {number}"}, "output": "ham", **changes}


async def with_versions(store: ArtifactStore, count: int) -> str:
    """A task with so many versions, of which the first is active."""
    task = await store.create_task(creating())
    for number in range(count):
        await store.publish(publishing(task.id, activate=number == 0))
    return task.name


async def shares(store: ArtifactStore, task: str) -> list[float]:
    page = await store.list_artifacts(ListArtifacts(task=task))
    return [artifact.deployment_percentage for artifact in page.items]


class TestChangingATask:
    async def test_what_is_named_changes_and_the_rest_stays(self, store: ArtifactStore) -> None:
        before = await store.create_task(creating())
        after = await store.update_task(
            updating(
                before.name,
                description="Better.",
                accuracy_target=0.5,
                isolation="process",
                sampling_rate=0.0,
                comparison="structured",
                comparison_threshold=1.0,
            )
        )
        assert await store.get_task(GetTask(task=before.name)) == after
        assert after == before.model_copy(
            update={
                "description": "Better.",
                "accuracy_target": 0.5,
                "isolation": Isolation.PROCESS,
                "sampling_rate": 0.0,
                "comparison": Comparison.STRUCTURED,
                "comparison_threshold": 1.0,
                "revision": before.revision + 1,
                "updated_at": after.updated_at,
            }
        )
        assert after.updated_at >= before.updated_at

    async def test_a_change_to_what_it_is_already_is_no_change(self, store: ArtifactStore) -> None:
        before = await store.create_task(creating())
        assert await store.update_task(updating(before.name, description=before.description)) == before

    async def test_examples_are_added_in_order_behind_those_there_are(self, store: ArtifactStore) -> None:
        task = await store.create_task(creating(examples=[]))
        await store.update_task(updating(task.name, examples=[example(1), example(2)]))
        changed = await store.update_task(updating(task.name, examples=[example(3)]))
        assert [e.input for e in changed.examples] == [{"text": f"message {n}"} for n in (1, 2, 3)]
        assert (changed.total_examples, changed.revision) == (3, 3)

    async def test_examples_that_break_the_schemas_are_named_and_nothing_changes(self, store: ArtifactStore) -> None:
        before = await store.create_task(creating())
        bad = [example(1), example(2, output=5)]
        with pytest.raises(ValidationFailed) as failed:
            await store.update_task(updating(before.name, description="x", examples=bad))
        assert [violation.field for violation in failed.value.details] == ["examples/1/output"]
        assert await store.get_task(GetTask(task=before.name)) == before

    async def test_more_than_ten_thousand_examples_in_all_are_refused(self, store: ArtifactStore) -> None:
        task = await store.create_task(creating(examples=[example(n) for n in range(9_999)]))
        with pytest.raises(ValidationFailed) as failed:
            await store.update_task(updating(task.name, examples=[example(1), example(2)]))
        assert failed.value.details[0].message == "must be at most 1, for 10000 in all"
        assert (await store.update_task(updating(task.name, examples=[example(1)]))).total_examples == 10_000

    async def test_a_task_stays_small_enough_for_one_message(self, store: ArtifactStore) -> None:
        big = [{"input": {"text": "x" * (MAX_TASK_BYTES // 2 - 1000)}, "output": "ham"}]
        task = await store.create_task(creating(examples=big))
        await store.update_task(updating(task.name, examples=big))
        with pytest.raises(PayloadTooLarge):
            await store.update_task(updating(task.name, examples=big))
        assert (await store.get_task(GetTask(task=task.name))).total_examples == 2
        with pytest.raises(PayloadTooLarge):
            await store.create_task(creating(examples=[*big, *big, *big]))

    async def test_a_change_on_another_revision_is_refused(self, store: ArtifactStore) -> None:
        task = await store.create_task(creating())
        await store.update_task(updating(task.name, (7, 1), description="second"))
        with pytest.raises(PreconditionFailed):
            await store.update_task(updating(task.name, (1,), description="third"))
        with pytest.raises(PreconditionFailed):
            await store.update_task(updating(task.name, (), description="third"))
        assert (await store.get_task(GetTask(task=task.name))).description == "second"

    async def test_of_many_concurrent_changes_on_one_revision_one_wins(self, store: ArtifactStore) -> None:
        task = await store.create_task(creating())
        outcomes = await asyncio.gather(
            *(store.update_task(updating(task.name, (1,), description=f"d{n}")) for n in range(20)),
            return_exceptions=True,
        )
        kinds = Counter(type(outcome).__name__ for outcome in outcomes)
        assert kinds == {"TaskSpecification": 1, "PreconditionFailed": 19}

    async def test_concurrent_additions_all_count(self, store: ArtifactStore) -> None:
        task = await store.create_task(creating(examples=[]))
        await asyncio.gather(*(store.update_task(updating(task.name, examples=[example(n)])) for n in range(20)))
        now = await store.get_task(GetTask(task=task.name))
        assert sorted(str(e.input) for e in now.examples) == sorted(str(example(n)["input"]) for n in range(20))
        assert (now.total_examples, now.revision) == (20, 21)

    async def test_every_change_of_the_task_is_a_new_revision(self, store: ArtifactStore) -> None:
        task = await store.create_task(creating())
        seen = [task.revision]
        for change in (
            lambda: store.publish(publishing(task.id)),
            lambda: store.publish(publishing(task.id, activate=False)),
            lambda: store.activate(deploying(task.name, 2, 10.0)),
            lambda: store.activate(deploying(task.name, 2)),
            lambda: store.archive_task(ArchiveTask(task=task.name)),
        ):
            await change()
            seen.append((await store.get_task(GetTask(task=task.name))).revision)
        assert seen == [1, 2, 3, 4, 5, 6]

    async def test_resolving_says_how_executions_are_isolated(self, store: ArtifactStore) -> None:
        task = await store.create_task(creating(isolation="none"))
        await store.publish(publishing(task.id))
        assert (await store.resolve(ResolveProgram(task=task.name))).isolation is Isolation.NONE
        await store.update_task(updating(task.name, isolation="process"))
        assert (await store.resolve(ResolveProgram(task=task.name))).isolation is Isolation.PROCESS


class TestArchiving:
    async def test_an_archived_task_is_shown_and_listed_and_keeps_its_name(
        self, store: ArtifactStore, catalog: Catalog
    ) -> None:
        name = await with_versions(store, 2)
        await store.activate(deploying(name, 2, 10.0))
        await forget_events(catalog)
        archived = await store.archive_task(ArchiveTask(task=name))
        assert (archived.status, archived.active_version, archived.rollout) == (TaskStatus.ARCHIVED, 1, None)
        assert (await store.get_task(GetTask(task=name))).status is TaskStatus.ARCHIVED
        listed = await store.list_tasks(ListTasks(status=TaskStatus.ARCHIVED))
        assert [task.name for task in listed.items] == [name]
        assert (await store.get_artifact(GetArtifact(task=name))).version == 1
        with pytest.raises(TaskAlreadyExists):
            await store.create_task(creating(name))
        (event,) = await catalog.pending_events(10)
        assert event.subject == subjects.TASK_ARCHIVED
        assert TaskArchived.model_validate_json(event.body) == TaskArchived(task_id=archived.id, name=name)

    async def test_archiving_again_changes_nothing(self, store: ArtifactStore, catalog: Catalog) -> None:
        name = await with_versions(store, 0)
        archived = await store.archive_task(ArchiveTask(task=name))
        await forget_events(catalog)
        assert await store.archive_task(ArchiveTask(task=name)) == archived
        assert await events_of(catalog) == []

    async def test_nothing_more_is_done_to_it(self, store: ArtifactStore) -> None:
        name = await with_versions(store, 2)
        task = await store.archive_task(ArchiveTask(task=name))
        for refused in (
            lambda: store.update_task(updating(name, description="x")),
            lambda: store.publish(publishing(task.id)),
            lambda: store.activate(deploying(name, 2)),
            lambda: store.start_generation(StartGeneration(task=name)),
            lambda: store.fail_task(FailTask(task_id=task.id, generation_id=GenerationId(new_uuid()), reason="x")),
            lambda: store.resolve(ResolveProgram(task=name)),
            lambda: store.resolve(ResolveProgram(task=name, version=Version(1))),
        ):
            with pytest.raises(TaskArchivedError):
                await refused()

    async def test_a_task_that_is_not_there_is_not_archived(self, store: ArtifactStore) -> None:
        with pytest.raises(TaskNotFound):
            await store.archive_task(ArchiveTask(task=str(MISSING)))


class TestRollingOut:
    async def test_a_share_leaves_the_pointer_and_is_resolved_beside_it(
        self, store: ArtifactStore, catalog: Catalog
    ) -> None:
        name = await with_versions(store, 2)
        await forget_events(catalog)
        candidate = await store.activate(deploying(name, 2, 12.5, reason="try", actor="ann"))
        task = await store.get_task(GetTask(task=name))
        assert (task.active_version, task.rollout) == (1, Rollout(version=Version(2), percentage=12.5))
        assert (candidate.status, candidate.deployed_at) == (ArtifactStatus.DRAFT, None)
        assert await shares(store, name) == [87.5, 12.5]
        resolved = await store.resolve(ResolveProgram(task=name))
        assert resolved.rollout is not None
        assert (resolved.version, resolved.rollout.version, resolved.rollout.percentage) == (1, 2, 12.5)
        assert (resolved.rollout.artifact_id, resolved.rollout.digest) == (candidate.id, candidate.digest)
        assert (await store.resolve(ResolveProgram(task=name, version=Version(1)))).rollout is None
        (event,) = await catalog.pending_events(10)
        body = ArtifactActivated.model_validate_json(event.body)
        assert event.subject == subjects.ARTIFACT_ACTIVATED
        assert (body.version, body.previous_version, body.percentage) == (2, 1, 12.5)

    async def test_promoting_moves_the_pointer_and_ends_the_rollout(self, store: ArtifactStore) -> None:
        name = await with_versions(store, 2)
        await store.activate(deploying(name, 2, 50.0))
        assert (await store.activate(deploying(name, 2))).status is ArtifactStatus.ACTIVE
        task = await store.get_task(GetTask(task=name))
        assert (task.active_version, task.rollout, await shares(store, name)) == (2, None, [0.0, 100.0])

    @pytest.mark.parametrize(("version", "percentage"), [(2, 0.0), (1, 100.0)])
    async def test_it_ends_when_the_candidate_gets_nothing_or_the_active_version_everything(
        self, store: ArtifactStore, catalog: Catalog, version: int, percentage: float
    ) -> None:
        name = await with_versions(store, 2)
        await store.activate(deploying(name, 2, 50.0))
        await forget_events(catalog)
        await store.activate(deploying(name, version, percentage))
        task = await store.get_task(GetTask(task=name))
        assert (task.active_version, task.rollout, await shares(store, name)) == (1, None, [100.0, 0.0])
        assert (await store.get_artifact(GetArtifact(task=name, version=Version(2)))).status is ArtifactStatus.DRAFT
        assert await events_of(catalog) == [subjects.ARTIFACT_ACTIVATED]

    async def test_any_move_of_the_pointer_ends_it(self, store: ArtifactStore) -> None:
        name = await with_versions(store, 3)
        await store.activate(deploying(name, 2, 50.0))
        await store.activate(deploying(name, 3))
        assert (await store.get_task(GetTask(task=name))).rollout is None
        await store.activate(deploying(name, 2, 50.0))
        task = await store.get_task(GetTask(task=name))
        await store.publish(publishing(task.id))
        assert (await store.get_task(GetTask(task=name))).rollout is None

    async def test_another_candidate_takes_the_place_of_the_first(self, store: ArtifactStore) -> None:
        name = await with_versions(store, 3)
        await store.activate(deploying(name, 2, 50.0))
        await store.activate(deploying(name, 3, 5.0))
        assert await shares(store, name) == [95.0, 0.0, 5.0]

    async def test_a_share_that_a_version_has_already_changes_nothing(
        self, store: ArtifactStore, catalog: Catalog
    ) -> None:
        name = await with_versions(store, 3)
        await store.activate(deploying(name, 2, 25.0))
        await forget_events(catalog)
        before = await store.get_task(GetTask(task=name))
        for version, percentage in ((1, 75.0), (2, 25.0), (3, 0.0)):
            await store.activate(deploying(name, version, percentage))
        assert (await store.get_task(GetTask(task=name)), await events_of(catalog)) == (before, [])

    async def test_the_active_version_cannot_be_given_a_share(self, store: ArtifactStore) -> None:
        name = await with_versions(store, 2)
        for percentage in (0.0, 40.0):
            with pytest.raises(ActivationRefused):
                await store.activate(deploying(name, 1, percentage))

    async def test_without_an_active_version_there_is_no_share(self, store: ArtifactStore) -> None:
        task = await store.create_task(creating())
        await store.publish(publishing(task.id, activate=False))
        with pytest.raises(TaskNotReady) as refused:
            await store.activate(deploying(task.name, 1, 50.0))
        assert "percentage 100" in refused.value.message

    async def test_a_version_that_is_not_there_gets_no_share(self, store: ArtifactStore) -> None:
        with pytest.raises(ArtifactNotFound):
            await store.activate(deploying(await with_versions(store, 1), 2, 10.0))

    async def test_a_stale_share_is_refused(self, store: ArtifactStore) -> None:
        name = await with_versions(store, 3)
        await store.activate(deploying(name, 2))
        with pytest.raises(VersionConflict):
            await store.activate(deploying(name, 3, 10.0, unconditional=False, expected_version=1))

    async def test_of_fifty_concurrent_activations_all_are_told_and_one_is_last(
        self, store: ArtifactStore, catalog: Catalog
    ) -> None:
        name = await with_versions(store, 11)
        orders = [deploying(name, 2 + n % 10, 100.0 if n % 2 else 10.0 + n) for n in range(50)]
        await asyncio.gather(*(store.activate(order) for order in orders), return_exceptions=True)
        task = await store.get_task(GetTask(task=name))
        history = (await catalog.activations(task.id, before=None, limit=200)).items
        moves = [activation for activation in history if activation.moves_pointer]
        assert task.active_version == moves[0].to_version
        for later, earlier in pairwise(moves):
            assert later.from_version == earlier.to_version
        assert sum(await shares(store, name)) == 100.0
        page = await store.list_artifacts(ListArtifacts(task=name))
        assert [a.version for a in page.items if a.status is ArtifactStatus.ACTIVE] == [task.active_version]

    async def test_the_history_is_read_newest_first_in_pages(self, store: ArtifactStore) -> None:
        name = await with_versions(store, 3)
        other = await with_versions(store, 2)
        await store.activate(deploying(name, 2, 10.0, actor="ann", reason="try"))
        await store.activate(deploying(other, 2))
        await store.activate(deploying(name, 2))
        await store.activate(deploying(name, 1))
        first = await store.list_activations(ListActivations(task=name, limit=3))
        second = await store.list_activations(ListActivations(task=name, limit=3, cursor=first.next_cursor))
        seen = [(a.from_version, a.to_version, a.percentage) for a in (*first.items, *second.items)]
        assert seen == [(2, 1, 100.0), (1, 2, 100.0), (1, 2, 10.0), (None, 1, 100.0)]
        assert (first.items[2].actor, first.items[2].reason) == ("ann", "try")
        assert (len(first.items), second.next_cursor) == (3, None)
        with pytest.raises(ValidationFailed):
            await store.list_activations(ListActivations(task=other, cursor=first.next_cursor))


class TestGenerating:
    async def test_a_new_version_is_ordered_with_the_examples_that_come_along(
        self, store: ArtifactStore, catalog: Catalog
    ) -> None:
        name = await with_versions(store, 1)
        await forget_events(catalog)
        started = await store.start_generation(
            StartGeneration.model_validate(
                {"task": name, "constraints": "be short", "strategy": "ml", "examples": [example(1)]}
            )
        )
        task = await store.get_task(GetTask(task=name))
        assert (task.status, task.total_examples) == (TaskStatus.READY, 2)
        changed, event = await catalog.pending_events(10)
        assert changed.subject == subjects.TASK_UPDATED
        assert TaskUpdated.model_validate_json(changed.body).revision == task.revision
        order = GenerateProgram.model_validate_json(event.body)
        assert event.subject == subjects.TASK_GENERATE_COMMAND
        assert (order.task_id, order.generation_id) == (task.id, started.generation_id)
        assert (order.constraints, order.strategy.value) == ("be short", "ml")

    async def test_a_task_that_failed_is_generating_again(self, store: ArtifactStore) -> None:
        task = await store.create_task(creating())
        await store.fail_task(FailTask(task_id=task.id, generation_id=GenerationId(new_uuid()), reason="no"))
        await store.start_generation(StartGeneration(task=task.name))
        now = await store.get_task(GetTask(task=task.name))
        assert (now.status, now.status_reason) == (TaskStatus.GENERATING, None)

    async def test_bad_examples_start_nothing(self, store: ArtifactStore, catalog: Catalog) -> None:
        name = await with_versions(store, 0)
        await forget_events(catalog)
        bad = StartGeneration.model_validate({"task": name, "examples": [example(1, input=3)]})
        with pytest.raises(ValidationFailed):
            await store.start_generation(bad)
        assert await events_of(catalog) == []

    async def test_fifty_parallel_calls_with_one_key_start_one_generation(
        self, store: ArtifactStore, catalog: Catalog
    ) -> None:
        name = await with_versions(store, 1)
        await forget_events(catalog)
        command = generating(name, key="k1", examples=[example(1)])
        started = await asyncio.gather(*(store.start_generation(command) for _ in range(50)))
        assert len({answer.generation_id for answer in started}) == 1
        assert (await store.get_task(GetTask(task=name))).total_examples == 2
        assert await events_of(catalog) == [subjects.TASK_UPDATED, subjects.TASK_GENERATE_COMMAND]

    async def test_same_key_with_another_command_starts_nothing(self, store: ArtifactStore, catalog: Catalog) -> None:
        name = await with_versions(store, 1)
        await forget_events(catalog)
        await store.start_generation(generating(name, key="k1"))
        with pytest.raises(IdempotencyKeyReused):
            await store.start_generation(generating(name, key="k1", constraints="be short"))
        assert await events_of(catalog) == [subjects.TASK_GENERATE_COMMAND]

    async def test_a_key_is_of_one_task_and_of_one_kind_of_command(self, store: ArtifactStore) -> None:
        one = await store.create_task(creating("one", key="k1"))
        two = await store.create_task(creating("two"))
        first = await store.start_generation(generating(one.name, key="k1"))
        second = await store.start_generation(generating(two.name, key="k1"))
        assert first.generation_id != second.generation_id
        assert (await store.create_task(creating("one", key="k1"))).id == one.id

    async def test_a_key_answers_for_id_and_name_alike_and_for_a_task_that_is_archived(
        self, store: ArtifactStore
    ) -> None:
        task = await store.create_task(creating())
        started = await store.start_generation(generating(task.name, key="k1"))
        await store.archive_task(ArchiveTask(task=task.name))
        assert await store.start_generation(generating(str(task.id), key="k1")) == started
        with pytest.raises(TaskArchivedError):
            await store.start_generation(generating(task.name, key="k2"))

    async def test_a_refused_command_leaves_its_key_free(self, store: ArtifactStore) -> None:
        name = await with_versions(store, 1)
        with pytest.raises(ValidationFailed):
            await store.start_generation(generating(name, key="k1", examples=[example(1, input=3)]))
        await store.start_generation(generating(name, key="k1"))

    async def test_what_became_of_a_generation_is_known(self, store: ArtifactStore) -> None:
        task = await store.create_task(creating())
        published, failed = publishing(task.id), GenerationId(new_uuid())
        await store.publish(published)
        await store.fail_task(FailTask(task_id=task.id, generation_id=failed, reason="no"))
        for generation_id, ended, version in (
            (published.generation_id, True, 1),
            (failed, True, None),
            (GenerationId(new_uuid()), False, None),
        ):
            state = await store.get_generation(GetGeneration(task_id=task.id, generation_id=generation_id))
            assert (state.ended, state.version) == (ended, version)
        unknown = GetGeneration(task_id=TaskId(new_uuid()), generation_id=failed)
        assert not (await store.get_generation(unknown)).ended

    @pytest.mark.parametrize(("parent", "active"), [(1, 3), (2, 2), (None, 2)])
    async def test_an_improvement_takes_over_from_its_parent_only(
        self, store: ArtifactStore, parent: int | None, active: int
    ) -> None:
        task = await store.create_task(creating())
        await store.publish(publishing(task.id))
        await store.publish(publishing(task.id, activate=parent != 1))
        improvement = publishing(
            task.id, parent_version=parent, only_over_parent=True, validation=validation(0.95), code="def run(i): ..."
        )
        if (parent, active) == (2, 2):
            await store.activate(deploying(task.name, 1))
            active = 1
        artifact = await store.publish(improvement)
        now = await store.get_task(GetTask(task=task.name))
        assert now.active_version == active
        assert artifact.status is (ArtifactStatus.ACTIVE if active == 3 else ArtifactStatus.VALIDATED)

    async def test_a_good_version_that_is_not_wanted_is_validated_all_the_same(self, store: ArtifactStore) -> None:
        task = await store.create_task(creating())
        command = publishing(task.id, activate=False, validation=validation(0.95), failure_reason="no better")
        assert (await store.publish(command)).status is ArtifactStatus.VALIDATED


class TestIdempotencyKeys:
    async def test_a_key_is_free_again_after_a_week(self, store: ArtifactStore) -> None:
        created = await store.create_task(creating("first", key="k1"))
        now = datetime.now(UTC)
        assert await store.purge_claims(now + CLAIMS_KEPT_FOR - timedelta(minutes=1)) == 0
        with pytest.raises(IdempotencyKeyReused):
            await store.create_task(creating("second", key="k1"))
        assert await store.purge_claims(now + CLAIMS_KEPT_FOR + timedelta(minutes=1)) == 1
        assert (await store.create_task(creating("second", key="k1"))).id != created.id

    async def test_what_was_made_by_a_key_of_a_week_ago_is_not_made_again(
        self, store: ArtifactStore, catalog: Catalog
    ) -> None:
        name = await with_versions(store, 1)
        started = await store.start_generation(generating(name, key="k1"))
        task_id, generation_id = started.task_id, started.generation_id
        await store.fail_task(FailTask(task_id=task_id, generation_id=generation_id, reason="no"))
        assert await store.purge_claims(datetime.now(UTC) + CLAIMS_KEPT_FOR + timedelta(minutes=1)) == 1
        await forget_events(catalog)
        assert await store.start_generation(generating(name, key="k1")) == started
        assert await events_of(catalog) == []
        assert await store.purge_claims(datetime.now(UTC) + CLAIMS_KEPT_FOR + timedelta(minutes=1)) == 1
        other = await store.start_generation(generating(name, key="k1", constraints="be short"))
        assert other.generation_id != generation_id
