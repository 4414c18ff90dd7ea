"""What a failed request is answered with on the bus (NATS ADR-32 headers, and this body)."""

from loopai_common.contracts.base import Contract

ERROR_HEADER = "Nats-Service-Error"
ERROR_CODE_HEADER = "Nats-Service-Error-Code"


class FailureDetail(Contract):
    """One broken rule of the request."""

    field: str
    message: str
    code: str


class Failure(Contract):
    """Body of a failed reply: the same code as over HTTP, and whether trying again can help."""

    code: str
    message: str
    retryable: bool = False
    details: tuple[FailureDetail, ...] = ()
