"""Messages in, service calls, results out."""

from functools import partial
from typing import Any, Final

import msgspec
from faststream.message import StreamMessage
from faststream.nats import NatsResponse
from nats.aio.msg import Msg

from loopai_common.contracts import subjects
from loopai_common.contracts.artifacts import ArtifactActivated
from loopai_common.contracts.execution import CheckProgram, CheckReport
from loopai_common.contracts.tasks import TaskArchived, TaskUpdated
from loopai_common.errors import PayloadTooLarge, ValidationFailed
from loopai_common.runtime import context
from loopai_common.runtime.broker import Bus, message_id
from loopai_executor.commands import CommandService
from loopai_executor.service import CHECK_SECONDS, ExecutionService

_CONCURRENT_REQUESTS: Final = 256
_CONCURRENT_COMMANDS: Final = 64
_COMMANDS_IN_FLIGHT: Final = 1024
_COMMAND_DELIVERIES: Final = 20
"""A quarter of an hour: an accepted execution outlives a store that is away, or executors without room."""
COMMANDS_CONSUMER: Final = "executor-execute"
_JSON: Final = {"content-type": "application/json"}
_encode = msgspec.json.Encoder().encode


def register(bus: Bus, service: ExecutionService, commands: CommandService) -> None:
    """Declares what the executor listens to."""
    broker, queue = bus.broker, bus.service

    @broker.subscriber(subjects.EXECUTE_ALL, queue=queue, decoder=_undecoded, max_workers=_CONCURRENT_REQUESTS)
    async def execute(raw: Any) -> NatsResponse:
        task, version = _reference(raw.subject)
        result = await service.execute(task, version, raw.data, deadline=context.current().deadline)
        body = _encode(result)
        if len(body) > bus.max_payload_bytes:
            raise PayloadTooLarge("the answer is larger than one message may be; send fewer executions at a time")
        return NatsResponse(body, headers=_JSON)

    def frames(message: Msg) -> None:
        if not message.reply:
            raise ValidationFailed("a frame without a reply subject cannot be answered")
        service.run_frame(message.data, message.reply, deadline=context.deadline_in(message.headers))

    bus.on_raw(subjects.FRAMES, frames)

    @bus.on_durable(
        subjects.EXECUTE_COMMAND,
        stream=subjects.COMMANDS_STREAM,
        name=COMMANDS_CONSUMER,
        concurrency=_CONCURRENT_COMMANDS,
        in_flight=_COMMANDS_IN_FLIGHT,
        deliveries=_COMMAND_DELIVERIES,
        decoder=_undecoded,
    )
    async def run_command(raw: Any) -> None:
        await commands.run(raw.data, message_id(raw), partial(bus.gives_up_on, raw))

    @bus.on(subjects.PROGRAMS_CHECK, concurrency=8)
    async def check(command: CheckProgram) -> CheckReport:
        return await service.check(command, seconds=context.seconds_left(CHECK_SECONDS))

    @bus.on_every_instance(subjects.ARTIFACT_ACTIVATED)
    async def activated(event: ArtifactActivated) -> None:
        await service.follow(event)

    @bus.on_every_instance(subjects.TASK_UPDATED)
    async def updated(event: TaskUpdated) -> None:
        service.follow_task(event)

    @bus.on_every_instance(subjects.TASK_ARCHIVED)
    async def archived(event: TaskArchived) -> None:
        service.follow_task(event)


async def _undecoded(message: StreamMessage[Msg]) -> Msg:
    """Gives the handler the message itself: inputs are for the worker to decode.

    A parameter of type ``NatsMessage`` would do the same and cost a trip to a thread for each message (fast_depends
    solves every ``Context`` there).
    """
    return message.raw_message


def _reference(subject: str) -> tuple[str, int | None]:
    """The task and the version that the last two tokens of a subject name."""
    task, version = subject.rsplit(".", 2)[1:]
    if version == subjects.ACTIVE:
        return task, None
    if not (version.isascii() and version.isdigit()) or not 1 <= int(version) < 2**31:
        raise ValidationFailed(f"the last token of the subject is a version number or {subjects.ACTIVE!r}")
    return task, int(version)
