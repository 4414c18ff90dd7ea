"""What the fast lane needs to know of the process: the engine, the metrics, and which paths are its own."""

import time

from loopai_api.bodies import MAX_EXECUTE_BYTES
from loopai_api.execution.engine import ExecutionEngine
from loopai_api.execution.metrics import HttpMetrics
from loopai_api.references import task_reference
from loopai_api.security import Guard
from loopai_common.errors import LoopaiError

PREFIX = b"/api/v1/tasks/"
SUFFIX = b"/execute"
ROUTE = "/api/v1/tasks/{task}/execute"
_MAX_REMEMBERED_PATHS = 10_000


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

    def task_of(self, url: bytes) -> str | None:
        """The task that an execute path names; ``None`` for a path that is not this lane's."""
        task = self._tasks.get(url)
        if task is None and url.startswith(PREFIX) and url.endswith(SUFFIX):
            try:
                task = task_reference(url[len(PREFIX) : -len(SUFFIX)].decode("ascii"))
            except (LoopaiError, UnicodeDecodeError):
                return None
            if len(self._tasks) >= _MAX_REMEMBERED_PATHS:
                self._tasks.clear()
            self._tasks[url] = task
        return task

    def observe(self, status: int, started: float) -> None:
        """Counts a request that began at ``started`` (``time.perf_counter()``)."""
        self._counts.observe(status, time.perf_counter() - started)
