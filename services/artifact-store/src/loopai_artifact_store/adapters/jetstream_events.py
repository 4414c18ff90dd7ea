"""Events of the outbox on JetStream."""

from nats.errors import Error as NatsError

from loopai_artifact_store.domain import Event
from loopai_common.errors import BusUnavailable
from loopai_common.runtime import context
from loopai_common.runtime.broker import Bus, sending
from loopai_common.runtime.events import event_headers

_ACKNOWLEDGED_WITHIN_SECONDS = 5.0


class JetStreamEvents:
    """Publishes with the event's id as ``Nats-Msg-Id``, so that the stream keeps one of any number of copies."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def publish(self, event: Event) -> None:
        if not self._bus.connected:
            raise BusUnavailable("not connected to NATS")
        cause = context.new_context(correlation_id=event.origin.correlation_id, traceparent=event.origin.traceparent)
        with context.bound(cause), sending(event.subject, event.id):
            await self._publish(event, headers_of(event, context.current().traceparent))

    async def _publish(self, event: Event, headers: dict[str, str]) -> None:
        try:
            await self._bus.jetstream.publish(
                event.subject, event.body.encode(), timeout=_ACKNOWLEDGED_WITHIN_SECONDS, headers=headers
            )
        except NatsError as error:
            raise BusUnavailable(f"the event was not acknowledged: {type(error).__name__}") from error


def headers_of(event: Event, traceparent: str) -> dict[str, str]:
    """The CloudEvents attributes of the event, and its place in the trace of what caused it."""
    return event_headers(
        event_id=event.id,
        subject=event.subject,
        service="artifact-store",
        about=str(event.task_id),
        at=event.origin.at,
        correlation_id=event.origin.correlation_id,
        traceparent=traceparent,
    )
