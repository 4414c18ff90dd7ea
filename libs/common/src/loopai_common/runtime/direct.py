"""Messages past the queues of nats-py, for the few that carry many requests each.

nats-py keeps what comes in a queue until the task of its subscription runs, and what goes in a list until its flusher
does: four to six turns of the event loop for a message and its answer. Here a message is handed to its handler as it is
read, and one to be sent is written at once. What is taken of nats-py's inside for that is named here and nowhere else.
"""

import asyncio
from collections.abc import Callable, Mapping

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport
from nats.protocol.command import hpub_cmd, pub_cmd

_HEADER_LINE = b"NATS/1.0\r\n"


class _HandingOn(asyncio.Queue[Msg]):
    """In place of a subscription's queue: it is always empty."""

    def __init__(self, subscription: Subscription, handler: Callable[[Msg], None]) -> None:
        super().__init__()
        self._subscription = subscription
        self._handler = handler

    def put_nowait(self, item: Msg) -> None:
        """Hands on what is put in."""
        self._subscription._pending_size -= len(item.data)  # which its task would do
        self._handler(item)


def hand_on(subscription: Subscription, handler: Callable[[Msg], None]) -> None:
    """From now on the subscription gives each message to ``handler`` as it is read.

    The subscription has no callback, and nobody waits for its messages. The handler must neither block nor raise: what
    reads from the server stands still for as long, and would end.
    """
    subscription._pending_queue = _HandingOn(subscription, handler)


def write(client: Client, subject: str, payload: bytes, reply: str, headers: Mapping[str, str]) -> bool:
    """Writes a message to the connection; ``False`` when it has to go by ``client.publish``, which also says what is
    wrong with it. Subjects and headers are taken as they are.
    """
    transport = client._transport
    others_wait = client._pending_data_size
    if type(transport) is not TcpTransport or others_wait or not client.is_connected:
        return False
    if len(payload) > client.max_payload:
        return False
    if headers:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        command = hpub_cmd(subject, reply, _HEADER_LINE + lines.encode() + b"\r\n", payload)
    else:
        command = pub_cmd(subject, reply, payload)
    transport.write(command)  # type: ignore[no-untyped-call]  # nats-py leaves it so
    client.stats["out_msgs"] += 1
    client.stats["out_bytes"] += len(payload)
    return True
