"""Events on JetStream as CloudEvents 1.0 in binary mode: attributes in headers, the data as the body."""

from nats.errors import Error as NatsError

from loopai_artifact_store.domain import Event
from loopai_common.contracts import subjects
from loopai_common.contracts.base import format_timestamp
from loopai_common.errors import BusUnavailable
from loopai_common.runtime.broker import Bus

_SOURCE = "/loopai/artifact-store"
_ACKNOWLEDGED_WITHIN_SECONDS = 5.0


class JetStreamEvents:
    """Publishes with the event's id as ``Nats-Msg-Id``, so that the stream keeps one of any number of copies."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def publish(self, event: Event) -> None:
        if not self._bus.connected:
            raise BusUnavailable("not connected to NATS")
        try:
            await self._bus.jetstream.publish(
                event.subject,
                event.body.encode(),
                timeout=_ACKNOWLEDGED_WITHIN_SECONDS,
                headers=headers_of(event),
            )
        except NatsError as error:
            raise BusUnavailable(f"the event was not acknowledged: {type(error).__name__}") from error


def headers_of(event: Event) -> dict[str, str]:
    """The CloudEvents attributes, and what ties the event to the request that caused it."""
    return {
        "ce-specversion": "1.0",
        "ce-id": event.id,
        "ce-type": f"loopai.{'.'.join(event.subject.split('.')[3:])}.v1",
        "ce-source": _SOURCE,
        "ce-time": format_timestamp(event.origin.at),
        "ce-subject": str(event.task_id),
        "content-type": "application/json",
        subjects.MESSAGE_ID_HEADER: event.id,
        subjects.CORRELATION_HEADER: event.origin.correlation_id,
        subjects.TRACEPARENT_HEADER: event.origin.traceparent,
    }
