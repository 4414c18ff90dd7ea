"""The internal frame: many executions of many programs in one message, between ``api`` and ``executor``.

A frame goes to :data:`loopai_common.contracts.subjects.FRAMES` as one core request. Its items are numbered from 0 in
the order in which they stand, over all groups. The answers come to the reply subject in parts, each item
answered exactly once, so that a slow program does not hold back the others.

Inputs and outputs are JSON slices (:class:`msgspec.Raw`): neither side decodes them. All structs are JSON arrays.
"""

from enum import IntEnum
from typing import Annotated, Final

import msgspec

FRAME_FORMAT: Final = 1
MAX_FRAME_ITEMS: Final = 256
MAX_FRAME_BYTES: Final = 512 * 1024
FORCE_VALIDATION: Final = 1
"""Bit of :attr:`FrameItem.flags`."""


class FrameItem(msgspec.Struct, array_like=True, gc=False):
    """One input. ``correlation_id`` is empty when it equals ``execution_id``; ``timeout_ms`` 0 is the default.

    ``traceparent`` is set only when spans of the execution are recorded. Senders of before leave it out, and receivers
    of before ignore it.
    """

    execution_id: str
    correlation_id: str
    timeout_ms: int
    flags: int
    input: msgspec.Raw
    traceparent: str = ""


class FrameGroup(msgspec.Struct, array_like=True):
    """Inputs for one program. ``task`` is an id or a name; ``version`` 0 is the active one."""

    task: str
    version: int
    items: list[FrameItem]


class Frame(msgspec.Struct, array_like=True):
    """A request. A receiver that does not know ``format`` refuses every item with ``validation_error``."""

    format: int
    groups: list[FrameGroup]


class AnswerKind(IntEnum):
    """What :attr:`FrameAnswer.payload` holds."""

    SUCCESS = 0
    """The output."""
    ERROR = 1
    """``[error_code, message]``: the program failed (:class:`~loopai_common.contracts.execution.ExecutionError`)."""
    TIMEOUT = 2
    """``[error_code, message]``: the program ran out of time."""
    REFUSED = 3
    """A :class:`~loopai_common.contracts.failure.Failure`: the program never ran."""


class FrameAnswer(msgspec.Struct, array_like=True, gc=False):
    """Outcome of the item at ``index``; ``latency_us`` is its time in the worker in microseconds."""

    index: int
    kind: int
    latency_us: Annotated[int, msgspec.Meta(ge=0, le=10**12)]
    sampled: bool
    payload: msgspec.Raw


class FrameAnswerGroup(msgspec.Struct, array_like=True):
    """Answers of one program. All three names are empty, and 0, when the program could not be resolved."""

    task_id: str
    program_id: str
    version: int
    answers: list[FrameAnswer]


class FramePart(msgspec.Struct, array_like=True):
    """A part of the reply to a frame."""

    format: int
    groups: list[FrameAnswerGroup]
