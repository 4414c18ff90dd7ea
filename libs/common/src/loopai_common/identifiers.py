"""New ids: UUIDv7 (RFC 9562), so that they sort by the time of their making."""

from uuid import UUID

import uuid_utils


def new_uuid() -> UUID:
    """A UUIDv7 as the standard library's type."""
    return UUID(bytes=uuid_utils.uuid7().bytes)


def new_id() -> str:
    """A UUIDv7 in its canonical text form."""
    return str(uuid_utils.uuid7())
