"""The use case of executions that run later: accepted here, carried by the work queue, shown by their records."""

from typing import Protocol

from loopai_api.clients import StoreClient
from loopai_api.execution.requests import ExecuteBody
from loopai_common.contracts.base import ExecutionId, Version
from loopai_common.contracts.execution import AcceptExecution, ExecuteCommand, ExecutionRecord
from loopai_common.identifiers import new_uuid


class CommandQueue(Protocol):
    """Where commands to execute go."""

    async def send(self, command: ExecuteCommand) -> None:
        """Returns when the command is stored; raises ``BusUnavailable``, and ``Overloaded`` when there is no room."""


class AsynchronousExecutions:
    """Accepts executions durably."""

    def __init__(self, store: StoreClient, queue: CommandQueue) -> None:
        self._store = store
        self._queue = queue

    async def accept(self, task: str, request: ExecuteBody) -> ExecutionRecord:
        """Returns when the command to run it is stored; its record can be asked for by then.

        Raises what keeps the program from running, and as :meth:`CommandQueue.send`.
        """
        version = None if request.version is None else Version(request.version)
        # The record first: a client that polls at once must find it, and an event would take its time to get there.
        accepted = await self._store.accept_execution(
            AcceptExecution(execution_id=ExecutionId(new_uuid()), task=task, version=version)
        )
        command = ExecuteCommand(
            task=str(accepted.task_id),
            input=request.input,
            execution_id=str(accepted.id),
            version=request.version,
            timeout_ms=request.timeout_ms,
            force_validation=request.force_validation,
        )
        await self._queue.send(command)
        return accepted
