"""A cache in memory: the development's only one, and the first level in front of any other."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from cachetools import TLRUCache

from loopai_artifact_store.domain import Task
from loopai_artifact_store.ports import Absent, Cached, CacheKey, CacheKind, CacheObserver, Entry
from loopai_common.contracts.base import TaskId

_ENTRY_BYTES: Final = 400
"""Roughly what an entry takes besides its content."""

_REMEMBERED_SECONDS: Final = 10.0
"""How long a removed value's revision is known: longer than any copy of what moves lives."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """``value`` is ``None`` where one was removed."""

    value: Cached | None
    revision: int
    expires_at: float
    size_bytes: int


class MemoryCache:
    """Holds at most ``max_bytes``, those that were used last. No method suspends: what it does is one step.

    ``clock`` is monotonic, in seconds.
    """

    def __init__(self, max_bytes: int, observer: CacheObserver, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._observer = observer
        self._kept = _Entries(max_bytes, observer, clock)

    @property
    def entries(self) -> int:
        """How many there are."""
        return len(self._kept)

    @property
    def size_bytes(self) -> int:
        """Roughly what they take."""
        return int(self._kept.currsize)

    async def get(self, key: CacheKey) -> Entry | None:
        kept = self._kept.get(key)
        if kept is None or kept.value is None:
            return None
        return Entry(kept.value, kept.revision, kept.expires_at - self._clock())

    async def set(self, key: CacheKey, value: Cached, *, revision: int, ttl_seconds: float) -> bool:
        known = self._kept.get(key)
        if known is not None and known.revision > revision:
            return False
        self._keep(key, _Kept(value, revision, self._clock() + ttl_seconds, _size_bytes(value)))
        return True

    async def remove(self, key: CacheKey) -> None:
        self._forget([key])

    async def remove_task(self, task_id: TaskId, *, revision: int = 0) -> None:
        keys = [CacheKey(kind, str(task_id)) for kind in CacheKind if kind.moves]
        revisions = {key: max(kept.revision, revision) for key in keys if (kept := self._kept.get(key)) is not None}
        self._forget(keys)
        for key in keys:
            known = revisions.get(key, revision)
            self._keep(key, _Kept(None, known, self._clock() + _REMEMBERED_SECONDS, _ENTRY_BYTES))

    async def remove_moving(self) -> None:
        self._forget([key for key, kept in self._kept.items() if key.kind.moves or isinstance(kept.value, Absent)])

    async def check(self) -> None:
        return None

    def _keep(self, key: CacheKey, kept: _Kept) -> None:
        if kept.size_bytes <= self._kept.maxsize:
            self._kept[key] = kept

    def _forget(self, keys: Iterable[CacheKey]) -> None:
        removed = [kept for key in keys if (kept := self._kept.pop(key, None)) is not None]
        self._observer.evicted("removed", sum(kept.value is not None for kept in removed))


class _Entries(TLRUCache[CacheKey, _Kept]):
    """Entries that end at their own times; says which it gives up by itself."""

    def __init__(self, max_bytes: int, observer: CacheObserver, clock: Callable[[], float]) -> None:
        super().__init__(
            max_bytes, lambda _key, kept, _now: kept.expires_at, timer=clock, getsizeof=lambda kept: kept.size_bytes
        )
        self._observer = observer

    def popitem(self) -> tuple[CacheKey, _Kept]:
        item = super().popitem()
        self._observer.evicted("size", 1)
        return item

    def expire(self, time: float | None = None) -> list[tuple[CacheKey, _Kept]]:
        expired = list(super().expire(time))
        self._observer.evicted("expired", sum(kept.value is not None for _, kept in expired))
        return expired


def _size_bytes(value: Cached) -> int:
    match value:
        case bytes():
            content = len(value)
        case Task():
            content = value.size_bytes
        case tuple():
            content = sum(len(artifact.document.model_dump_json()) for artifact in value)
        case Absent():
            content = len(value.message)
        case UUID():
            content = 16
    return _ENTRY_BYTES + content
