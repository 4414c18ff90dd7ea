"""The built-in learner, each request in a process of its own.

A process can be stopped when it takes too long or nobody waits any more, gives its memory back, and leaves the event
loop free. A new process takes half a second to start, so one is started ahead.
"""

import asyncio
import contextlib
import sys

import pydantic

from loopai_common.contracts.generation import GenerationRequest, GenerationResponse
from loopai_common.errors import Internal, Overloaded
from loopai_common.runtime.logging import get_logger

_REAP_SECONDS = 5.0

log = get_logger()


class LearnerProcesses:
    """A provider. :meth:`open` before use; :meth:`close` ends every process it started."""

    def __init__(self, *, concurrency: int, max_waiting: int, timeout_seconds: float) -> None:
        self._turn = asyncio.Semaphore(concurrency)
        self._limit = concurrency + max_waiting
        self._timeout_seconds = timeout_seconds
        self._taken = 0
        self._changing_spare = asyncio.Lock()
        self._spare: asyncio.subprocess.Process | None = None
        self._closed = False

    async def open(self) -> None:
        """Starts the spare process."""
        await self._replenish()

    async def close(self) -> None:
        """Ends the spare process, and starts no other."""
        self._closed = True
        async with self._changing_spare:
            if self._spare is not None:
                await _end(self._spare)
                self._spare = None

    async def check(self) -> str | None:
        """Readiness: says so when no process waits for the next request."""
        if self._spare is None or self._spare.returncode is not None:
            return "no learner process is waiting; the next program takes half a second longer"
        return None

    async def generate(self, request: GenerationRequest, _: str | None) -> GenerationResponse:
        """Learns a program; raises :class:`Overloaded` when too many wait, :class:`Internal` when the process died."""
        if self._taken >= self._limit:
            raise Overloaded("too many programs are being learned; try again later")
        self._taken += 1
        try:
            async with self._turn:
                return await self._learn(request)
        finally:
            self._taken -= 1

    async def _learn(self, request: GenerationRequest) -> GenerationResponse:
        body = await asyncio.to_thread(lambda: request.model_dump_json().encode())
        process = await self._take()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                output, errors = await process.communicate(body)
        except TimeoutError:
            return GenerationResponse(
                success=False,
                error_message=f"learning took longer than {self._timeout_seconds:g} seconds; give fewer examples",
            )
        finally:
            await _end(process)
            await self._replenish()
        try:
            return GenerationResponse.model_validate_json(output)
        except pydantic.ValidationError as error:
            log.error(
                "learner_process_died", exit_code=process.returncode, stderr=errors.decode(errors="replace")[-4000:]
            )
            raise Internal("the learner broke; the log has the cause") from error

    async def _take(self) -> asyncio.subprocess.Process:
        async with self._changing_spare:
            spare, self._spare = self._spare, None
        return spare if spare is not None and spare.returncode is None else await _start()

    async def _replenish(self) -> None:
        # After the work, not beside it: the imports of the next process would take the processor from it.
        async with self._changing_spare:
            if self._spare is None and not self._closed:
                self._spare = await _start()


async def _start() -> asyncio.subprocess.Process:
    """A learner process that reads nothing from the environment but what keeps its arithmetic on one core."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        "-m",
        "loopai_generator.learners",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    async with asyncio.timeout(_REAP_SECONDS):
        await process.wait()
