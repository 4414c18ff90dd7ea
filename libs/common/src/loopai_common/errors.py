"""Every deliberate error of Loopai, with its code and whether trying again can help.

The code is the contract: it travels in HTTP bodies, in NATS replies and in logs. A code never changes its
meaning. HTTP statuses are no business of this module; ``loopai_api.problems`` maps codes to them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken rule: ``field`` is a JSON-pointer-like path, ``message`` says what to do, ``code`` names the rule."""

    field: str
    message: str
    code: str


class LoopaiError(Exception):
    """Base of all deliberate errors. ``message`` is safe to show to a caller: it never holds inputs, code or keys."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, details: Sequence[Violation] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.details = tuple(details)


class ValidationFailed(LoopaiError):
    """The request breaks rules; ``details`` lists every violation."""

    code = "validation_error"


class MalformedJson(LoopaiError):
    """The body is not one well-formed JSON value in UTF-8."""

    code = "malformed_json"


class InputSchemaViolation(LoopaiError):
    """The input does not satisfy the task's input schema."""

    code = "input_schema_violation"


class ProgramRejected(LoopaiError):
    """The program cannot be accepted: it does not load, has no entry point, or fails its check."""

    code = "program_rejected"


class TaskIdMismatch(LoopaiError):
    """The body names another task than the path."""

    code = "task_id_mismatch"


class TaskNotFound(LoopaiError):
    """There is no such task."""

    code = "task_not_found"


class ArtifactNotFound(LoopaiError):
    """The task has no such version."""

    code = "artifact_not_found"


class ExecutionNotFound(LoopaiError):
    """No execution with this id was recorded."""

    code = "execution_not_found"


class TaskArchived(LoopaiError):
    """The task was archived and no longer runs."""

    code = "task_archived"


class TaskAlreadyExists(LoopaiError):
    """Another task has this name."""

    code = "task_already_exists"


class TaskNotReady(LoopaiError):
    """The task has no active version yet, or its generation failed."""

    code = "task_not_ready"


class VersionConflict(LoopaiError):
    """Somebody else changed it first; read again and decide again."""

    code = "version_conflict"
    retryable = True


class ActivationRefused(LoopaiError):
    """The version cannot be given this share of the executions, whoever asks and however often."""

    code = "activation_refused"


class PreconditionFailed(LoopaiError):
    """The task is not what the caller believes it to be; read it again and decide again."""

    code = "precondition_failed"


class IdempotencyKeyReused(LoopaiError):
    """The idempotency key was used before with another body."""

    code = "idempotency_key_reused"


class PayloadTooLarge(LoopaiError):
    """The message is larger than the limit."""

    code = "body_too_large"


class GeneratorFailed(LoopaiError):
    """The generator answered with a failure, or with something that is no program."""

    code = "generator_failed"


class GeneratorUnavailable(GeneratorFailed):
    """The generator could not be reached or did not answer in time."""

    retryable = True


class NoExecutor(LoopaiError):
    """No executor is listening."""

    code = "no_executor"
    retryable = True


class StoreUnavailable(LoopaiError):
    """The artifact store, or the storage behind it, does not answer."""

    code = "store_unavailable"
    retryable = True


class Overloaded(LoopaiError):
    """The bound on pending work is reached; try again later."""

    code = "overloaded"
    retryable = True


class ShuttingDown(LoopaiError):
    """This instance is stopping; another one will answer."""

    code = "shutting_down"
    retryable = True


class DeadlineExceeded(LoopaiError):
    """The time the caller gave is used up."""

    code = "deadline_exceeded"
    retryable = True


class BusUnavailable(LoopaiError):
    """There is no connection to NATS."""

    code = "bus_unavailable"
    retryable = True


class ArtifactCorrupt(LoopaiError):
    """Stored bytes do not match their digest; they are never served."""

    code = "artifact_corrupt"


class Internal(LoopaiError):
    """Something unforeseen happened; the log of the service has the cause."""

    code = "internal"


def _concrete(root: type[LoopaiError]) -> dict[str, type[LoopaiError]]:
    found: dict[str, type[LoopaiError]] = {}
    for kind in root.__subclasses__():
        found.update(_concrete(kind))
        found[kind.code] = kind  # a parent wins over the children that share its code
    return found


ERRORS_BY_CODE: Mapping[str, type[LoopaiError]] = _concrete(LoopaiError)
"""Code → class, for turning a failure received from the bus back into the error that was raised."""


def violations_from(details: Any) -> tuple[Violation, ...]:
    """Reads violations from the ``details`` of a received failure; anything of another shape is dropped."""
    if not isinstance(details, list):
        return ()
    return tuple(
        Violation(str(d["field"]), str(d["message"]), str(d["code"]))
        for d in details
        if isinstance(d, dict) and {"field", "message", "code"} <= d.keys()
    )
