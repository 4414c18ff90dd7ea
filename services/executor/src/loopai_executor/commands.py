"""Asynchronous executions: what a command asks for is run, and how that ended becomes a record."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final
from uuid import UUID, uuid5

import msgspec

from loopai_common import json_text
from loopai_common.contracts.base import format_timestamp
from loopai_common.contracts.execution import EncodedRecord, ExecuteCommand, Execution, ExecutionResult, RecordStatus
from loopai_common.contracts.tasks import task_id_or_none
from loopai_common.errors import Internal, LoopaiError, MalformedJson, Overloaded, ValidationFailed
from loopai_common.runtime import context
from loopai_executor.ports import ProgramPool, RecordPublisher
from loopai_executor.recording import NULL
from loopai_executor.service import ExecutionService

_ROOM_SECONDS: Final = 5.0
_ROOM_POLL_SECONDS: Final = 0.05
_UNNAMED: Final = UUID("5f2c7a0e-8d1b-4c58-9a35-3f1d6d0f5c11")

_decode = msgspec.json.Decoder(ExecuteCommand).decode


class _Named(msgspec.Struct):
    """What says which execution a broken command was about."""

    execution_id: str | None = None
    task: str | None = None


class CommandService:
    """Runs commands while the executions that somebody waits for leave room: up to half of ``max_queued_items``."""

    def __init__(
        self, executions: ExecutionService, pool: ProgramPool, records: RecordPublisher, *, max_queued_items: int
    ) -> None:
        self._executions = executions
        self._pool = pool
        self._records = records
        self._busy_items = max(max_queued_items // 2, 1)

    async def run(self, body: bytes, message_id: str, gives_up: Callable[[LoopaiError], bool]) -> None:
        """Runs what the command asks for; returns when the record of its end is stored on the bus.

        ``message_id`` is the same for every delivery of the command. What keeps the program from running ends in a
        record, too. Raised is what may pass, so that the command comes again; when the bus ``gives_up`` on it, there
        is a record all the same.
        """
        command: ExecuteCommand | None = None
        try:
            command = _command(body)
            await self._room()
            result = await self._executions.execute_one(
                command.task,
                command.version,
                Execution(command.input, command.timeout_ms, command.force_validation, command.execution_id),
            )
        except LoopaiError as error:
            if not gives_up(error):
                raise
            await self._records.publish(_refused(command or _named(body), message_id, error))
            if error.retryable or isinstance(error, Internal):
                raise
        else:
            await self._records.publish(_completed(command, message_id, result))

    async def _room(self) -> None:
        """Waits while the pool is busy. A command that waits here is one that keeps another from being pulled."""
        give_up = time.monotonic() + _ROOM_SECONDS
        while self._pool.queued >= self._busy_items:
            if time.monotonic() >= give_up:
                raise Overloaded("the executor is busy with executions that somebody waits for; try again later")
            await asyncio.sleep(_ROOM_POLL_SECONDS)


def _command(body: bytes) -> ExecuteCommand:
    try:
        command = _decode(body)
    except msgspec.ValidationError as error:
        raise ValidationFailed(f"the command breaks its contract: {error}") from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise MalformedJson("the command is not one JSON object") from error
    json_text.check(body)  # as strict as the HTTP side: no NaN, no key twice
    return command


def _named(body: bytes) -> ExecuteCommand:
    """A command that breaks its contract, as far as it says which execution it is about."""
    try:
        named = msgspec.json.decode(body, type=_Named)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        named = _Named()
    return ExecuteCommand(named.task or "", NULL, named.execution_id)


def _completed(command: ExecuteCommand, message_id: str, result: ExecutionResult) -> EncodedRecord:
    return EncodedRecord(
        id=_id_of(command, message_id),
        task_id=result.task_id,
        program_id=result.program_id,
        version=result.version,
        input=command.input,
        output=result.output,
        status=RecordStatus(result.status.value),
        error_code=result.error_code,
        error_message=result.error_message,
        latency_ms=result.latency_ms,
        sampled_for_validation=result.sampled_for_validation,
        executed_at=result.executed_at,
        correlation_id=context.current().correlation_id,
    )


def _refused(command: ExecuteCommand, message_id: str, error: LoopaiError) -> EncodedRecord:
    return EncodedRecord(
        id=_id_of(command, message_id),
        task_id=command.task if task_id_or_none(command.task) is not None else None,
        version=command.version,
        input=command.input,
        output=NULL,
        status=RecordStatus.ERROR,
        error_code=error.code,
        error_message=_sentence(error),
        executed_at=format_timestamp(datetime.now(UTC)),
        correlation_id=context.current().correlation_id,
    )


def _id_of(command: ExecuteCommand, message_id: str) -> str:
    """The execution's id; one made from the message, when the command names none that is an id."""
    named = command.execution_id
    return named if named and task_id_or_none(named) is not None else str(uuid5(_UNNAMED, message_id))


def _sentence(error: LoopaiError) -> str:
    """The error with the rules it names: a record has no place of its own for these."""
    rules = "; ".join(f"{detail.field} {detail.message}".strip() for detail in error.details)
    return f"{error.message}: {rules}" if rules else error.message
