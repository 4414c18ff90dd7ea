"""Every subject of the bus, and the grammar of the tokens that come from outside.

``rpc`` is request/reply on core NATS, ``cmd`` a work queue, ``evt`` facts that happened, ``dlq`` what could not be
handled. The ``v1`` token is the version of the contract.
"""

import re
from typing import Final

# Requests: somebody waits for the answer.
TASKS_CREATE: Final = "loopai.rpc.v1.tasks.create"
TASKS_GET: Final = "loopai.rpc.v1.tasks.get"
TASKS_LIST: Final = "loopai.rpc.v1.tasks.list"
TASKS_FAIL: Final = "loopai.rpc.v1.tasks.fail"
TASKS_UPDATE: Final = "loopai.rpc.v1.tasks.update"
TASKS_ARCHIVE: Final = "loopai.rpc.v1.tasks.archive"
TASKS_GENERATE: Final = "loopai.rpc.v1.tasks.generate"
GENERATIONS_GET: Final = "loopai.rpc.v1.generations.get"
ARTIFACTS_PUBLISH: Final = "loopai.rpc.v1.artifacts.publish"
ARTIFACTS_ACTIVATE: Final = "loopai.rpc.v1.artifacts.activate"
ARTIFACTS_LIST: Final = "loopai.rpc.v1.artifacts.list"
ARTIFACTS_GET: Final = "loopai.rpc.v1.artifacts.get"
ARTIFACTS_ACTIVATIONS: Final = "loopai.rpc.v1.artifacts.activations"
ARTIFACTS_RESOLVE: Final = "loopai.rpc.v1.artifacts.resolve"
ARTIFACTS_RESOLVE_MANY: Final = "loopai.rpc.v1.artifacts.resolve_many"
PROGRAMS_FETCH: Final = "loopai.rpc.v1.programs.fetch"
PROGRAMS_CHECK: Final = "loopai.rpc.v1.programs.check"
PROGRAMS_SUBMIT: Final = "loopai.rpc.v1.programs.submit"
EXECUTE: Final = "loopai.rpc.v1.execute"
EXECUTE_ALL: Final = "loopai.rpc.v1.execute.*.*"
FRAMES: Final = "loopai.rpc.v1.frames"
EXECUTIONS_ACCEPT: Final = "loopai.rpc.v1.executions.accept"
EXECUTIONS_GET: Final = "loopai.rpc.v1.executions.get"
EXECUTIONS_LIST: Final = "loopai.rpc.v1.executions.list"
PING: Final = "loopai.rpc.v1.ping"

# Commands: must not be lost.
TASK_CREATE_COMMAND: Final = "loopai.cmd.v1.task.create"
TASK_GENERATE_COMMAND: Final = "loopai.cmd.v1.task.generate"
EXECUTE_COMMAND: Final = "loopai.cmd.v1.execute"

# Events: facts.
TASK_CREATED: Final = "loopai.evt.v1.task.created"
TASK_UPDATED: Final = "loopai.evt.v1.task.updated"
TASK_FAILED: Final = "loopai.evt.v1.task.failed"
TASK_ARCHIVED: Final = "loopai.evt.v1.task.archived"
ARTIFACT_PUBLISHED: Final = "loopai.evt.v1.artifact.published"
ARTIFACT_ACTIVATED: Final = "loopai.evt.v1.artifact.activated"
ARTIFACT_ROLLED_BACK: Final = "loopai.evt.v1.artifact.rolled_back"
EXECUTION_COMPLETED: Final = "loopai.evt.v1.execution.completed"

COMMANDS_STREAM: Final = "LOOPAI_COMMANDS"
COMMANDS_ALL: Final = "loopai.cmd.v1.>"
EVENTS_STREAM: Final = "LOOPAI_EVENTS"
EVENTS_ALL: Final = ("loopai.evt.v1.task.>", "loopai.evt.v1.artifact.>")
EXECUTIONS_STREAM: Final = "LOOPAI_EXECUTIONS"
EXECUTIONS_ALL: Final = "loopai.evt.v1.execution.>"
DEAD_LETTERS_STREAM: Final = "LOOPAI_DEAD_LETTERS"
DEAD_LETTERS_ALL: Final = "loopai.dlq.v1.>"
MAX_DELIVERIES_ADVISORIES: Final = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES"

CORRELATION_HEADER: Final = "X-Correlation-ID"
DEADLINE_HEADER: Final = "Loopai-Deadline"
TRACEPARENT_HEADER: Final = "traceparent"
MESSAGE_ID_HEADER: Final = "Nats-Msg-Id"
BURIED_SUBJECT_HEADER: Final = "Loopai-Dead-Letter-Subject"
BURIED_DELIVERIES_HEADER: Final = "Loopai-Dead-Letter-Deliveries"
REPLAY_HEADER: Final = "Loopai-Replay-Of"
"""On a message that an operator put back: the sequence of its dead letter."""

ACTIVE: Final = "active"
MAX_PAYLOAD_BYTES: Final = 8 * 1024 * 1024

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,200}")


class InvalidToken(ValueError):
    """A value from outside that must not become part of a subject."""


def token(value: str) -> str:
    """Returns ``value`` when it can stand as one token of a subject; else raises :class:`InvalidToken`."""
    if _TOKEN.fullmatch(value) is None:
        raise InvalidToken("a subject token holds 1 to 200 letters, digits, '_' or '-'")
    return value


def execute(task: str, version: int | None) -> str:
    """The subject on which an executor runs ``version`` (``None``: the active one) of ``task`` (an id or a name)."""
    return f"{EXECUTE}.{token(task)}.{ACTIVE if version is None else version}"


def ping(service: str) -> str:
    """The subject on which the instances of ``service`` answer that they are there."""
    return f"{PING}.{token(service)}"


def dead_letter(subject: str) -> str:
    """Where a message of ``subject`` goes that could not be handled."""
    return DEAD_LETTERS_ALL.replace(">", subject.removeprefix("loopai."))


def buried_subject(letter: str) -> str:
    """The subject of the message that a dead letter on the subject ``letter`` was."""
    return f"loopai.{letter.removeprefix(DEAD_LETTERS_ALL.removesuffix('>'))}"
