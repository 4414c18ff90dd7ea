"""Where an event comes from: the present moment, within the request that is being worked on."""

from datetime import UTC, datetime

from loopai_artifact_store.domain import Origin
from loopai_common.runtime import context


def current_origin() -> Origin:
    """The origin of what happens now."""
    current = context.current()
    return Origin(datetime.now(UTC), current.correlation_id, current.traceparent)
