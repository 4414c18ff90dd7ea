"""Errors at the bus boundary: exception → failure on the way out, failure → exception on the way in."""

import pydantic

from loopai_common.contracts.failure import ERROR_CODE_HEADER, ERROR_HEADER, Failure, FailureDetail
from loopai_common.errors import ERRORS_BY_CODE, Internal, LoopaiError, ValidationFailed, Violation


def violations_of(error: pydantic.ValidationError) -> list[Violation]:
    """Every violation that pydantic found, without the values that broke the rules."""
    # FastStream validates against a model named after the handler, whose parameter is the first step of each path.
    skipped = 1 if error.title[:1].islower() else 0
    found = []
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        message = str(item["msg"]).removeprefix("Value error, ")
        path = "/".join(map(str, item["loc"][skipped:]))
        found.append(Violation(path, message[:1].lower() + message[1:], str(item["type"])))
    return found


def as_loopai_error(error: Exception) -> LoopaiError | None:
    """``error`` as one that may be shown to a caller, or ``None`` when it is unforeseen."""
    if isinstance(error, LoopaiError):
        return error
    if isinstance(error, pydantic.ValidationError):
        return ValidationFailed("the message breaks its contract", details=violations_of(error))
    return None


def failure_of(error: LoopaiError) -> Failure:
    """The body that answers for ``error``."""
    return Failure(
        code=error.code,
        message=error.message,
        retryable=error.retryable,
        details=tuple(FailureDetail(field=d.field, message=d.message, code=d.code) for d in error.details),
    )


def failure_headers(error: LoopaiError) -> dict[str, str]:
    """NATS ADR-32 headers of a failed reply."""
    return {ERROR_HEADER: error.message.replace("\r", " ").replace("\n", " "), ERROR_CODE_HEADER: error.code}


def raise_failure(data: bytes) -> None:
    """Raises the error that a failed reply stands for."""
    try:
        failure = Failure.model_validate_json(data)
    except pydantic.ValidationError as error:
        raise Internal("another service failed and did not say how") from error
    raise error_of(failure)


def error_of(failure: Failure) -> LoopaiError:
    """The error that ``failure`` stands for."""
    kind = ERRORS_BY_CODE.get(failure.code, Internal)
    return kind(failure.message, details=[Violation(d.field, d.message, d.code) for d in failure.details])
