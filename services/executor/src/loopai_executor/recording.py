"""Records of executions: what is kept of one, which are sampled, and how they leave without holding up the others."""

import asyncio
import contextvars
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import msgspec
import pydantic
from pydantic import JsonValue, TypeAdapter

from loopai_common.contracts.base import format_timestamp
from loopai_common.contracts.execution import EncodedRecord, ExecutionError, RecordStatus
from loopai_common.contracts.frames import AnswerKind
from loopai_common.contracts.tasks import task_id_or_none
from loopai_common.errors import LoopaiError
from loopai_common.identifiers import new_id
from loopai_common.runtime.logging import get_logger
from loopai_executor.domain import Counts, Program
from loopai_executor.ports import RecordPublisher

NULL: Final = msgspec.Raw(b"null")
_MAX_WAITING: Final = 1000
_MAX_WAITING_BYTES: Final = 16 * 1024 * 1024
_PUBLISHED_AT_ONCE: Final = 64

_STATUSES: Final = {
    AnswerKind.SUCCESS: RecordStatus.SUCCESS,
    AnswerKind.ERROR: RecordStatus.ERROR,
    AnswerKind.TIMEOUT: RecordStatus.TIMEOUT,
}
_decode_error = msgspec.json.Decoder(tuple[ExecutionError, str]).decode
_encode = msgspec.json.Encoder().encode
_any_json: TypeAdapter[JsonValue] = TypeAdapter(JsonValue)

log = get_logger()


class Recorder:
    """Decides which executions are sampled by chance, and publishes the records of all that are.

    Nothing here waits: what comes faster than it can leave is dropped, and counted.
    """

    def __init__(
        self,
        publisher: RecordPublisher,
        counts: Counts,
        *,
        max_per_second: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._publisher = publisher
        self._counts = counts
        self._max_per_second = max_per_second
        self._clock = clock
        self._tokens = float(max_per_second)
        self._filled_at = clock()
        self._waiting: deque[EncodedRecord] = deque()
        self._waiting_bytes = 0
        self._publishing: asyncio.Task[None] | None = None

    def admits(self) -> bool:
        """Whether one more execution may be sampled by chance: at most ``max_per_second``, as a token bucket."""
        now = self._clock()
        refilled = self._tokens + (now - self._filled_at) * self._max_per_second
        self._tokens, self._filled_at = min(refilled, float(self._max_per_second)), now
        if self._tokens < 1:
            self._counts.records_dropped["rate"] += 1
            return False
        self._tokens -= 1
        return True

    def record(
        self,
        program: Program,
        execution_id: str,
        correlation_id: str,
        value: msgspec.Raw,
        kind: int,
        payload: msgspec.Raw,
        latency_us: int,
    ) -> None:
        """Takes a sampled execution of the input ``value``. What never ran is no execution."""
        if kind == AnswerKind.REFUSED:
            return
        size = _size(value) + _size(payload)
        if len(self._waiting) >= _MAX_WAITING or self._waiting_bytes + size > _MAX_WAITING_BYTES:
            self._counts.records_dropped["queue"] += 1
            return
        code, message = (None, None) if kind == AnswerKind.SUCCESS else _decode_error(payload)
        known = execution_id if task_id_or_none(execution_id) is not None else new_id()
        record = EncodedRecord(
            id=known,
            task_id=program.task_id,
            program_id=program.program_id,
            version=program.version,
            input=value.copy(),  # a slice would keep its whole frame in memory
            output=payload.copy() if kind == AnswerKind.SUCCESS else NULL,
            status=_STATUSES[AnswerKind(kind)],
            error_code=code,
            error_message=message,
            latency_ms=latency_us / 1000,
            sampled_for_validation=True,
            executed_at=format_timestamp(datetime.now(UTC)),
            correlation_id=correlation_id or known,
        )
        self._waiting.append(record)
        self._waiting_bytes += _carried_bytes(record)
        if self._publishing is None or self._publishing.done():
            # Of nobody's request: records of many requests leave together.
            self._publishing = asyncio.get_running_loop().create_task(self._publish(), context=contextvars.Context())

    async def close(self) -> None:
        """Returns when nothing waits any more; what cannot leave is dropped."""
        if self._publishing is not None:
            await self._publishing

    async def _publish(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _PUBLISHED_AT_ONCE))]
            self._waiting_bytes -= sum(map(_carried_bytes, batch))
            await asyncio.gather(*map(self._publish_one, batch))

    async def _publish_one(self, record: EncodedRecord) -> None:
        try:
            await self._publisher.publish(record)
        except LoopaiError as error:
            self._counts.records_dropped["bus"] += 1
            log.warning("record_not_published", code=error.code)
        else:
            self._counts.records_published += 1


def encode_record(record: EncodedRecord, limit_bytes: int) -> bytes:
    """The record as JSON of at most ``limit_bytes``.

    An input or output that no reader of the contract could decode is left out; so are both when they are too large.
    """
    record = msgspec.structs.replace(record, input=_readable(record.input), output=_readable(record.output))
    body = _encode(record)
    if len(body) > limit_bytes:
        body = _encode(msgspec.structs.replace(record, input=NULL, output=NULL))
    return body


def _readable(value: msgspec.Raw) -> msgspec.Raw:
    """``value``, or ``null`` where it only looks like JSON: a program may write any bytes, a caller may nest deeply."""
    try:
        _any_json.validate_json(_WRAPPED % bytes(value))
    except pydantic.ValidationError:
        return NULL
    return value


_WRAPPED: Final = b"[[[[%b]]]]"
"""As deep as a record puts its values at most (in a page of records), because depth is limited."""


def _size(value: msgspec.Raw) -> int:
    return len(memoryview(value))


def _carried_bytes(record: EncodedRecord) -> int:
    return _size(record.input) + _size(record.output)
