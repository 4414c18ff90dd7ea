"""What every catalog does. The use cases drive it, because they are what it has to carry."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from loopai_artifact_store.domain import Change, Event, TaskState
from loopai_artifact_store.ports import Catalog
from loopai_artifact_store.service import ArtifactStore
from loopai_common.contracts import subjects
from loopai_common.contracts.artifacts import (
    ActivateArtifact,
    ArtifactActivated,
    ArtifactStatus,
    GetArtifact,
    ListArtifacts,
)
from loopai_common.contracts.base import GenerationId, TaskId, Version
from loopai_common.contracts.tasks import FailTask, GetTask, ListTasks, TaskCreated, TaskFailed, TaskStatus
from loopai_common.errors import (
    ArtifactNotFound,
    IdempotencyKeyReused,
    TaskAlreadyExists,
    TaskNotFound,
    VersionConflict,
)
from loopai_common.identifiers import new_uuid
from loopai_common.runtime import context
from tests.contract.artifact_store.builders import creating, definition, publishing, validation

MISSING = TaskId(new_uuid())


async def events_of(catalog: Catalog) -> list[str]:
    return [event.subject for event in await catalog.pending_events(1000)]


async def forget_events(catalog: Catalog) -> None:
    await catalog.remove_events([event.id for event in await catalog.pending_events(1000)])


def moving(task: str, version: int, expected: int | None) -> ActivateArtifact:
    return ActivateArtifact(
        task=task,
        version=Version(version),
        expected_version=None if expected is None else Version(expected),
        reason="better",
        actor="ann",
    )


class TestCreatingTasks:
    async def test_a_created_task_is_found_by_id_and_by_name(self, store: ArtifactStore) -> None:
        created = await store.create_task(creating("spam-detection"))
        assert await store.get_task(GetTask(task=str(created.id))) == created
        assert await store.get_task(GetTask(task="spam-detection")) == created

    async def test_a_new_task_is_generating_and_has_no_versions(self, store: ArtifactStore) -> None:
        created = await store.create_task(creating())
        assert (created.status, created.active_version, created.total_versions) == (TaskStatus.GENERATING, None, 0)

    async def test_everything_the_author_said_is_kept(self, store: ArtifactStore) -> None:
        said = definition(
            description="Unterscheidet Spam — 日本語 🙂",
            input_schema={"type": "object", "properties": {"text": {"type": "string"}}},
            output_schema=True,
            examples=[{"input": {"text": "grüße"}, "output": None}, {"input": {}, "output": [1, 2.5, "x"]}],
            accuracy_target=0.75,
            latency_target_ms=20,
            sampling_rate=0.0,
            comparison="fuzzy",
            comparison_threshold=0.6,
        )
        created = await store.create_task(creating().model_copy(update={"definition": said}))
        kept = await store.get_task(GetTask(task=said.name))
        assert kept.model_dump(include=set(said.model_dump())) == said.model_dump()
        assert kept.total_examples == created.total_examples == 2

    async def test_a_name_that_is_taken_is_refused(self, store: ArtifactStore) -> None:
        await store.create_task(creating("spam"))
        with pytest.raises(TaskAlreadyExists):
            await store.create_task(creating("spam"))

    async def test_of_many_with_the_same_name_one_wins(self, store: ArtifactStore) -> None:
        outcomes = await asyncio.gather(
            *(store.create_task(creating("spam")) for _ in range(20)), return_exceptions=True
        )
        assert Counter(type(outcome).__name__ for outcome in outcomes) == {
            "TaskSpecification": 1,
            "TaskAlreadyExists": 19,
        }

    async def test_same_key_and_definition_answers_with_the_task_that_exists(
        self, store: ArtifactStore, catalog: Catalog
    ) -> None:
        command = creating(key="k1")
        first = await store.create_task(command)
        assert (await store.create_task(command)).id == first.id
        assert await events_of(catalog) == [subjects.TASK_CREATED]

    async def test_a_comparison_is_part_of_what_a_key_stands_for(self, store: ArtifactStore) -> None:
        command = creating("spam", key="k1", comparison="fuzzy")
        first = await store.create_task(command)
        assert (await store.create_task(command)).id == first.id
        with pytest.raises(IdempotencyKeyReused):
            await store.create_task(creating("spam", key="k1"))

    async def test_fifty_parallel_calls_with_one_key_make_one_task(
        self, store: ArtifactStore, catalog: Catalog
    ) -> None:
        command = creating(key="k1")
        created = await asyncio.gather(*(store.create_task(command) for _ in range(50)))
        assert len({task.id for task in created}) == 1
        assert await events_of(catalog) == [subjects.TASK_CREATED]

    async def test_same_key_with_another_definition_is_refused(self, store: ArtifactStore) -> None:
        await store.create_task(creating("one", key="k1"))
        with pytest.raises(IdempotencyKeyReused):
            await store.create_task(creating("two", key="k1"))
        with pytest.raises(TaskNotFound):
            await store.get_task(GetTask(task="two"))

    async def test_key_order_in_a_definition_does_not_matter(self, store: ArtifactStore) -> None:
        one = await store.create_task(creating("t", key="k", input_schema={"type": "object", "title": "x"}))
        two = await store.create_task(creating("t", key="k", input_schema={"title": "x", "type": "object"}))
        assert one.id == two.id

    async def test_a_refused_creation_leaves_its_key_free(self, store: ArtifactStore) -> None:
        await store.create_task(creating("taken"))
        with pytest.raises(TaskAlreadyExists):
            await store.create_task(creating("taken", key="k1"))
        assert (await store.create_task(creating("free", key="k1"))).name == "free"

    async def test_the_event_carries_the_request_that_caused_it(self, store: ArtifactStore, catalog: Catalog) -> None:
        request = context.new_context(correlation_id="order-17")
        with context.bound(request):
            created = await store.create_task(creating())
        (event,) = await catalog.pending_events(10)
        body = TaskCreated.model_validate_json(event.body)
        assert (event.origin.correlation_id, event.origin.traceparent) == ("order-17", request.traceparent)
        assert (event.task_id, body.task_id, body.name) == (created.id, created.id, created.name)


class TestListingTasks:
    async def test_pages_hold_every_task_once_in_order(self, store: ArtifactStore) -> None:
        created = [(await store.create_task(creating())).id for _ in range(7)]
        seen: list[TaskId] = []
        cursor = None
        while True:
            page = await store.list_tasks(ListTasks(limit=3, cursor=cursor))
            seen += [task.id for task in page.items]
            cursor = page.next_cursor
            if cursor is None:
                break
        assert seen == created

    async def test_a_full_last_page_is_the_last(self, store: ArtifactStore) -> None:
        for _ in range(2):
            await store.create_task(creating())
        assert (await store.list_tasks(ListTasks(limit=2))).next_cursor is None

    async def test_a_cursor_stays_good_while_tasks_are_added(self, store: ArtifactStore) -> None:
        before = [(await store.create_task(creating())).id for _ in range(4)]
        first = await store.list_tasks(ListTasks(limit=2))
        added = (await store.create_task(creating())).id
        rest = await store.list_tasks(ListTasks(limit=10, cursor=first.next_cursor))
        assert [task.id for task in (*first.items, *rest.items)] == [*before, added]

    async def test_filters_by_status_and_prefix(self, store: ArtifactStore) -> None:
        ready = await store.create_task(creating("spam-a"))
        await store.publish(publishing(ready.id))
        await store.create_task(creating("spam-b"))
        await store.create_task(creating("SPAM-c"))
        await store.create_task(creating("spa_m"))

        async def names(query: ListTasks) -> list[str]:
            return [task.name for task in (await store.list_tasks(query)).items]

        assert await names(ListTasks(name_prefix="spam-")) == ["spam-a", "spam-b"]
        assert await names(ListTasks(status=TaskStatus.READY)) == ["spam-a"]
        assert await names(ListTasks(status=TaskStatus.GENERATING, name_prefix="spam-")) == ["spam-b"]
        assert await names(ListTasks(name_prefix="%")) == []

    async def test_a_page_of_large_tasks_ends_early_and_goes_on(self, store: ArtifactStore) -> None:
        large = {"type": "object", "description": "x" * 1_500_000}
        created = [(await store.create_task(creating(input_schema=large))).id for _ in range(4)]
        first = await store.list_tasks(ListTasks())
        second = await store.list_tasks(ListTasks(cursor=first.next_cursor))
        assert len(first.items) < 4
        assert [task.id for task in (*first.items, *second.items)] == created[: len(first.items) + len(second.items)]


class TestPublishing:
    async def test_the_first_version_makes_the_task_ready(self, store: ArtifactStore, catalog: Catalog) -> None:
        task = await store.create_task(creating())
        await forget_events(catalog)
        artifact = await store.publish(publishing(task.id))
        now = await store.get_task(GetTask(task=task.name))
        assert (artifact.version, artifact.status, artifact.deployment_percentage) == (1, ArtifactStatus.ACTIVE, 100.0)
        assert artifact.deployed_at is not None
        assert (now.status, now.active_version, now.total_versions) == (TaskStatus.READY, 1, 1)
        assert await events_of(catalog) == [subjects.ARTIFACT_PUBLISHED, subjects.ARTIFACT_ACTIVATED]

    async def test_the_previously_active_version_is_deprecated(self, store: ArtifactStore) -> None:
        task = await store.create_task(creating())
        await store.publish(publishing(task.id))
        await store.publish(publishing(task.id))
        first = await store.get_artifact(GetArtifact(task=task.name, version=Version(1)))
        assert (first.status, first.deployment_percentage) == (ArtifactStatus.DEPRECATED, 0.0)

    async def test_a_hundred_concurrent_publishers_get_versions_without_gaps(self, store: ArtifactStore) -> None:
        task = await store.create_task(creating())
        published = await asyncio.gather(*(store.publish(publishing(task.id)) for _ in range(100)))
        assert sorted(artifact.version for artifact in published) == list(range(1, 101))
        assert (await store.get_task(GetTask(task=task.name))).total_versions == 100

    async def test_a_second_publish_of_a_generation_is_a_no_op(self, store: ArtifactStore, catalog: Catalog) -> None:
        task = await store.create_task(creating())
        command = publishing(task.id)
        first = await store.publish(command)
        await store.publish(publishing(task.id))
        await forget_events(catalog)
        again = await store.publish(command)
        assert (again.id, again.version, again.status) == (first.id, 1, ArtifactStatus.DEPRECATED)
        assert (await store.get_task(GetTask(task=task.name))).active_version == 2
        assert await events_of(catalog) == []

    async def test_parallel_publishes_of_one_generation_make_one_version(self, store: ArtifactStore) -> None:
        task = await store.create_task(creating())
        command = publishing(task.id)
        published = await asyncio.gather(*(store.publish(command) for _ in range(20)))
        assert {artifact.version for artifact in published} == {1}
        assert (await store.get_task(GetTask(task=task.name))).total_versions == 1

    async def test_one_generation_id_of_two_tasks_is_two_generations(self, store: ArtifactStore) -> None:
        one, two = await store.create_task(creating()), await store.create_task(creating())
        generation_id = GenerationId(new_uuid())
        for task in (one, two):
            assert (await store.publish(publishing(task.id, generation_id=generation_id))).task_id == task.id

    @pytest.mark.parametrize(
        ("accuracy", "status"), [(0.95, ArtifactStatus.VALIDATED), (0.5, ArtifactStatus.DRAFT), (None, "draft")]
    )
    async def test_a_version_that_is_not_activated_is_judged_by_its_validation(
        self, store: ArtifactStore, catalog: Catalog, accuracy: float | None, status: ArtifactStatus
    ) -> None:
        task = await store.create_task(creating())
        report = None if accuracy is None else validation(accuracy)
        artifact = await store.publish(publishing(task.id, activate=False, validation=report))
        assert (artifact.status, artifact.deployed_at, artifact.validation) == (status, None, report)
        assert (await store.get_task(GetTask(task=task.name))).status is TaskStatus.GENERATING
        assert (await events_of(catalog))[-1] == subjects.ARTIFACT_PUBLISHED

    async def test_a_failed_publish_keeps_the_draft_and_fails_the_task(
        self, store: ArtifactStore, catalog: Catalog
    ) -> None:
        task = await store.create_task(creating())
        command = publishing(task.id, activate=False, failure_reason="accuracy 0.5 of 0.9")
        artifact = await store.publish(command)
        now = await store.get_task(GetTask(task=task.name))
        event = (await catalog.pending_events(10))[-1]
        assert artifact.status is ArtifactStatus.DRAFT
        assert (now.status, now.status_reason) == (TaskStatus.FAILED, "accuracy 0.5 of 0.9")
        assert event.subject == subjects.TASK_FAILED
        assert TaskFailed.model_validate_json(event.body).reason == "accuracy 0.5 of 0.9"

    async def test_a_task_that_is_not_there_is_refused(self, store: ArtifactStore) -> None:
        with pytest.raises(TaskNotFound):
            await store.publish(publishing(MISSING))

    async def test_a_parent_that_is_not_there_is_refused(self, store: ArtifactStore) -> None:
        task = await store.create_task(creating())
        with pytest.raises(ArtifactNotFound):
            await store.publish(publishing(task.id, parent_version=1))
        assert (await store.get_task(GetTask(task=task.name))).total_versions == 0

    async def test_versions_are_listed_oldest_first_in_pages(self, store: ArtifactStore) -> None:
        task = await store.create_task(creating())
        for _ in range(5):
            await store.publish(publishing(task.id))
        first = await store.list_artifacts(ListArtifacts(task=task.name, limit=3))
        second = await store.list_artifacts(ListArtifacts(task=str(task.id), limit=3, cursor=first.next_cursor))
        assert [a.version for a in first.items] == [1, 2, 3]
        assert ([a.version for a in second.items], second.next_cursor) == ([4, 5], None)


class TestMovingThePointer:
    async def test_forward_and_back(self, store: ArtifactStore, catalog: Catalog) -> None:
        task = await store.create_task(creating())
        await store.publish(publishing(task.id))
        await store.publish(publishing(task.id, activate=False))
        await forget_events(catalog)
        assert (await store.activate(moving(task.name, 2, 1))).status is ArtifactStatus.ACTIVE
        assert await events_of(catalog) == [subjects.ARTIFACT_ACTIVATED]
        await forget_events(catalog)
        await store.activate(moving(task.name, 1, 2))
        events = await catalog.pending_events(10)
        assert [event.subject for event in events] == [subjects.ARTIFACT_ACTIVATED, subjects.ARTIFACT_ROLLED_BACK]
        body = ArtifactActivated.model_validate_json(events[0].body)
        assert (body.version, body.previous_version) == (1, 2)

    async def test_its_history_says_who_from_where_to_where_and_why(
        self, store: ArtifactStore, catalog: Catalog
    ) -> None:
        task = await store.create_task(creating())
        await store.publish(publishing(task.id))
        await store.publish(publishing(task.id, activate=False))
        await store.activate(moving(task.name, 2, 1))
        history = (await catalog.activations(task.id, before=None, limit=10)).items
        assert [(a.actor, a.from_version, a.to_version, a.percentage, a.reason) for a in history] == [
            ("ann", 1, 2, 100.0, "better"),
            ("system", None, 1, 100.0, "published"),
        ]

    async def test_a_stale_move_is_refused_and_changes_nothing(self, store: ArtifactStore, catalog: Catalog) -> None:
        task = await store.create_task(creating())
        for _ in range(3):
            await store.publish(publishing(task.id))
        await forget_events(catalog)
        with pytest.raises(VersionConflict):
            await store.activate(moving(task.name, 1, 2))
        assert (await store.get_task(GetTask(task=task.name))).active_version == 3
        assert await events_of(catalog) == []

    async def test_of_many_concurrent_moves_one_wins(self, store: ArtifactStore) -> None:
        task = await store.create_task(creating())
        for _ in range(11):
            await store.publish(publishing(task.id))
        outcomes = await asyncio.gather(
            *(store.activate(moving(task.name, version, 11)) for version in range(1, 11)), return_exceptions=True
        )
        assert Counter(type(outcome).__name__ for outcome in outcomes) == {"ProgramArtifact": 1, "VersionConflict": 9}

    async def test_a_version_that_is_not_there_is_refused(self, store: ArtifactStore) -> None:
        task = await store.create_task(creating())
        await store.publish(publishing(task.id))
        with pytest.raises(ArtifactNotFound):
            await store.activate(moving(task.name, 2, 1))
        assert (await store.get_task(GetTask(task=task.name))).active_version == 1

    async def test_the_first_activation_expects_none(self, store: ArtifactStore) -> None:
        task = await store.create_task(creating())
        await store.publish(publishing(task.id, activate=False, failure_reason="weak"))
        await store.activate(moving(task.name, 1, None))
        now = await store.get_task(GetTask(task=task.name))
        assert (now.status, now.status_reason, now.active_version) == (TaskStatus.READY, None, 1)

    async def test_moving_to_where_it_is_does_nothing(self, store: ArtifactStore, catalog: Catalog) -> None:
        task = await store.create_task(creating())
        await store.publish(publishing(task.id))
        await forget_events(catalog)
        await store.activate(moving(task.name, 1, 1))
        assert len((await catalog.activations(task.id, before=None, limit=10)).items) == 1
        assert await events_of(catalog) == []


def failing(task_id: TaskId, **changes: Any) -> FailTask:
    values: dict[str, Any] = {"task_id": task_id, "generation_id": GenerationId(new_uuid()), "reason": "no"}
    return FailTask.model_validate(values | changes)


class TestFailing:
    async def test_a_task_without_a_version_fails_with_the_reason(self, store: ArtifactStore, catalog: Catalog) -> None:
        task = await store.create_task(creating())
        failed = await store.fail_task(FailTask(task_id=task.id, generation_id=GenerationId(new_uuid()), reason="no"))
        assert (failed.status, failed.status_reason) == (TaskStatus.FAILED, "no")
        assert (await events_of(catalog))[-1] == subjects.TASK_FAILED

    async def test_a_task_with_an_active_version_stays_ready(self, store: ArtifactStore, catalog: Catalog) -> None:
        task = await store.create_task(creating())
        await store.publish(publishing(task.id))
        failed = await store.fail_task(FailTask(task_id=task.id, generation_id=GenerationId(new_uuid()), reason="no"))
        assert (failed.status, failed.status_reason) == (TaskStatus.READY, None)
        assert (await events_of(catalog))[-1] == subjects.TASK_FAILED

    async def test_the_version_that_stands_in_stays_where_one_is_active(
        self, store: ArtifactStore, catalog: Catalog
    ) -> None:
        task = await store.create_task(creating())
        for _ in range(2):
            await store.publish(publishing(task.id))
        await forget_events(catalog)
        failed = await store.fail_task(failing(task.id, fallback_version=1))
        assert (failed.status, failed.active_version) == (TaskStatus.READY, 2)
        (event,) = await catalog.pending_events(10)
        assert TaskFailed.model_validate_json(event.body).fallback_version == 1

    async def test_the_version_that_stands_in_becomes_active_where_none_is(
        self, store: ArtifactStore, catalog: Catalog
    ) -> None:
        task = await store.create_task(creating())
        await store.publish(publishing(task.id, activate=False))
        await forget_events(catalog)
        command = failing(task.id, fallback_version=1)
        for _ in range(2):
            failed = await store.fail_task(command)
            assert (failed.status, failed.status_reason, failed.active_version) == (TaskStatus.READY, None, 1)
        (activation,) = (await catalog.activations(task.id, before=None, limit=10)).items
        assert (activation.actor, activation.reason) == ("system", "fallback: no")
        assert await events_of(catalog) == [subjects.ARTIFACT_ACTIVATED, subjects.TASK_FAILED]

    async def test_a_version_that_is_not_there_cannot_stand_in(self, store: ArtifactStore, catalog: Catalog) -> None:
        task = await store.create_task(creating())
        with pytest.raises(ArtifactNotFound):
            await store.fail_task(failing(task.id, fallback_version=1))
        assert (await catalog.task(task.id)).status is TaskStatus.GENERATING

    async def test_a_generation_fails_once(self, store: ArtifactStore, catalog: Catalog) -> None:
        task = await store.create_task(creating())
        command = FailTask(task_id=task.id, generation_id=GenerationId(new_uuid()), reason="no")
        for _ in range(3):
            await store.fail_task(command)
        assert await events_of(catalog) == [subjects.TASK_CREATED, subjects.TASK_FAILED]

    async def test_a_published_generation_does_not_fail_afterwards(self, store: ArtifactStore) -> None:
        task = await store.create_task(creating())
        command = publishing(task.id, activate=False)
        await store.publish(command)
        late = FailTask(task_id=task.id, generation_id=command.generation_id, reason="late")
        assert (await store.fail_task(late)).status is TaskStatus.GENERATING

    async def test_a_failed_generation_may_still_be_published(self, store: ArtifactStore) -> None:
        task = await store.create_task(creating())
        command = publishing(task.id)
        await store.fail_task(FailTask(task_id=task.id, generation_id=command.generation_id, reason="slow"))
        assert (await store.publish(command)).version == 1
        assert (await store.publish(command)).version == 1
        assert (await store.get_task(GetTask(task=task.name))).status is TaskStatus.READY


class TestTransactionsAndOutbox:
    async def test_a_decision_that_raises_changes_nothing(self, store: ArtifactStore, catalog: Catalog) -> None:
        task = await store.create_task(creating())
        before = await catalog.task(task.id)
        waiting = await events_of(catalog)

        def refuse(state: TaskState) -> Change:
            raise VersionConflict("no")

        with pytest.raises(VersionConflict):
            await catalog.change_task(task.id, refuse)
        assert (await catalog.task(task.id), await events_of(catalog)) == (before, waiting)

    async def test_events_come_in_the_order_in_which_they_happened(
        self, store: ArtifactStore, catalog: Catalog
    ) -> None:
        task = await store.create_task(creating())
        for _ in range(3):
            await store.publish(publishing(task.id))
        assert await events_of(catalog) == [
            subjects.TASK_CREATED,
            *[subjects.ARTIFACT_PUBLISHED, subjects.ARTIFACT_ACTIVATED] * 3,
        ]

    async def test_removed_events_are_gone_and_unknown_ones_ignored(
        self, store: ArtifactStore, catalog: Catalog
    ) -> None:
        await store.create_task(creating())
        await store.create_task(creating())
        first, second = await catalog.pending_events(10)
        await catalog.remove_events([first.id, "unknown"])
        assert await catalog.pending_events(10) == (second,)

    async def test_an_event_is_kept_as_it_was_made(self, store: ArtifactStore, catalog: Catalog) -> None:
        await store.create_task(creating())
        (event,) = await catalog.pending_events(10)
        assert isinstance(event, Event)
        assert abs((event.origin.at - (await store.list_tasks(ListTasks())).items[0].created_at).total_seconds()) < 0.01

    async def test_the_backlog_counts_what_waits(self, store: ArtifactStore, catalog: Catalog) -> None:
        assert (await catalog.backlog()).oldest is None
        await store.create_task(creating())
        await store.create_task(creating())
        backlog = await catalog.backlog()
        assert backlog.events == 2
        assert backlog.oldest == (await catalog.pending_events(1))[0].origin.at

    async def test_the_census_counts_by_status(self, store: ArtifactStore, catalog: Catalog) -> None:
        task = await store.create_task(creating())
        for activate in (True, True, False):
            await store.publish(publishing(task.id, activate=activate))
        await store.create_task(creating())
        census = await catalog.census()
        assert {status.value: n for status, n in census.tasks.items() if n} == {"ready": 1, "generating": 1}
        assert {s.value: n for s, n in census.artifacts.items() if n} == {"active": 1, "deprecated": 1, "draft": 1}

    async def test_digests_are_those_of_the_versions(self, store: ArtifactStore, catalog: Catalog) -> None:
        task = await store.create_task(creating())
        one = await store.publish(publishing(task.id))
        two = await store.publish(publishing(task.id, code="def run(input): return 1"))
        assert await catalog.digests(task.id) == {one.digest, two.digest}
        assert await catalog.digests(MISSING) == frozenset()

    async def test_it_says_that_it_works(self, catalog: Catalog) -> None:
        await catalog.check()

    async def test_unknown_tasks_are_not_found(self, store: ArtifactStore, catalog: Catalog) -> None:
        for key in (MISSING, "nobody"):
            with pytest.raises(TaskNotFound):
                await catalog.task(key)
            with pytest.raises(TaskNotFound):
                await catalog.change_task(key, lambda state: Change(state.task))
        with pytest.raises(TaskNotFound):
            await catalog.examples(MISSING)
