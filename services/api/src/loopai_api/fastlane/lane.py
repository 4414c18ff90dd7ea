"""What the fast lane needs to know of the process: the engine, the metrics, and which paths are its own."""

import time
from typing import NamedTuple

from loopai_api.bodies import MAX_EXECUTE_BYTES
from loopai_api.execution.engine import ExecutionEngine
from loopai_api.execution.metrics import HttpMetrics
from loopai_api.references import task_reference
from loopai_api.security import Guard
from loopai_common.errors import LoopaiError

PREFIX = b"/api/v1/tasks/"
SUFFIX = b"/execute"
ROUTE = "/api/v1/tasks/{task}/execute"
_MAX_REMEMBERED = 10_000
_MAX_HEAD_BYTES = 2048


class HotHead(NamedTuple):
    """What the head of a hot request says. Whether it may be made is asked of the guard each time."""

    task: str
    body_bytes: int
    credential: bytes | None
    """The API key, as a value of ``Authorization``."""
    forwarded_https: bool
    """Whether a proxy says that its client used HTTPS; to be believed of trusted ones alone."""


class FastLane:
    """One for each process."""

    def __init__(
        self, engine: ExecutionEngine, http_metrics: HttpMetrics, default_timeout_ms: int, guard: Guard
    ) -> None:
        self.engine = engine
        self.guard = guard
        self.metrics = http_metrics
        self.default_timeout_ms = default_timeout_ms
        self.max_body_bytes = MAX_EXECUTE_BYTES
        self._counts = http_metrics.counts("POST", ROUTE)
        self._tasks: dict[bytes, str] = {}
        self.heads: dict[bytes, HotHead] = {}
        """Heads that were parsed before, to their last byte: a client sends the same few again and again."""

    def task_of(self, url: bytes) -> str | None:
        """The task that an execute path names; ``None`` for a path that is not this lane's."""
        task = self._tasks.get(url)
        if task is None and url.startswith(PREFIX) and url.endswith(SUFFIX):
            try:
                task = task_reference(url[len(PREFIX) : -len(SUFFIX)].decode("ascii"))
            except (LoopaiError, UnicodeDecodeError):
                return None
            if len(self._tasks) >= _MAX_REMEMBERED:
                self._tasks.clear()
            self._tasks[url] = task
        return task

    def remember(self, head: bytes, parsed: HotHead) -> None:
        """Keeps what the parser made of ``head``, unless it is large."""
        if len(head) <= _MAX_HEAD_BYTES:
            if len(self.heads) >= _MAX_REMEMBERED:
                self.heads.clear()
            self.heads[head] = parsed

    def observe(self, status: int, started: float) -> None:
        """Counts a request that began at ``started`` (``time.perf_counter()``)."""
        self._counts.observe(status, time.perf_counter() - started)
