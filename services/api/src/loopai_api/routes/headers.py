"""Request headers that several routes understand, and how they are documented."""

import re
from typing import Any, Final

from starlette.requests import Request

from loopai_api.problems import broken_rules
from loopai_common.errors import Violation

MAX_WAIT_SECONDS: Final = 60
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_WAIT = re.compile(r"(?:^|,)\s*wait\s*=\s*\"?([0-9]{1,6})\"?\s*(?:$|[,;])", re.IGNORECASE)

IDEMPOTENCY_KEY: Final[dict[str, Any]] = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "Makes a retry safe: the same key with the same body answers with what the first request made.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}
IF_MATCH: Final[dict[str, Any]] = {
    "name": "If-Match",
    "in": "header",
    "description": "An `ETag` of the task: 412 when it was changed since. `*` stands for any.",
    "schema": {"type": "string", "examples": ['"2"']},
}
ETAG: Final[dict[str, Any]] = {
    "ETag": {"description": "Changes with every change of the task.", "schema": {"type": "string"}}
}


def idempotency_key(request: Request) -> str | None:
    """The caller's key; raises :class:`ValidationFailed` for one that cannot be kept."""
    key = request.headers.get("idempotency-key")
    if key is not None and _IDEMPOTENCY_KEY.fullmatch(key) is None:
        rule = Violation("Idempotency-Key", "must be 1 to 255 visible ASCII characters", "invalid_header")
        raise broken_rules([rule])
    return key


def wait_seconds(request: Request) -> int:
    """How long ``Prefer: wait=N`` asks to wait, 0 without it."""
    found = _WAIT.search(request.headers.get("prefer", ""))
    return min(int(found[1]), MAX_WAIT_SECONDS) if found else 0
