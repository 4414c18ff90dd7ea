"""Events on the bus: CloudEvents 1.0 in binary mode, attributes in headers, the data as the body."""

from datetime import datetime

from loopai_common.contracts import subjects
from loopai_common.contracts.base import format_timestamp


def event_headers(
    *, event_id: str, subject: str, service: str, about: str, at: datetime, correlation_id: str, traceparent: str
) -> dict[str, str]:
    """The CloudEvents attributes of an event on ``subject``, and what ties it to the request that caused it.

    ``about`` is the id of the task. The stream keeps one of any number of copies with the same ``event_id``.
    """
    return {
        "ce-specversion": "1.0",
        "ce-id": event_id,
        "ce-type": f"loopai.{'.'.join(subject.split('.')[3:])}.v1",
        "ce-source": f"/loopai/{service}",
        "ce-time": format_timestamp(at),
        "ce-subject": about,
        "content-type": "application/json",
        subjects.MESSAGE_ID_HEADER: event_id,
        subjects.CORRELATION_HEADER: correlation_id,
        subjects.TRACEPARENT_HEADER: traceparent,
    }
