"""The rules of execution: what a program is, what an execution becomes, and when a program is no longer tried."""

import hashlib
import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import msgspec

from loopai_common.contracts.execution import ExecutionError
from loopai_common.contracts.frames import AnswerKind
from loopai_common.contracts.tasks import Isolation

LANES: Final = ("frame", "request")
"""The ways that executions come."""

DURATION_BUCKETS: Final = (0.00001, 0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 60.0)
_SHARE_BYTES: Final = 4
_LITTLE: Final = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """A version of a task, with all that is needed to run it. Compared by identity."""

    task_id: str
    task_name: str
    program_id: str
    version: int
    code: str
    entry_point: str
    input_schema: Any
    output_schema: Any
    sampling_rate: float
    isolation: Isolation = Isolation.CALL

    @property
    def key(self) -> tuple[str, int]:
        """What identifies it; never shared by two tasks, even with equal code."""
        return self.task_id, self.version


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """The active program of a task, and the candidate that takes ``percentage`` (0–100) of its executions."""

    active: Program
    candidate: Program
    percentage: float

    def choose(self, execution_id: str) -> Program:
        """The program of this execution, always the same one at the same percentage."""
        return self.candidate if rollout_share(execution_id) < self.percentage else self.active


Runnable = Program | Split
"""What a reference stands for: one program, or two while a version is rolled out."""


def rollout_share(execution_id: str) -> float:
    """Where in [0, 100) an execution falls: BLAKE2b of its id's text, 4 bytes, as a share of all of them.

    The same in every process and for every task, so an id that has the candidate keeps it while the percentage grows.
    """
    digest = hashlib.blake2b(execution_id.encode("utf-8", "surrogatepass"), digest_size=_SHARE_BYTES).digest()
    return int.from_bytes(digest, "big") * 100 / (1 << 8 * _SHARE_BYTES)


class Sink(Protocol):
    """Where the outcomes of executions go. ``deadline`` is Unix time in seconds; nobody listens after it."""

    deadline: float

    def answer(self, indexes: Sequence[int], kind: int, payloads: Sequence[msgspec.Raw], latency_us: int) -> None:
        """Takes the outcomes of some, each with its payload; called once for each index, maybe at its submission."""


class Jobs(msgspec.Struct, gc=False):
    """Executions of one program that have everything but their inputs in common.

    ``indexes`` are for the sink to know them by, one for each input.
    """

    sink: Sink
    timeout_ms: int
    indexes: Sequence[int]
    inputs: Sequence[msgspec.Raw]

    def __len__(self) -> int:
        return len(self.inputs)

    def split(self, count: int) -> "tuple[Jobs, Jobs]":
        """The first ``count`` of them, and the others."""
        sink, timeout_ms, indexes, inputs = self.sink, self.timeout_ms, self.indexes, self.inputs
        return (
            Jobs(sink, timeout_ms, indexes[:count], inputs[:count]),
            Jobs(sink, timeout_ms, indexes[count:], inputs[count:]),
        )

    def each(self) -> "list[Jobs]":
        """Each of them by itself."""
        pairs = zip(self.indexes, self.inputs, strict=True)
        return [Jobs(self.sink, self.timeout_ms, (index,), (value,)) for index, value in pairs]

    def answer(self, kind: int, payload: msgspec.Raw) -> None:
        """Answers all alike, without having run them."""
        self.sink.answer(self.indexes, kind, [payload] * len(self), 0)


def jobs_of(executions: Iterable[tuple[Sink, int, int, msgspec.Raw]]) -> list[Jobs]:
    """Executions, each a sink, a time-out in milliseconds, an index and an input, put together where they are alike."""
    found: dict[tuple[Sink, int], tuple[list[int], list[msgspec.Raw]]] = {}
    for sink, timeout_ms, index, value in executions:
        indexes, inputs = found.setdefault((sink, timeout_ms), ([], []))
        indexes.append(index)
        inputs.append(value)
    return [Jobs(sink, timeout_ms, *columns) for (sink, timeout_ms), columns in found.items()]


@dataclass(slots=True)
class DeathCounter:
    """Counts the workers that a program killed; what is long ago weighs less, halved every ``half_life_seconds``.

    At ``limit`` the program is quarantined, until the count has fallen to half of it.
    """

    limit: float = 5.0
    half_life_seconds: float = 60.0
    quarantined: bool = False
    _count: float = 0.0
    _at: float = 0.0

    def matter(self, now: float) -> bool:
        """Whether the deaths so far would make a difference to the next one."""
        return self._decayed(now) > _LITTLE

    def record(self, now: float) -> None:
        """Counts a death at ``now`` (seconds of any monotonic clock)."""
        self._count = self._decayed(now) + 1
        self._at = now
        # The counts before have decayed a little, so five deaths in a row are slightly less than 5.
        self.quarantined = self.quarantined or self._count > self.limit - 0.5

    def blocks(self, now: float) -> bool:
        """Whether the program is quarantined at ``now``."""
        if self.quarantined and self._decayed(now) <= self.limit / 2:
            self.quarantined = False
        return self.quarantined

    def seconds_left(self, now: float) -> float:
        """Until the quarantine ends."""
        return max(0.0, self.half_life_seconds * math.log2(max(self._decayed(now), 1e-9) / (self.limit / 2)))

    def _decayed(self, now: float) -> float:
        return self._count * math.pow(0.5, ((now - self._at) / self.half_life_seconds))


@dataclass(slots=True)
class Counts:
    """What happened so far, as plain numbers: this is counted on the hot path."""

    executions: dict[str, list[int]] = field(default_factory=lambda: {lane: [0] * len(AnswerKind) for lane in LANES})
    """By lane, and by kind of answer."""
    durations: list[int] = field(default_factory=lambda: [0] * (len(DURATION_BUCKETS) + 1))
    duration_seconds: float = 0.0
    batches: int = 0
    batched_items: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    worker_spawns: int = 0
    zygote_restarts: int = 0
    quarantines: int = 0
    cold_loads: int = 0
    failed_loads: int = 0
    overloaded: int = 0
    candidates_missed: int = 0
    worker_cpu_seconds: float = 0.0
    worker_peak_memory_bytes: int = 0
    records_published: int = 0
    records_dropped: Counter[str] = field(default_factory=Counter)
    """Sampled executions that were not recorded, by reason: ``rate``, ``queue``, ``bus``."""

    def ran(self, items: int, seconds: float) -> None:
        """Counts ``items`` that together took ``seconds`` in a worker."""
        self.durations[bisect_left(DURATION_BUCKETS, seconds / items)] += items
        self.duration_seconds += seconds


def error_payload(code: ExecutionError, message: str) -> msgspec.Raw:
    """The payload of an answer of kind ``ERROR`` or ``TIMEOUT``."""
    return msgspec.Raw(msgspec.json.encode((code.value, message)))


def kind_of(error: ExecutionError) -> AnswerKind:
    """Only running out of time is a ``TIMEOUT``; everything else is an ``ERROR``."""
    return AnswerKind.TIMEOUT if error is ExecutionError.TIME else AnswerKind.ERROR


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that is not less than ``share`` of them (nearest rank); ``None`` of nothing."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
