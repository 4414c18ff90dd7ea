"""What the executor, its zygote and its workers say to each other.

Between executor and worker: two pipes, each carrying frames of a little-endian ``u32`` length and a JSON value.

* A :class:`LoadRequest` is an object, and is answered like a batch of one. The first frame to a worker is one.
* A batch is an array, ``[[program, timeout_ms, [input, …]], …]``. Its answers come back in order, those of one kind
  together, ``[[kind, [payload, …]], …]``, in one frame or in several: a worker sends what is ready at each tick.

Between executor and zygote: a SEQPACKET socket, one message a packet. The executor distrusts workers; the zygote and
the executor trust each other, and the zygote never reads a worker's bytes.
"""

import struct
from typing import Any, Final

import msgspec

from loopai_common.contracts.frames import AnswerKind

LENGTH: Final = struct.Struct("<I")
TICK_SECONDS: Final = 0.01
"""How often the executor makes a busy worker look at its clock, and send what is ready."""

FLUSH_BYTES: Final = 256 * 1024
"""A worker sends its answers when there are this many bytes of them."""

FRAME_SLACK_BYTES: Final = FLUSH_BYTES + 64 * 1024
"""How much larger than one output a reply frame can get."""

MAX_MESSAGE: Final = 64 * 1024
MAX_ERROR_CHARACTERS: Final = 500

Answer = tuple[int, msgspec.Raw]
"""An :class:`~loopai_common.contracts.frames.AnswerKind` and the payload that belongs to it."""

Answers = tuple[int, list[msgspec.Raw]]
"""Several of one kind, in order."""

ANSWERS: Final[msgspec.json.Decoder[list[Answers]]] = msgspec.json.Decoder(list[tuple[int, list[msgspec.Raw]]])
NO_PAYLOAD: Final = msgspec.Raw(b"null")


class LoadRequest(msgspec.Struct, frozen=True):
    """A program, and the number that batches name it by."""

    program: int
    code: str
    entry_point: str
    input_schema: Any
    output_schema: Any
    timeout_ms: int
    output_bytes: int
    fresh_globals: bool = True
    """Whether each call starts from the module's globals as they were right after loading."""


class ZygoteOptions(msgspec.Struct, frozen=True, tag="options", tag_field="kind"):
    """First message to a zygote. ``memory_bytes`` is a worker's own, beyond what it shares with the zygote."""

    memory_bytes: int
    cpu_seconds: int
    degraded: bool


class Ready(msgspec.Struct, frozen=True, tag="ready", tag_field="kind"):
    """The zygote's answer when a locked test worker behaved; ``missing`` is empty unless degraded."""

    namespaces: list[str]
    missing: list[str]


class Refused(msgspec.Struct, frozen=True, tag="refused", tag_field="kind"):
    """The zygote's answer when the sandbox would not hold; it ends after it."""

    reason: str


class Fork(msgspec.Struct, frozen=True, tag="fork", tag_field="kind"):
    """Order: fork a worker. Two descriptors come along: where it reads, where it writes."""

    worker: int


class Forked(msgspec.Struct, frozen=True, tag="forked", tag_field="kind"):
    """A worker runs. One descriptor comes along where the kernel has them: its pidfd."""

    worker: int
    pid: int


class NotForked(msgspec.Struct, frozen=True, tag="not_forked", tag_field="kind"):
    """The kernel refused another worker: there are too many processes, or too little memory."""

    worker: int


class Exited(msgspec.Struct, frozen=True, tag="exited", tag_field="kind"):
    """A worker ended: exit code, or minus the signal; what it used, as the kernel counted it."""

    worker: int
    exit_code: int
    cpu_seconds: float
    peak_memory_bytes: int


FROM_ZYGOTE: Final[msgspec.json.Decoder[Ready | Refused | Forked | NotForked | Exited]] = msgspec.json.Decoder(
    Ready | Refused | Forked | NotForked | Exited
)
TO_ZYGOTE: Final[msgspec.json.Decoder[ZygoteOptions | Fork]] = msgspec.json.Decoder(ZygoteOptions | Fork)
encode: Final = msgspec.json.Encoder().encode


def frame(payload: bytes) -> bytes:
    """``payload`` with its length before it."""
    return LENGTH.pack(len(payload)) + payload


def success(output: msgspec.Raw = NO_PAYLOAD) -> Answer:
    """An answer that carries an output."""
    return AnswerKind.SUCCESS, output


def failure(kind: AnswerKind, code: str, message: str) -> Answer:
    """An answer that carries an :class:`~loopai_common.contracts.execution.ExecutionError` and what it says."""
    text = message[:MAX_ERROR_CHARACTERS].encode("utf-8", "replace").decode()
    return kind, msgspec.Raw(encode((code, text)))
