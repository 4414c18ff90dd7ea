"""Processes that publish, as the tests see them."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from loopai_common.contracts.base import TaskId

STRACE = shutil.which("strace")

_ROOT = Path(__file__).parents[3]
_UNMEASURED = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
"""What coverage writes at the end of a process is none of the writes at which it is to be killed."""


class Publisher:
    """A process that publishes ``count`` versions to the store in ``place``, once it is told to.

    A fault (of strace: ``SYSCALL:signal=KILL:when=3``) is injected into its system calls from then on.
    """

    def __init__(self, place: Path | str, task_id: TaskId, count: int = 1, *, fault: str | None = None) -> None:
        self._fault = fault
        self._tracer: subprocess.Popen[str] | None = None
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.artifact_store.publisher", place, str(task_id), str(count)],
            cwd=_ROOT,
            env=_UNMEASURED,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def go(self) -> "Publisher":
        """Makes it begin, which it is ready for when this returns."""
        assert self.process.stdout is not None
        assert self.process.stdin is not None
        assert self.process.stdout.readline() == "ready\n"
        if self._fault is not None:
            self._tracer = self._inject(self._fault)
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self

    def next_version(self) -> int:
        """The next one that it publishes."""
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def finish(self) -> list[str]:
        """Waits for the end and returns the words it printed."""
        output, errors = self.process.communicate(timeout=120)
        if self._tracer is not None:
            self._tracer.communicate(timeout=60)
        assert self.process.returncode in (0, 1, -signal.SIGKILL), errors
        return output.split()

    @property
    def killed(self) -> bool:
        """Whether it was, when it ended."""
        return self.process.returncode == -signal.SIGKILL

    def _inject(self, fault: str) -> "subprocess.Popen[str]":
        assert STRACE is not None
        syscall, _, _ = fault.partition(":")
        options = ["-f", "-o", os.devnull, "-e", f"trace={syscall}", "-e", f"inject={fault}"]
        tracer = subprocess.Popen([STRACE, *options, "-p", str(self.process.pid)], stderr=subprocess.PIPE, text=True)
        assert tracer.stderr is not None
        said = tracer.stderr.readline()
        if "attached" not in said:
            self.process.kill()
            pytest.skip(f"strace cannot trace here: {said.strip()}")
        return tracer
