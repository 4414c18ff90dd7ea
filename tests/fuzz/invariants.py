"""What every target shares: an event loop whose hidden errors count, and bytes turned into structure."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

_PATIENCE_SECONDS = 10.0


class Violation(AssertionError):
    """A promise was broken; the message says which."""


def require(holds: bool, promise: str) -> None:
    """Raises :class:`Violation` unless the promise holds."""
    if not holds:
        raise Violation(promise)


class Stage:
    """An event loop for many inputs. What is logged as an error, or raised where nobody looks, is a violation."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(self._unhandled)
        self._unseen: list[str] = []
        handler = logging.Handler(logging.ERROR)
        handler.emit = lambda record: self._unseen.append(record.getMessage())  # type: ignore[method-assign]
        logging.getLogger("uvicorn.error").addHandler(handler)

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs one input's scenario, which must end, and leave nothing behind."""
        self._unseen.clear()
        self.loop.run_until_complete(asyncio.wait_for(work, _PATIENCE_SECONDS))
        left = asyncio.all_tasks(self.loop)
        for task in left:
            task.cancel()
        if left:
            self.loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        require(not left, f"every task has an owner that awaits it: {left}")
        require(not self._unseen, f"no error stays unhandled: {self._unseen}")

    def _unhandled(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._unseen.append(f"{context.get('message')}: {context.get('exception')!r}")


class Choices:
    """Decisions taken from the front of an input; when it is used up they are all zero. Deterministic."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def exhausted(self) -> bool:
        """Whether every byte was used."""
        return self._at >= len(self._data)

    def below(self, limit: int) -> int:
        """A number from 0 to ``limit`` - 1; ``limit`` is at most 256."""
        byte = self._data[self._at] if self._at < len(self._data) else 0
        self._at += 1
        return byte % limit

    def some(self, limit: int) -> bytes:
        """At most ``limit`` bytes (below 256)."""
        size = self.below(limit + 1)
        start = self._at
        self._at += size
        return self._data[start : self._at]

    def rest(self) -> bytes:
        """What is left."""
        start, self._at = self._at, max(self._at, len(self._data))
        return self._data[start:]
