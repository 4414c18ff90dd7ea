"""A program in workers of its own, for its check."""

import time
from typing import Protocol

import msgspec

from loopai_common.contracts.execution import ExecutionError
from loopai_common.contracts.frames import AnswerKind
from loopai_executor.domain import Program, error_payload, kind_of
from loopai_executor.sandbox.limits import PoolLimits
from loopai_executor.sandbox.loading import ERROR_PAYLOAD, WorkerDied, ask, believable, load
from loopai_executor.sandbox.process import WorkerProcess
from loopai_executor.sandbox.protocol import encode


class Workers(Protocol):
    """Where locked workers come from."""

    limits: PoolLimits

    async def take(self) -> WorkerProcess:
        """One without a program; raises ``SandboxUnavailable``."""


class PooledTrial:
    """A program in workers that nobody else uses: a new one after each death."""

    def __init__(self, workers: Workers, program: Program) -> None:
        self._workers = workers
        self._program = program
        self._worker: WorkerProcess | None = None

    async def load(self) -> str | None:
        """Loads it; returns why it does not load, or ``None``."""
        worker = await self._workers.take()
        try:
            answer = await load(worker, 0, self._program, self._workers.limits)
        except WorkerDied as error:
            return f"the program does not load: {error.death.message}"
        except BaseException:
            worker.kill()
            raise
        if answer[0] != AnswerKind.SUCCESS:
            worker.kill()
            return str(ERROR_PAYLOAD.decode(answer[1])[1])
        self._worker = worker
        return None

    async def run(self, value: bytes, timeout_ms: int) -> tuple[int, msgspec.Raw, float]:
        """One execution: the kind of answer, its payload, the seconds it took."""
        if self._worker is None or not self._worker.alive:
            problem = await self.load()
            if problem is not None:
                return AnswerKind.ERROR, error_payload(ExecutionError.LOAD_FAILED, problem), 0.0
        assert self._worker is not None
        started = time.perf_counter()
        payload = encode([(0, timeout_ms, [msgspec.Raw(value)])])
        try:
            kind, answer = believable(await ask(self._worker, payload, timeout_ms / 1000))
        except WorkerDied as error:
            death = error.death
            kind, answer = kind_of(death.error), error_payload(death.error, death.message)
        return kind, answer, time.perf_counter() - started

    def close(self) -> None:
        """Ends the worker."""
        if self._worker is not None:
            self._worker.kill()
