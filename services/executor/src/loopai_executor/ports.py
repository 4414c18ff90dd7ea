"""What the use cases need from the world."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

from loopai_common.contracts.artifacts import ResolvedProgram
from loopai_common.contracts.base import Digest, TaskId
from loopai_common.contracts.execution import EncodedRecord
from loopai_common.contracts.frames import FramePart
from loopai_executor.domain import Jobs, Program


class ProgramSource(Protocol):
    """Where programs come from."""

    async def resolve(self, task: str, version: int | None) -> ResolvedProgram:
        """The program of a task's ``version``, ``None`` being the active one. ``task`` is an id or a name.

        Raises ``TaskNotFound``, ``ArtifactNotFound``, ``TaskNotReady``, ``TaskArchived``, ``StoreUnavailable``.
        """

    async def fetch(self, task_id: TaskId, digest: Digest) -> str:
        """The code with this digest, verified; raises as :meth:`resolve`, and ``ArtifactCorrupt``."""


class Trial(Protocol):
    """A program in a fresh worker of its own."""

    async def load(self) -> str | None:
        """Loads it; returns why it does not load, or ``None``."""

    async def run(self, value: bytes, timeout_ms: int) -> tuple[int, msgspec.Raw, float]:
        """One execution: the kind of answer, its payload, the seconds it took."""


class ProgramPool(Protocol):
    """Runs programs in locked workers. ``queued`` executions are waiting or running."""

    queued: int

    def submit(self, program: Program, work: Sequence[Jobs]) -> None:
        """Queues executions; each is answered at its sink. Raises ``Overloaded`` when they are too many."""

    def warm(self, program: Program) -> None:
        """Loads a program before anybody asks for it."""

    def trial(self, program: Program) -> AbstractAsyncContextManager[Trial]:
        """A worker for this program alone, gone at the end of the context."""


class PartPublisher(Protocol):
    """Sends parts of the reply to a frame."""

    def opened(self) -> None:
        """A frame was taken; its reply is owed."""

    def publish(self, reply: str, part: FramePart) -> None:
        """Sends a part, in the order of the calls."""

    def closed(self) -> None:
        """The last part of a frame was published."""


class RecordPublisher(Protocol):
    """Where records of executions go."""

    async def publish(self, record: EncodedRecord) -> None:
        """Returns when the record is stored for its consumers; another one with the same id has no effect.

        Raises ``BusUnavailable``.
        """
