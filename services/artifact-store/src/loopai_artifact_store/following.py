"""What follows the catalog, after the requests that changed it."""

import asyncio
from abc import ABC, abstractmethod
from contextlib import suppress

from loopai_common.errors import LoopaiError
from loopai_common.runtime.logging import get_logger

log = get_logger()


class Follower(ABC):
    """Does what the catalog noted as still to be done: when it is woken, and else every ``poll_seconds``.

    ``gathering_seconds`` pass before it looks again, so that changes which come one after another are done together.
    """

    def __init__(self, *, waiting: str, poll_seconds: float, gathering_seconds: float = 0.0) -> None:
        self._waiting = waiting
        self._poll_seconds = poll_seconds
        self._gathering_seconds = gathering_seconds
        self._woken = asyncio.Event()

    @abstractmethod
    async def catch_up(self) -> None:
        """Does all there is to do; raises :class:`~loopai_common.errors.LoopaiError` when that has to wait."""

    def wake(self) -> None:
        """Says that there may be something to do. Without it the next poll finds out."""
        self._woken.set()

    async def run(self) -> None:
        """Catches up until cancelled; what cannot be done now is logged as ``waiting`` and tried again."""
        while True:
            self._woken.clear()
            try:
                await self.catch_up()
            except LoopaiError as error:
                log.warning(self._waiting, code=error.code, reason=error.message)
                await asyncio.sleep(self._poll_seconds)
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._poll_seconds):
                        await self._woken.wait()
                await asyncio.sleep(self._gathering_seconds)
