"""Entry point of the executor."""

import os
import sys
from contextlib import suppress

from starlette.applications import Starlette

from loopai_common.runtime.service import main, serve_workers, with_options
from loopai_common.runtime.settings import load_settings
from loopai_common.runtime.workers import Worker
from loopai_executor import wiring
from loopai_executor.settings import ExecutorSettings


def create_app(settings: ExecutorSettings | None = None, worker: Worker | None = None) -> Starlette:
    """The executor's application; settings come from the environment unless given, ``worker`` from its parent."""
    return wiring.build(settings or load_settings(ExecutorSettings, wiring.SERVICE), worker)


def run() -> None:
    """Runs the executor until a signal stops it."""

    def start() -> int:
        _wait_for_a_turn()
        settings = load_settings(
            ExecutorSettings, wiring.SERVICE, with_options(wiring.SERVICE, ExecutorSettings, "workers")
        )
        return serve_workers(wiring.SERVICE, settings, lambda worker: create_app(settings, worker))

    main(start)


def _wait_for_a_turn() -> None:
    """Has the kernel schedule this process and its workers as batches (sched(7)): who wakes up interrupts nobody.

    Under load the answers of several workers are then taken together, and a stranger's program interrupts no service.
    Where something else was chosen for the process, or the kernel does not know this, nothing changes.
    """
    if sys.platform == "linux" and os.sched_getscheduler(0) == os.SCHED_OTHER:
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


if __name__ == "__main__":
    run()
