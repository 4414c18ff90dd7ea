"""The part of a trace that is an execution: how long it waited, and how long its program ran."""

import time
from collections.abc import Sequence

import msgspec

from loopai_common.contracts.frames import AnswerKind
from loopai_common.runtime.tracing import UNRECORDED, Attributes, Kind, Span, start
from loopai_executor.domain import Program, Sink


def traced(sink: Sink, traceparent: str, program: Program, began_ns: int, kind: Kind = Kind.INTERNAL) -> Sink:
    """``sink``, recording a span of the execution below ``traceparent`` when that is sampled (empty is not).

    ``began_ns`` is when the execution came, as Unix time.
    """
    if not traceparent:
        return sink
    attributes: Attributes = {"loopai.task_id": program.task_id, "loopai.version": program.version}
    span = start("execute", traceparent, kind=kind, attributes=attributes, at_ns=began_ns)
    return sink if span is UNRECORDED else _TracedSink(sink, span, began_ns)


class _TracedSink:
    """Sink of one execution. The worker measures the run itself, from its batch: the span of it is as long as that."""

    __slots__ = ("_began_ns", "_inner", "_span", "deadline")

    def __init__(self, inner: Sink, span: Span, began_ns: int) -> None:
        self.deadline = inner.deadline
        self._inner = inner
        self._span = span
        self._began_ns = began_ns

    def answer(self, indexes: Sequence[int], kind: int, payloads: Sequence[msgspec.Raw], latency_us: int) -> None:
        """Takes the outcome."""
        now = time.time_ns()
        ran_from = now - latency_us * 1000
        if latency_us:
            start("run", self._span.traceparent, at_ns=ran_from).end(now)
        outcome = AnswerKind(kind).name.lower()
        waited = max(0, ran_from - self._began_ns)
        self._span.set({"loopai.outcome": outcome, "loopai.queue_seconds": waited / 1e9})
        if kind != AnswerKind.SUCCESS:
            self._span.fail(outcome)
        self._span.end(now)
        self._inner.answer(indexes, kind, payloads, latency_us)
