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
    remedy: ClassVar[str] = "Report it with the `trace_id`, which the log has too."
    """What a caller can do about it; the class's docstring says what is wrong. Both make the list of codes."""

    def __init__(self, message: str, *, details: Sequence[Violation] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.details = tuple(details)


class ValidationFailed(LoopaiError):
    """The request breaks rules, each of which is listed."""

    code = "validation_error"
    remedy = "Correct every field that is listed, and send the request again."


class MalformedJson(LoopaiError):
    """The body is not one well-formed JSON value in UTF-8."""

    code = "malformed_json"
    remedy = "Send one JSON value in UTF-8: no NaN, no key twice, no number out of range."


class InputSchemaViolation(LoopaiError):
    """The input does not satisfy the task's input schema."""

    code = "input_schema_violation"
    remedy = "Correct the input at the paths that are listed; the task's `input_schema` says what it takes."


class ProgramRejected(LoopaiError):
    """The program cannot be accepted: it does not load, has no entry point, or fails its check."""

    code = "program_rejected"
    remedy = "Correct the program; the message says what the check found."


class TaskIdMismatch(LoopaiError):
    """The body names another task than the path."""

    code = "task_id_mismatch"
    remedy = "Leave `task_id` out of the body, or make it the task of the path."


class TaskNotFound(LoopaiError):
    """There is no such task."""

    code = "task_not_found"
    remedy = "Check the id or name; `GET /tasks` lists what there is."


class ArtifactNotFound(LoopaiError):
    """The task has no such version."""

    code = "artifact_not_found"
    remedy = "Name a version that `GET /tasks/{task}/artifacts` lists, or leave it out for the active one."


class ExecutionNotFound(LoopaiError):
    """No execution with this id was recorded."""

    code = "execution_not_found"
    remedy = "Only asynchronous and sampled executions are recorded, for 30 days; check the id."


class TaskArchived(LoopaiError):
    """The task was archived and no longer runs."""

    code = "task_archived"
    remedy = "Create a new task; an archived one does not come back."


class TaskAlreadyExists(LoopaiError):
    """Another task has this name."""

    code = "task_already_exists"
    remedy = "Choose another name, or use the task that has it."


class TaskNotReady(LoopaiError):
    """The task has no active version yet, or its generation failed."""

    code = "task_not_ready"
    remedy = "Wait until the task is `ready`; where it is `failed`, its `status_reason` says what to change."


class VersionConflict(LoopaiError):
    """Somebody else changed it first; read again and decide again."""

    code = "version_conflict"
    remedy = "Read the present state again, and decide again."
    retryable = True


class ActivationRefused(LoopaiError):
    """The version cannot be given this share of the executions, whoever asks and however often."""

    code = "activation_refused"
    remedy = "Activate a version that passed its check, or move the pointer as a whole; the message says which."


class PreconditionFailed(LoopaiError):
    """The task is not what the caller believes it to be; read it again and decide again."""

    code = "precondition_failed"
    remedy = "Read the task again, and decide again with its new `ETag`."


class IdempotencyKeyReused(LoopaiError):
    """The idempotency key was used before with another body."""

    code = "idempotency_key_reused"
    remedy = "Use a new key for a new request."


class PayloadTooLarge(LoopaiError):
    """The message is larger than the limit."""

    code = "body_too_large"
    remedy = "Send less at a time; large batches go as `application/x-ndjson`."


class GeneratorFailed(LoopaiError):
    """The generator answered with a failure, or with something that is no program."""

    code = "generator_failed"
    remedy = "Try again later; the log of the generator-proxy has what the generator said."


class GeneratorUnavailable(GeneratorFailed):
    """The generator could not be reached or did not answer in time."""

    retryable = True

    def __init__(
        self, message: str, *, details: Sequence[Violation] = (), retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(message, details=details)
        self.retry_after_seconds = retry_after_seconds
        """After which time asking again makes sense, where that is known."""


class NoExecutor(LoopaiError):
    """No executor is listening."""

    code = "no_executor"
    remedy = "Try again shortly; if it stays, start an executor."
    retryable = True


class NoGeneratorProxy(LoopaiError):
    """No generator-proxy is listening."""

    code = "no_generator_proxy"
    remedy = "Try again shortly; if it stays, start a generator-proxy."
    retryable = True


class StoreUnavailable(LoopaiError):
    """The artifact store, or the storage behind it, does not answer."""

    code = "store_unavailable"
    remedy = "Try again shortly; if it stays, `/health/ready` says what is away."
    retryable = True


class Overloaded(LoopaiError):
    """The bound on pending work is reached; try again later."""

    code = "overloaded"
    remedy = "Wait as long as `Retry-After` says, then send more slowly."
    retryable = True


class ShuttingDown(LoopaiError):
    """This instance is stopping; another one will answer."""

    code = "shutting_down"
    remedy = "Try again; another instance answers."
    retryable = True


class DeadlineExceeded(LoopaiError):
    """The time the caller gave is used up."""

    code = "deadline_exceeded"
    remedy = "Try again, with more time where the request can ask for it."
    retryable = True


class BusUnavailable(LoopaiError):
    """There is no connection to NATS."""

    code = "bus_unavailable"
    remedy = "Try again shortly; if it stays, see whether NATS runs."
    retryable = True


class ArtifactCorrupt(LoopaiError):
    """Stored bytes do not match their digest; they are never served."""

    code = "artifact_corrupt"
    remedy = "Restore the store from a copy, or activate another version."


class Internal(LoopaiError):
    """Something unforeseen happened; the log of the service has the cause."""

    code = "internal"


def kinds_by_code(*packages: str, root: type[LoopaiError] = LoopaiError) -> dict[str, type[LoopaiError]]:
    """Code → class of the errors that these packages have defined by now."""
    found: dict[str, type[LoopaiError]] = {}
    for kind in root.__subclasses__():
        found.update(kinds_by_code(*packages, root=kind))
        if kind.__module__.partition(".")[0] in packages:
            found[kind.code] = kind  # a parent wins over the children that share its code
    return found


def summary_of(kind: type[LoopaiError]) -> str:
    """What is wrong when this error is raised, in one sentence."""
    return " ".join((kind.__doc__ or kind.code).split()).replace("``", "`")


ERRORS_BY_CODE: Mapping[str, type[LoopaiError]] = kinds_by_code("loopai_common")
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
