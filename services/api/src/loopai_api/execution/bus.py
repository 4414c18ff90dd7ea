"""Carries executions over NATS: frames with one reply inbox for all of them, instead of a future, a task and a timer
for each; and commands, which the work queue keeps.
"""

import msgspec
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.errors import APIError

from loopai_api.execution.engine import ExecutionEngine
from loopai_common.contracts import subjects
from loopai_common.contracts.execution import ExecuteCommand
from loopai_common.errors import BusUnavailable, Overloaded
from loopai_common.runtime import context
from loopai_common.runtime.broker import Bus, sending

_NO_RESPONDERS = "503"
_STREAM_FULL = 10077
_ACKNOWLEDGED_WITHIN_SECONDS = 5.0
_encode = msgspec.json.Encoder().encode


class BusFrameSender:
    """The :class:`~loopai_api.execution.engine.FrameSender` of a running service."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._inbox = ""

    @property
    def connected(self) -> bool:
        return self._bus.connected

    async def start(self, engine: ExecutionEngine) -> None:
        """Listens for answers; call after the bus has started."""
        self._inbox = self._bus.client.new_inbox()

        def take(message: Msg) -> None:
            frame_id = int(message.subject.rpartition(".")[2])
            if not message.data and message.headers and message.headers.get("Status") == _NO_RESPONDERS:
                engine.on_no_responders(frame_id)
            else:
                engine.on_part(frame_id, message.data)

        await self._bus.listen(f"{self._inbox}.*", take)

    def send(self, frame_id: int, payload: bytes, deadline: float) -> None:
        headers = {subjects.DEADLINE_HEADER: str(int(deadline * 1000))}
        self._bus.send(subjects.FRAMES, payload, reply=f"{self._inbox}.{frame_id}", headers=headers)


class BusCommandQueue:
    """The :class:`~loopai_api.execution.asynchronous.CommandQueue` of a running service."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def send(self, command: ExecuteCommand) -> None:
        with sending(subjects.EXECUTE_COMMAND, command.execution_id or ""):
            await self._publish(command)

    async def _publish(self, command: ExecuteCommand) -> None:
        headers = context.to_headers(context.current())
        if command.execution_id is not None:
            headers[subjects.MESSAGE_ID_HEADER] = command.execution_id
        try:
            await self._bus.jetstream.publish(
                subjects.EXECUTE_COMMAND, _encode(command), timeout=_ACKNOWLEDGED_WITHIN_SECONDS, headers=headers
            )
        except NatsError as error:
            if isinstance(error, APIError) and error.err_code == _STREAM_FULL:
                raise Overloaded("too many asynchronous executions are waiting; try again later") from error
            raise BusUnavailable(f"the execution was not queued ({type(error).__name__}); try again") from error
