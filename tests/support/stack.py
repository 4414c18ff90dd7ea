"""The whole local stack for end-to-end tests: every service a process of its own, on free ports, in a directory."""

import asyncio
import os
import signal
import threading
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from loopai_client.local.nats_server import free_port
from loopai_client.local.stack import Stack, StackSettings
from loopai_client.local.supervisor import Event

T = TypeVar("T")

_LONGEST_SECONDS = 180.0


class LocalStack:
    """Starts the stack that `loopai up` runs, and breaks it as it is told. What is killed stays down.

    Blocking, so that fixtures of any scope and tests of any kind can use it: the supervisor runs on a thread of its
    own, which lives until :meth:`stop` (the kernel ends the processes with the thread that started them).
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        nats_url: str | None = None,
        api_workers: int | None = None,
        executor_workers: int | None = None,
        keys_file: Path | None = None,
        mongo_url: str | None = None,
        generator_url: str | None = None,
    ) -> None:
        self.events: list[Event] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="local-stack", daemon=True)
        settings = StackSettings(
            data_dir,
            port=free_port(),
            nats_url=nats_url,
            api_workers=api_workers,
            executor_workers=executor_workers,
            keys_file=keys_file,
            mongo_url=mongo_url,
            generator_url=generator_url,
        )
        self._stack = Stack(settings, self.events.append)

    @property
    def base_url(self) -> str:
        """Where the API answers."""
        return self._stack.url

    @property
    def nats_url(self) -> str:
        """Where NATS clients connect."""
        return self._stack.nats_url

    @property
    def operations_urls(self) -> dict[str, str]:
        """Where each service tells its health and metrics, by its name."""
        ports = {
            name: value
            for name, process in self._stack.supervisor.processes.items()
            for variable, value in process.spec.environment.items()
            if variable == f"LOOPAI_{name.replace('-', '_').upper()}_PORT"
        }
        return {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}

    @property
    def logs(self) -> Path:
        """The directory of the log files, one a service."""
        return self._stack.logs

    @property
    def pids(self) -> dict[str, int]:
        """The process ids of what runs, by name."""
        return {name: p.pid for name, p in self._stack.supervisor.processes.items() if p.running}

    def start(self) -> None:
        """Starts everything and waits until it is ready."""
        self._thread.start()
        try:
            self._run(self._stack.supervisor.start())
        except BaseException:
            self.stop()
            raise

    def kill(self, service: str) -> None:
        """Ends a service as a crash would; it stays down until :meth:`restart`."""
        self._run(self._stack.supervisor.processes[service].kill())

    def terminate(self, service: str, *, grace_seconds: float = 30.0) -> bool:
        """Stops a service with SIGTERM; returns whether it ended by itself within the grace."""
        return self._run(self._stack.supervisor.processes[service].stop(grace_seconds=grace_seconds))

    def ending(self, service: str) -> str:
        """How a service ended, in words."""
        return self._stack.supervisor.processes[service].ending

    def pause(self, service: str) -> None:
        """Freezes a service: its connections stay open and nothing answers."""
        os.kill(self.pids[service], signal.SIGSTOP)

    def resume(self, service: str) -> None:
        """Lets a frozen service go on."""
        os.kill(self.pids[service], signal.SIGCONT)

    def restart(self, service: str) -> None:
        """Stops the service if it runs, starts it, and waits until it is ready."""
        self.terminate(service)
        self._run(self._stack.supervisor.start_one(service))

    def stop(self) -> None:
        """Stops everything, frozen services too."""
        for pid in self.pids.values():
            os.kill(pid, signal.SIGCONT)
        self._run(self._stack.supervisor.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_LONGEST_SECONDS)
