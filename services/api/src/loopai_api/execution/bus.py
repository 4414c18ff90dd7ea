"""Carries frames over NATS: one reply inbox for all of them instead of a future, a task and a timer for each."""

import asyncio

from nats.aio.msg import Msg

from loopai_api.execution.engine import ExecutionEngine
from loopai_common.contracts import subjects
from loopai_common.runtime.broker import Bus

_NO_RESPONDERS = "503"


class BusFrameSender:
    """The :class:`~loopai_api.execution.engine.FrameSender` of a running service."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._inbox = ""
        self._engine: ExecutionEngine | None = None
        self._sends: set[asyncio.Task[None]] = set()

    @property
    def connected(self) -> bool:
        return self._bus.connected

    async def start(self, engine: ExecutionEngine) -> None:
        """Listens for answers; call after the bus has started."""
        self._engine = engine
        self._inbox = self._bus.client.new_inbox()
        await self._bus.client.subscribe(
            f"{self._inbox}.*", cb=self._on_message, pending_msgs_limit=-1, pending_bytes_limit=-1
        )

    def send(self, frame_id: int, payload: bytes, deadline: float) -> None:
        headers = {subjects.DEADLINE_HEADER: str(int(deadline * 1000))}
        task = asyncio.create_task(
            self._bus.client.publish(subjects.FRAMES, payload, reply=f"{self._inbox}.{frame_id}", headers=headers)
        )
        self._sends.add(task)
        task.add_done_callback(self._sent)

    def _sent(self, task: "asyncio.Task[None]") -> None:
        self._sends.discard(task)
        if not task.cancelled() and task.exception() is not None:
            # The engine's deadline answers for the frame; the connection's error callback has logged the cause.
            self._bus.metrics.errors.inc()

    async def _on_message(self, message: Msg) -> None:
        if self._engine is None:
            return
        frame_id = int(message.subject.rpartition(".")[2])
        if not message.data and message.headers and message.headers.get("Status") == _NO_RESPONDERS:
            self._engine.on_no_responders(frame_id)
        else:
            self._engine.on_part(frame_id, message.data)
