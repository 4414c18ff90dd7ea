"""Reads through the cache: one load for any number of readers, a fresh copy before a used one ends, no old copies.

What never changes is kept for an hour, what moves for five seconds at most, counted from when its load began. A write
removes what it changed before it is answered; other instances hear of it by event. A load that was under way then
counts for those who wait for it, but is not kept: whoever asks afterwards starts a new one.
"""

import asyncio
import contextvars
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from loopai_artifact_store.ports import (
    Absent,
    Cache,
    Cached,
    CacheKey,
    CacheKind,
    CacheObserver,
    CacheUnavailable,
    ReadOutcome,
)
from loopai_common.contracts.base import TaskId
from loopai_common.errors import ArtifactNotFound, TaskNotFound

STEADY_SECONDS: Final = 3600.0
MOVING_SECONDS: Final = 5.0
ABSENT_SECONDS: Final = 5.0
JITTER: Final = 0.1
"""Copies that were made together do not end together."""
REFRESHED_SHARE: Final = 0.3
"""A copy that is used in this last part of its life is loaded anew."""

Load = Callable[[], Awaitable[tuple[Cached, int]]]
"""Reads from the store: the value, and the revision of the task that it is of at least."""


@dataclass(frozen=True, slots=True)
class _Loading:
    task: "asyncio.Task[_Found]"
    started: float


@dataclass(frozen=True, slots=True)
class _Found:
    value: Cached
    revision: int
    outcome: ReadOutcome


class CachedReads:
    """The memory of this instance (``near``), and what it shares with others (``far``), in front of the store.

    ``clock`` is monotonic, in seconds; ``draw`` gives 0 ≤ x < 1.
    """

    def __init__(
        self,
        near: Cache,
        far: Cache | None,
        observer: CacheObserver,
        *,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._near = near
        self._far = far
        self._observer = observer
        self._clock = clock
        self._draw = draw
        self._loads: dict[CacheKey, _Loading] = {}
        self._running: set[asyncio.Task[Any]] = set()

    async def close(self) -> None:
        """Ends the loads that nobody waits for any more."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def read(self, key: CacheKey, load: Load, *, at_least: int = 0) -> Any:
        """The value of ``key``, of the revision ``at_least`` or a later one; raises what ``load`` raises."""
        started = self._clock()
        outcome = ReadOutcome.FAILED
        try:
            found = await self._find(key, load, at_least)
            outcome = found.outcome
        finally:
            self._observer.read(key.kind, outcome, self._clock() - started)
        if isinstance(found.value, Absent):
            raise found.value.kind(found.value.message)
        return found.value

    async def forget(self, key: CacheKey) -> None:
        """Drops one value, here and in what is shared."""
        await self._drop_near(key)
        if self._far is not None:
            with suppress(CacheUnavailable):
                await self._far.remove(key)
            # Once more: what a reader took from there meanwhile is as old.
            await self._drop_near(key)

    async def forget_task(self, task_id: TaskId, *, revision: int) -> None:
        """Drops what can change of a task, whose ``revision`` was written here; gives nothing older after that."""
        await self._drop_task_near(task_id, revision)
        await self._drop_task_far(task_id, revision)

    async def hear_of(self, task_id: TaskId) -> None:
        """Drops what can change of a task that another instance wrote, which has dropped what is shared."""
        await self._drop_task_near(task_id, 0)
        self._own(asyncio.create_task(self._drop_task_far(task_id, 0)))

    def forget_moving(self) -> None:
        """Drops all that can change from memory: what other instances wrote meanwhile was not heard."""
        self._loads.clear()
        self._own(asyncio.create_task(self._near.remove_moving()))

    async def _find(self, key: CacheKey, load: Load, at_least: int) -> _Found:
        entry = await self._near.get(key)
        if entry is not None and entry.revision >= at_least:
            if entry.seconds_left < REFRESHED_SHARE * _nominal_seconds(key.kind, entry.value):
                self._refresh(key, load, at_least)
            return _Found(entry.value, entry.revision, ReadOutcome.NEAR)
        while (loading := self._loads.get(key)) is not None:
            if self._clock() - loading.started >= MOVING_SECONDS:
                break  # the answer that comes may be as old as that
            # Several wait for it: it goes on when one of them is cancelled.
            found = await asyncio.shield(loading.task)
            if found.revision >= at_least:
                return _Found(found.value, found.revision, ReadOutcome.JOINED)
        return await asyncio.shield(self._start(key, load, at_least))

    def _refresh(self, key: CacheKey, load: Load, at_least: int) -> None:
        if key not in self._loads:
            # Another instance may have refreshed what is shared.
            least_seconds = REFRESHED_SHARE * (MOVING_SECONDS if key.kind.moves else STEADY_SECONDS)
            self._start(key, load, at_least, least_seconds)
            self._observer.refreshed(key.kind)

    def _start(self, key: CacheKey, load: Load, at_least: int, least_seconds: float = 0.0) -> asyncio.Task[_Found]:
        # In a context of its own: it belongs to no request, whose deadline it would have.
        work = self._load(key, load, at_least, least_seconds)
        task = asyncio.create_task(work, context=contextvars.Context())
        self._loads[key] = _Loading(task, self._clock())
        task.add_done_callback(partial(self._landed, key))
        return self._own(task)

    def _landed(self, key: CacheKey, task: asyncio.Task[_Found]) -> None:
        if self._counts(key, task):
            del self._loads[key]
        if not task.cancelled():
            task.exception()  # a refresh that failed is nobody's failure: the next read finds out

    async def _load(self, key: CacheKey, load: Load, at_least: int, least_seconds: float) -> _Found:
        task = asyncio.current_task()

        if self._far is not None:
            with suppress(CacheUnavailable):
                entry = await self._far.get(key)
                usable = entry is not None and entry.revision >= at_least and entry.seconds_left > least_seconds
                if entry is not None and usable and self._counts(key, task):
                    seconds = min(entry.seconds_left, self._ttl_seconds(key.kind, entry.value))
                    # Refused when this instance knows that it is old, which what is shared may not know yet.
                    if await self._near.set(key, entry.value, revision=entry.revision, ttl_seconds=seconds):
                        return _Found(entry.value, entry.revision, ReadOutcome.FAR)
        started = self._clock()
        value, revision = await _loaded(load, at_least)
        spent = self._clock() - started
        if self._counts(key, task):
            seconds = self._ttl_seconds(key.kind, value) - spent
            await self._near.set(key, value, revision=revision, ttl_seconds=seconds)
            if self._far is not None and not isinstance(value, Absent):
                with suppress(CacheUnavailable):
                    kept = await self._far.set(key, value, revision=revision, ttl_seconds=seconds)
                    if kept and not self._counts(key, task):  # it was dropped on its way there
                        await self._far.remove(key)
        return _Found(value, revision, ReadOutcome.STORE)

    def _counts(self, key: CacheKey, task: asyncio.Task[_Found] | None) -> bool:
        """Whether the load is still the one that others may join, and nothing was dropped since it began."""
        loading = self._loads.get(key)
        return loading is not None and loading.task is task

    async def _drop_near(self, key: CacheKey) -> None:
        self._loads.pop(key, None)
        await self._near.remove(key)

    async def _drop_task_far(self, task_id: TaskId, revision: int) -> None:
        if self._far is not None:
            with suppress(CacheUnavailable):
                await self._far.remove_task(task_id, revision=revision)
            # Once more: what a reader took from there meanwhile is as old.
            await self._drop_task_near(task_id, revision)

    async def _drop_task_near(self, task_id: TaskId, revision: int) -> None:
        for kind in CacheKind:
            if kind.moves:
                self._loads.pop(CacheKey(kind, str(task_id)), None)
        await self._near.remove_task(task_id, revision=revision)

    def _ttl_seconds(self, kind: CacheKind, value: Cached) -> float:
        nominal = _nominal_seconds(kind, value)
        return nominal * (1 - JITTER + 2 * JITTER * self._draw()) if nominal == STEADY_SECONDS else nominal

    def _own(self, task: asyncio.Task[Any]) -> asyncio.Task[Any]:
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task


def _nominal_seconds(kind: CacheKind, value: Cached) -> float:
    if isinstance(value, Absent):
        return ABSENT_SECONDS
    return MOVING_SECONDS if kind.moves else STEADY_SECONDS


async def _loaded(load: Load, at_least: int) -> tuple[Cached, int]:
    try:
        return await load()
    except (TaskNotFound, ArtifactNotFound) as error:
        return Absent(type(error), error.message), at_least
