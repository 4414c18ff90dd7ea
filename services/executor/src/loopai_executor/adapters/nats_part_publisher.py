"""Parts of frame replies, sent over the bus by one task, in order."""

import asyncio
from collections import deque

import msgspec
from nats.errors import Error as NatsError

from loopai_common.contracts.frames import FramePart
from loopai_common.errors import LoopaiError
from loopai_common.runtime.broker import Bus
from loopai_common.runtime.logging import get_logger

_encode = msgspec.json.Encoder().encode

log = get_logger()


class NatsPartPublisher:
    """A :class:`~loopai_executor.ports.PartPublisher`. A frame counts as in flight on the bus until it is answered."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._waiting: deque[tuple[str, bytes] | None] = deque()
        self._sending: asyncio.Task[None] | None = None

    def opened(self) -> None:
        """The bus drains only when this frame is answered."""
        self._bus.in_flight += 1

    def publish(self, reply: str, part: FramePart) -> None:
        """Sends a part, in the order of the calls."""
        self._waiting.append((reply, _encode(part)))
        self._wake()

    def closed(self) -> None:
        """The last part was published."""
        self._waiting.append(None)
        self._wake()

    def _wake(self) -> None:
        if self._sending is None or self._sending.done():
            self._sending = asyncio.get_running_loop().create_task(self._send())

    async def _send(self) -> None:
        while self._waiting:
            part = self._waiting.popleft()
            if part is None:
                self._bus.in_flight -= 1
                continue
            try:
                await self._bus.client.publish(*part)
            except (NatsError, LoopaiError) as error:
                # The caller's deadline covers it: a reply is never sent twice.
                log.warning("part_not_sent", error_type=type(error).__name__, size_bytes=len(part[1]))
