"""Teaches schemathesis to send lines of JSON, whose schema describes them as one text."""

from typing import Any

import schemathesis
from schemathesis import SerializationContext


@schemathesis.serializer("application/x-ndjson")
def lines(ctx: SerializationContext, value: Any) -> Any:
    """The text as it is; anything else (a body that breaks the schema) as its representation."""
    return value.encode() if isinstance(value, str) else repr(value).encode()
