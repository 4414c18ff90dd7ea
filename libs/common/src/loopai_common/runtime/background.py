"""Work that goes on beside requests, for as long as a service runs."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final

from loopai_common.runtime.logging import get_logger

_RESTART_SECONDS: Final = 1.0
_CANCEL_AGAIN_SECONDS: Final = 0.5

log = get_logger()

Work = Callable[[], Coroutine[Any, Any, None]]


@asynccontextmanager
async def running(work: Work, *, restart_seconds: float = _RESTART_SECONDS) -> AsyncIterator[None]:
    """Runs the work until the block is left, which cancels it.

    Nobody awaits it, so an error that it did not foresee would end it unseen: that is logged with its traceback, and
    the work begins again after ``restart_seconds``. Work that ends by itself is done.
    """
    keeper = asyncio.create_task(_keep_running(work, restart_seconds))
    try:
        yield
    finally:
        keeper.cancel()  # once: a second one would leave the work alone while it ends
        await asyncio.wait([keeper])


async def cancelled(task: asyncio.Task[Any]) -> None:
    """Cancels the task, once more each half a second, and returns when it ended, however it did.

    Once is not enough: ``asyncio.wait_for`` of Python 3.11, which NATS and MongoDB are spoken to with, loses a
    cancellation that comes in the same turn of the loop as its result (https://github.com/python/cpython/issues/86296),
    and a loop that lost it would run for ever.
    """
    while task.cancel():
        await asyncio.wait([task], timeout=_CANCEL_AGAIN_SECONDS)


async def _keep_running(work: Work, restart_seconds: float) -> None:
    while True:
        coroutine = work()
        run = asyncio.create_task(coroutine)
        try:
            await asyncio.wait([run])
        finally:
            await cancelled(run)
        error = run.exception()
        if error is None:
            return
        name = getattr(coroutine, "__qualname__", "")  # which typing leaves out
        log.error("background_work_failed", work=name, consequence="it begins again", exc_info=error)
        await asyncio.sleep(restart_seconds)
