"""Records of executions on JetStream, as events."""

from datetime import datetime
from typing import Final

from nats.errors import Error as NatsError

from loopai_common.contracts import subjects
from loopai_common.contracts.execution import EncodedRecord
from loopai_common.errors import BusUnavailable
from loopai_common.runtime import context
from loopai_common.runtime.broker import Bus, sending
from loopai_common.runtime.events import event_headers
from loopai_executor.recording import encode_record

_ACKNOWLEDGED_WITHIN_SECONDS: Final = 5.0
_HEADER_BYTES: Final = 4096


class JetStreamRecords:
    """A :class:`~loopai_executor.ports.RecordPublisher`: the execution's id is the event's, so copies are one event.

    What is being published counts as in flight on the bus, so that a drain waits for it.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def publish(self, record: EncodedRecord) -> None:
        """As the port says."""
        if not self._bus.connected:
            raise BusUnavailable("not connected to NATS")
        body = encode_record(record, self._bus.max_payload_bytes - _HEADER_BYTES)
        with context.bound(_origin(record)), sending(subjects.EXECUTION_COMPLETED, record.id):
            await self._publish(record, body)

    async def _publish(self, record: EncodedRecord, body: bytes) -> None:
        self._bus.in_flight += 1
        try:
            await self._bus.jetstream.publish(
                subjects.EXECUTION_COMPLETED, body, timeout=_ACKNOWLEDGED_WITHIN_SECONDS, headers=_headers_of(record)
            )
        except NatsError as error:
            raise BusUnavailable(f"the record was not acknowledged: {type(error).__name__}") from error
        finally:
            self._bus.in_flight -= 1


def _origin(record: EncodedRecord) -> context.RequestContext:
    current = context.current()
    if current.correlation_id == record.correlation_id:
        return current
    return context.new_context(correlation_id=record.correlation_id)


def _headers_of(record: EncodedRecord) -> dict[str, str]:
    origin = context.current()
    return event_headers(
        event_id=record.id,
        subject=subjects.EXECUTION_COMPLETED,
        service="executor",
        about=record.task_id or record.id,
        at=datetime.fromisoformat(record.executed_at),
        correlation_id=origin.correlation_id,
        traceparent=origin.traceparent,
    )
