"""A data directory that an earlier release left behind opens, and nothing in it is lost."""

import sqlite3
from contextlib import closing
from pathlib import Path

from loopai_common.contracts.artifacts import ArtifactStatus, ListActivations, ListArtifacts
from loopai_common.contracts.base import GenerationId
from loopai_common.contracts.tasks import Comparison, GetTask, Isolation, TaskStatus, UpdateTask
from loopai_common.identifiers import new_uuid
from tests.contract.artifact_store.builders import creating, open_sqlite, publishing, store_on

FIRST_RELEASE = Path(__file__).parents[2] / "data" / "catalog-v1.sql"
"""What the first schema held: a task that was rolled back, and one that waits for its first program."""


async def test_a_catalog_of_the_first_schema_is_brought_up_to_date(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "catalog.sqlite3")) as connection:
        connection.executescript(FIRST_RELEASE.read_text(encoding="utf-8"))
    for _ in range(2):  # the second time there is nothing left to do
        catalog = open_sqlite(tmp_path)
        store = store_on(catalog)
        task = await store.get_task(GetTask(task="spam-detection"))
        assert (task.status, task.active_version, task.total_versions) == (TaskStatus.READY, 1, 2)
        assert (task.isolation, task.rollout, task.revision) == (Isolation.CALL, None, 1)
        assert (task.comparison, task.comparison_threshold) == (Comparison.EXACT, 0.8)
        assert [example.output for example in task.examples] == ["ham", "spam"]
        assert (await catalog.task(task.id)).examples_bytes == len((await catalog.examples(task.id)).encode())
        listed = (await store.list_artifacts(ListArtifacts(task=task.name))).items
        assert [(a.version, a.status, a.deployment_percentage) for a in listed] == [
            (1, ArtifactStatus.ACTIVE, 100.0),
            (2, ArtifactStatus.DEPRECATED, 0.0),
        ]
        history = (await store.list_activations(ListActivations(task=task.name))).items
        assert [(a.actor, a.from_version, a.to_version) for a in history[:2]] == [("ann", 2, 1), ("system", 1, 2)]
        await catalog.close()

    catalog = open_sqlite(tmp_path)
    store = store_on(catalog)
    more = {"task": "new-one", "changes": {"isolation": "none", "examples": [{"input": {}, "output": "ham"}]}}
    changed = await store.update_task(UpdateTask.model_validate(more))
    assert (changed.isolation, changed.total_examples, changed.revision) == (Isolation.NONE, 1, 2)
    published = await store.publish(publishing(task.id, generation_id=GenerationId(new_uuid())))
    assert published.version == 3
    examples = [{"input": {"text": "grüße"}, "output": "ham"}, {"input": {"text": "win"}, "output": "spam"}]
    again = await store.create_task(creating("spam-detection", key="k1", examples=examples))
    assert again.id == task.id
    await catalog.close()
