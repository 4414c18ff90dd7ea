"""Messages that were delivered as often as they may be, and settled by nobody: their process ended each time.

No handler is left to give such a message up. The server tells of it once, in an advisory that the stream of dead
letters keeps; here it becomes the dead letter that a handler would have made of it.
"""

from nats.js.errors import NotFoundError

from loopai_common.contracts import subjects
from loopai_common.contracts.base import Contract
from loopai_common.errors import Internal
from loopai_common.runtime.broker import Bus, StoredMessage


class MaxDeliveriesReached(Contract):
    """The server's advisory (``io.nats.jetstream.advisory.v1.max_deliver``), as far as it is needed."""

    stream_seq: int
    deliveries: int


def consumer_of_exhausted(consumer: str) -> str:
    """The name of the consumer that takes the advisories about ``consumer``."""
    return f"{consumer}-exhausted"


def bury_exhausted(bus: Bus, stream: str, consumer: str) -> None:
    """Makes a dead letter of each message of ``stream`` that ``consumer`` was given in vain."""

    async def exhausted(advisory: MaxDeliveriesReached) -> None:
        sequence = advisory.stream_seq
        try:
            found = await bus.jetstream.get_msg(stream, sequence)
        except NotFoundError:
            return  # settled at the last moment, or older than what the stream keeps
        message = StoredMessage(found.subject or "", found.data or b"", found.headers or {}, stream, sequence)
        died = Internal("each process that began with it ended before it was done")
        await bus.keep_dead_letter(message, died, advisory.deliveries)
        if stream == subjects.COMMANDS_STREAM:
            await bus.jetstream.delete_msg(stream, sequence)  # a work queue holds what is to be done

    bus.on_durable(
        f"{subjects.MAX_DELIVERIES_ADVISORIES}.{stream}.{consumer}",
        stream=subjects.DEAD_LETTERS_STREAM,
        name=consumer_of_exhausted(consumer),
        concurrency=1,
    )(exhausted)
