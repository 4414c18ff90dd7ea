"""Runs a set of processes as an operator would: starts them in stages, keeps them running, stops them in reverse."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from loopai_client.local import launch
from loopai_client.local.log_lines import readable
from loopai_client.local.probes import Probe

_POLL_SECONDS = 0.05
_FIRST_BACKOFF_SECONDS = 0.5
_LONGEST_BACKOFF_SECONDS = 30.0
_STEADY_SECONDS = 60.0
_SHOWN_LOG_LINES = 15


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """A process to run: ``command`` starts with the path of a program, ``environment`` is added to ours."""

    name: str
    command: tuple[str, ...]
    ready: Probe
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Event:
    """Something the supervisor did or saw. ``seconds`` is how long it took, or the wait before the next start."""

    kind: Literal["ready", "ended", "stopped", "killed"]
    process: str
    seconds: float
    detail: str = ""


Report = Callable[[Event], None]


class StartFailed(Exception):
    """A process ended, or did not get ready, while it was started; the message has its name and last log lines."""


class Process:
    """One process in a session of its own (a terminal's Ctrl-C reaches only the supervisor), logging to a file."""

    def __init__(self, spec: ProcessSpec, log: Path) -> None:
        self.spec = spec
        self.log = log
        self._process: asyncio.subprocess.Process | None = None

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        """The process id; raises :class:`LookupError` when it was never started."""
        if self._process is None:
            raise LookupError(f"{self.spec.name} was not started")
        return self._process.pid

    async def start(self, *, ready_seconds: float) -> float:
        """Starts the process and waits until it is ready; returns the seconds that took.

        Raises :class:`StartFailed` when it ends or is not ready in time; in the latter case it still runs.
        """
        started = time.monotonic()
        launcher = (sys.executable, "-I", "-S", launch.__file__, str(os.getpid()))
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *launcher,
                *self.spec.command,
                env={**_environment(), **self.spec.environment},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        missing: str | None = "does not answer yet"
        while time.monotonic() - started < ready_seconds:
            if self._process.returncode is not None:
                raise StartFailed(f"{self.spec.name} {self.ending} while it was starting.\n{self.last_lines()}")
            missing = await self.spec.ready()
            if missing is None and self._process.returncode is None:
                return time.monotonic() - started
            await asyncio.sleep(_POLL_SECONDS)
        raise StartFailed(f"{self.spec.name} was not ready after {ready_seconds:g} s: {missing}.\n{self.last_lines()}")

    async def ended(self) -> None:
        """Returns when the process is no more."""
        if self._process is not None:
            await self._process.wait()

    @property
    def ending(self) -> str:
        """How the process ended, in words."""
        code = None if self._process is None else self._process.returncode
        if code is None:
            return "has not ended"
        return f"ended with exit code {code}" if code >= 0 else f"was ended by {signal.Signals(-code).name}"

    def last_lines(self) -> str:
        """The end of the log, with where to find all of it."""
        lines = [readable(line) for line in self.log.read_text(errors="replace").splitlines()[-_SHOWN_LOG_LINES:]]
        return "\n".join([f"Its last words ({self.log}):", *(f"  {line}" for line in lines or ["(nothing)"])])

    async def stop(self, *, grace_seconds: float) -> bool:
        """Asks the process to end and waits; kills it after the grace. Returns whether it ended by itself."""
        if self._process is None or self._process.returncode is not None:
            return True
        with suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(grace_seconds):
                await self._process.wait()
        except TimeoutError:
            await self.kill()
            return False
        return True

    async def kill(self) -> None:
        """Ends the process, and what it started in its session, as a crash would."""
        if self._process is None or self._process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()


def _environment() -> dict[str, str]:
    """Ours, without the key with which this machine's user calls an API: it is no business of the services."""
    return {name: value for name, value in os.environ.items() if name != "LOOPAI_API_KEY"}


class Supervisor:
    """The processes of ``stages``: a stage is started when the one before is ready, all of a stage at once.

    Logs go to ``<logs>/<name>.log``, the log of the run before is kept as ``<name>.log.1``. Use it from the main
    thread, or from one that lives as long as the processes: the kernel ends them with the thread that started them.
    """

    def __init__(
        self,
        stages: Sequence[Sequence[ProcessSpec]],
        logs: Path,
        report: Report,
        *,
        ready_seconds: float = 60.0,
        grace_seconds: float = 25.0,
    ) -> None:
        self._stages = [[Process(spec, logs / f"{spec.name}.log") for spec in stage] for stage in stages]
        self._logs = logs
        self._report = report
        self._ready_seconds = ready_seconds
        self._grace_seconds = grace_seconds
        self.processes: Mapping[str, Process] = {p.spec.name: p for stage in self._stages for p in stage}

    async def start(self) -> None:
        """Starts everything; raises :class:`StartFailed` for the first process that does not get ready.

        What was started by then still runs: call :meth:`stop`.
        """
        self._logs.mkdir(parents=True, exist_ok=True)
        for process in self.processes.values():
            if process.log.exists():
                process.log.replace(process.log.with_suffix(".log.1"))
        for stage in self._stages:
            try:
                async with asyncio.TaskGroup() as group:
                    for process in stage:
                        group.create_task(self.start_one(process.spec.name))
            except ExceptionGroup as failures:
                raise failures.exceptions[0] from None

    async def start_one(self, name: str) -> None:
        """Starts one process that does not run, and waits until it is ready."""
        seconds = await self.processes[name].start(ready_seconds=self._ready_seconds)
        self._report(Event("ready", name, seconds))

    async def watch(self) -> None:
        """Starts again what ends, after a wait that grows while it keeps ending. Runs until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            for process in self.processes.values():
                group.create_task(self._keep_running(process))

    async def stop(self) -> None:
        """Stops everything that runs, the last started first; returns when nothing is left."""
        for process in reversed(list(self.processes.values())):
            if not process.running:
                continue
            started = time.monotonic()
            graceful = await process.stop(grace_seconds=self._grace_seconds)
            kind: Literal["stopped", "killed"] = "stopped" if graceful else "killed"
            self._report(Event(kind, process.spec.name, time.monotonic() - started))

    async def kill(self) -> None:
        """Ends everything at once, as a crash would."""
        await asyncio.gather(*(process.kill() for process in self.processes.values()))

    async def _keep_running(self, process: Process) -> None:
        backoff = _FIRST_BACKOFF_SECONDS
        while True:
            since = time.monotonic()
            await process.ended()
            if time.monotonic() - since >= _STEADY_SECONDS:
                backoff = _FIRST_BACKOFF_SECONDS
            self._report(Event("ended", process.spec.name, backoff, process.ending))
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, _LONGEST_BACKOFF_SECONDS)
            # One that does not get ready still runs, and may yet; one that ended is met again above.
            with suppress(StartFailed):
                await self.start_one(process.spec.name)


async def run_until_stopped(supervisor: Supervisor, on_up: Callable[[], None]) -> None:
    """Starts the processes, calls ``on_up``, and keeps them running until SIGINT, SIGTERM or SIGHUP; then stops them.

    A second signal kills what is still stopping. Raises :class:`StartFailed`. Nothing is left running in any case.
    """

    async def work() -> None:
        await supervisor.start()
        on_up()
        await supervisor.watch()

    with stop_signals() as signalled:
        try:
            await unless(signalled, work())
        finally:
            signalled.clear()
            await unless(signalled, supervisor.stop())
            await supervisor.kill()


@contextmanager
def stop_signals() -> Iterator[asyncio.Event]:
    """The event is set by SIGINT, SIGTERM and SIGHUP, which have no other effect meanwhile."""
    signalled = asyncio.Event()
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, signalled.set)
    try:
        yield signalled
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def unless(event: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Runs ``work`` until it ends or ``event`` is set, whichever is first; what it raises is raised."""
    task = asyncio.ensure_future(work)
    interruption = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({task, interruption}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        task.cancel()
        interruption.cancel()
        await asyncio.wait({task, interruption})
    if not task.cancelled():
        task.result()
