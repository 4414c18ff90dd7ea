"""The events of tasks as they come over the bus: heard once in a process, told to whoever listens for a task."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Self

from loopai_common.contracts.base import TaskId
from loopai_common.contracts.tasks import task_id_or_none

FAILED: Final = "task.failed"
ARCHIVED: Final = "task.archived"
ACTIVATED: Final = "artifact.activated"

_SUBJECTS: Final = "loopai.evt.v1."


@dataclass(frozen=True, slots=True)
class TaskEvent:
    """One event about one task. ``kind`` is its subject without what all have in common, ``data`` its JSON in one line,
    ``id`` the same for every copy of it.
    """

    id: str
    kind: str
    task_id: TaskId
    data: str

    @classmethod
    def read(cls, subject: str, headers: Mapping[str, str] | None, body: Any) -> Self | None:
        """The event that a message is; ``None`` for one that is no event about a task."""
        event_id = (headers or {}).get("ce-id")
        task_id = task_id_or_none(str(body.get("task_id"))) if isinstance(body, dict) else None
        if not event_id or task_id is None or not subject.startswith(_SUBJECTS):
            return None
        data = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
        return cls(event_id, subject.removeprefix(_SUBJECTS), task_id, data)


Hearer = Callable[[TaskEvent], None]
"""Takes an event; must not block."""


class TaskEventFeed:
    """Tells each event to those who listen for its task. A copy of an event may come again."""

    def __init__(self) -> None:
        self._hearers: dict[TaskId, set[Hearer]] = {}

    @contextmanager
    def heard_by(self, hearer: Hearer, task_id: TaskId) -> Iterator[None]:
        """While this is open, ``hearer`` is told what happens to the task."""
        hearers = self._hearers.setdefault(task_id, set())
        hearers.add(hearer)
        try:
            yield
        finally:
            hearers.discard(hearer)
            if not hearers:
                self._hearers.pop(task_id, None)

    def tell(self, event: TaskEvent) -> None:
        """Tells everybody who listens for the task of ``event``."""
        for hearer in tuple(self._hearers.get(event.task_id, ())):
            hearer(event)
