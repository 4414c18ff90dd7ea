"""The internal frame: many executions of many programs in one message, between ``api`` and ``executor``.

A frame goes to :data:`loopai_common.contracts.subjects.FRAMES` as one core request. Its items are numbered from 0 in
the order in which they stand, over all groups. The answers come to the reply subject in parts, each item
answered exactly once, so that a slow program does not hold back the others.

Inputs and outputs are JSON slices (:class:`msgspec.Raw`): neither side decodes them. All structs are JSON arrays.
What items or answers have in common is said once for all of them, and the rest stands in columns, so that hundreds cost
little more than one.
"""

from enum import IntEnum
from typing import Annotated, Final

import msgspec

FRAME_FORMAT: Final = 2
MAX_FRAME_ITEMS: Final = 256
MAX_FRAME_BYTES: Final = 512 * 1024


class FrameMark(msgspec.Struct, array_like=True, gc=False):
    """What an item has that most have not.

    ``correlation_id`` is empty when it equals the execution's id; ``traceparent`` when no spans of it are recorded.
    """

    correlation_id: str = ""
    force_validation: bool = False
    traceparent: str = ""


class FrameGroup(msgspec.Struct, array_like=True):
    """Items for one program that may run equally long, ``timeout_ms``; 0 is the executor's default.

    ``task`` is an id or a name; ``version`` 0 is the active one. ``execution_ids`` and ``inputs`` are equally long;
    ``marks`` are by position in them.
    """

    task: str
    version: int
    timeout_ms: int
    execution_ids: list[str]
    inputs: list[msgspec.Raw]
    marks: dict[int, FrameMark] = {}

    def __post_init__(self) -> None:
        if len(self.execution_ids) != len(self.inputs):
            raise ValueError("a group has as many ids as inputs")


class Frame(msgspec.Struct, array_like=True):
    """A request. A receiver that does not know ``format`` refuses every item with ``validation_error``."""

    format: int
    groups: list[FrameGroup]


class AnswerKind(IntEnum):
    """What the payloads of answers hold."""

    SUCCESS = 0
    """The output."""
    ERROR = 1
    """``[error_code, message]``: the program failed (:class:`~loopai_common.contracts.execution.ExecutionError`)."""
    TIMEOUT = 2
    """``[error_code, message]``: the program ran out of time."""
    REFUSED = 3
    """A :class:`~loopai_common.contracts.failure.Failure`: the program never ran."""


class FrameAnswerGroup(msgspec.Struct, array_like=True):
    """Answers of one program that differ in their payloads alone: ``payloads`` are those of the items at ``indexes``.

    All three names are empty, and 0, when the program could not be resolved. ``latency_us`` is the time of each
    execution in the worker, in microseconds; ``kind`` is an :class:`AnswerKind`.
    """

    task_id: str
    program_id: str
    version: int
    kind: int
    latency_us: Annotated[int, msgspec.Meta(ge=0, le=10**12)]
    sampled: bool
    indexes: list[int]
    payloads: list[msgspec.Raw]

    def __post_init__(self) -> None:
        if len(self.indexes) != len(self.payloads):
            raise ValueError("a group has as many indexes as payloads")


class FramePart(msgspec.Struct, array_like=True):
    """A part of the reply to a frame."""

    format: int
    groups: list[FrameAnswerGroup]
