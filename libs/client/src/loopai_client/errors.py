"""What the client raises: one class for each kind of failure, all of them :class:`LoopaiError`."""

import json
from collections.abc import Sequence
from typing import Any, ClassVar

from loopai_common.errors import ERRORS_BY_CODE, Violation, violations_from

Detail = Violation
"""One broken rule: where, what to do, and the name of the rule."""

_TEMPORARY = frozenset({429, 503, 504})


class LoopaiError(Exception):
    """Base of what the client raises. ``code`` is stable, ``message`` and ``details`` say what to do.

    ``status`` and ``trace_id`` (what to look for in the logs) are ``None`` where no server said them; ``retryable``
    tells whether the same call can succeed later.
    """

    code: str = "client_error"
    status: int | None = None
    trace_id: str | None = None
    details: tuple[Detail, ...] = ()
    retryable: bool = False

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Unreachable(LoopaiError):
    """Nobody answers at the URL, or not to the end."""

    code = "unreachable"
    retryable = True


class TimedOut(Unreachable):
    """The call's time is used up; whether it was carried out is not known."""

    code = "timed_out"


class ApiError(LoopaiError):
    """The API answered with an error."""

    def __init__(
        self, status: int, code: str, message: str, details: Sequence[Detail] = (), trace_id: str | None = None
    ) -> None:
        super().__init__(message)
        known = ERRORS_BY_CODE.get(code)
        self.status = status
        self.code = code
        self.details = tuple(details)
        self.trace_id = trace_id
        self.retryable = status in _TEMPORARY if known is None else known.retryable

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class InvalidRequest(ApiError):
    """The request breaks rules, or its input does not satisfy the task's schema; ``details`` says where."""


class NotAllowed(ApiError):
    """The API key is missing, unknown, or may not do this."""


class NotFound(ApiError):
    """There is no such task, version or execution."""


class TaskGone(ApiError):
    """The task was archived."""


class Conflict(ApiError):
    """The state is not what the call needs: a name is taken, a task not ready, or somebody was faster."""


class RateLimited(ApiError):
    """The API key's requests come too fast."""


class Unavailable(ApiError):
    """The API, or a service behind it, cannot answer now."""


class ServerFault(ApiError):
    """Something unforeseen happened at the server; its log has the cause under ``trace_id``."""


class UnexpectedAnswer(ApiError):
    """What answered is not Loopai; is the URL right?"""

    CODE: ClassVar = "unexpected_answer"

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, self.CODE, message)


_FAMILIES: dict[int, type[ApiError]] = {
    401: NotAllowed,
    403: NotAllowed,
    404: NotFound,
    409: Conflict,
    410: TaskGone,
    412: Conflict,
    429: RateLimited,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}


def api_error(status: int, reason: str, body: bytes) -> ApiError:
    """The error that an answer tells; of a foreign server, what can be told."""
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict) or "code" not in told:
        return UnexpectedAnswer(status, f"HTTP {status} {reason}".rstrip())
    family = _FAMILIES.get(status, InvalidRequest if status < 500 else ServerFault)
    return family(
        status, str(told["code"]), _text(told.get("message")), violations_from(told.get("details")), _trace(told)
    )


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _trace(told: dict[str, Any]) -> str | None:
    trace_id = told.get("trace_id")
    return None if trace_id is None else str(trace_id)
