"""Parts of frame replies, sent over the bus."""

import msgspec

from loopai_common.contracts.frames import FramePart
from loopai_common.runtime.broker import Bus

_encode = msgspec.json.Encoder().encode


class NatsPartPublisher:
    """A :class:`~loopai_executor.ports.PartPublisher`. A frame counts as in flight on the bus until it is answered.

    A part that is lost is not sent again: the caller's deadline covers it.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    def opened(self) -> None:
        """The bus drains only when this frame is answered."""
        self._bus.in_flight += 1

    def publish(self, reply: str, part: FramePart) -> None:
        """Sends a part, in the order of the calls."""
        self._bus.send(reply, _encode(part))

    def closed(self) -> None:
        """The last part was published."""
        self._bus.in_flight -= 1
