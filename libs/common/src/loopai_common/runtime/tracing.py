"""Traces: spans of the requests that are sampled, along the ``traceparent`` that every request carries.

Whether a request is sampled is settled where it comes in: by the caller's own flag, else by chance. One that is not
costs a comparison here. Spans leave through OpenTelemetry's exporter, which is imported only where an address for them
is set; like logging, that is one for the process.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from enum import IntEnum
from typing import Any, Final, Protocol

from loopai_common.errors import LoopaiError
from loopai_common.runtime import context
from loopai_common.runtime.context import RequestContext, is_sampled
from loopai_common.runtime.settings import SettingsError

ROOT_SHARE: Final = 0.01
"""Of the requests without a ``traceparent``, unless the environment says otherwise."""

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_SAMPLER: Final = "OTEL_TRACES_SAMPLER"
_SAMPLER_ARGUMENT: Final = "OTEL_TRACES_SAMPLER_ARG"
_BY_RATIO: Final = "parentbased_traceidratio"
_SAMPLERS: Final = {"parentbased_always_on": 1.0, "parentbased_always_off": 0.0, _BY_RATIO: None}

Attributes = Mapping[str, str | int | float | bool]
"""By their names in OpenTelemetry's semantic conventions, ``loopai.…`` for what has none there.

Never an input, an output, code, or a key.
"""


class Kind(IntEnum):
    """What a span is to the others of its trace; the numbers are OpenTelemetry's."""

    INTERNAL = 0
    SERVER = 1
    CLIENT = 2
    PRODUCER = 3
    CONSUMER = 4


class Exporter(Protocol):
    """Where spans go."""

    def start(self, name: str, parent: str | None, kind: Kind, attributes: Attributes, at_ns: int | None) -> Any:
        """An OpenTelemetry span, begun at ``at_ns`` (Unix time), now if that is left out."""

    def close(self) -> None:
        """Sends what waits, for a few seconds at most."""


class _Process:
    exporter: Exporter | None = None


_process: Final = _Process()
span_counts: Final = {"exported": 0, "failed": 0, "dropped": 0}
"""Spans by what became of them."""


class Span:
    """A piece of work that is recorded, or is not: then nothing here does anything."""

    __slots__ = ("_recorded", "traceparent")

    def __init__(self, recorded: Any = None) -> None:
        self._recorded = recorded
        self.traceparent = ""
        """What its children have as parent; empty when it is not recorded."""
        if recorded is not None:
            ids = recorded.get_span_context()
            self.traceparent = f"00-{ids.trace_id:032x}-{ids.span_id:016x}-01"

    def set(self, attributes: Attributes, *, name: str | None = None) -> None:
        """Adds attributes, and renames the span."""
        if self._recorded is not None:
            self._recorded.set_attributes(attributes)
            if name is not None:
                self._recorded.update_name(name)

    def fail(self, error_type: str) -> None:
        """Marks it as failed with this code; of an error's message nothing is told, for it may quote an input."""
        if self._recorded is not None:
            from opentelemetry.trace import StatusCode

            self._recorded.set_attribute("error.type", error_type)
            self._recorded.set_status(StatusCode.ERROR)

    def end(self, at_ns: int | None = None) -> None:
        """Ends it, at ``at_ns`` (Unix time), now if that is left out."""
        if self._recorded is not None:
            self._recorded.end(at_ns)


UNRECORDED: Final = Span()


def wanted_share(environ: Mapping[str, str]) -> float | None:
    """The share (0 to 1) of the requests without a ``traceparent`` that begin a trace; ``None`` where none is wanted.

    Raises :class:`SettingsError` for a sampler that is not ours, or a share that is none.
    """
    if not any(environ.get(name) for name in _ENDPOINTS) or environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    sampler = environ.get(_SAMPLER) or _BY_RATIO
    if sampler not in _SAMPLERS:
        raise SettingsError(f"{_SAMPLER} is one of {', '.join(_SAMPLERS)}: a caller's decision is always honoured")
    share = _SAMPLERS[sampler]
    if share is None:
        try:
            share = float(environ.get(_SAMPLER_ARGUMENT) or ROOT_SHARE)
        except ValueError:
            share = -1.0
    if not 0 <= share <= 1:  # nor NaN
        raise SettingsError(f"{_SAMPLER_ARGUMENT} is the share of the requests that are traced, from 0 to 1")
    return share


@contextmanager
def exported(service: str, environ: Mapping[str, str] | None = None) -> Iterator[None]:
    """While this is open, spans leave for where the environment says, if it does; what waits at the end is sent."""
    share = wanted_share(os.environ if environ is None else environ)
    if share is None:
        yield
        return
    from loopai_common.runtime.otlp import OtlpExporter

    _process.exporter = exporter = OtlpExporter(service, span_counts)
    context.trace_roots(share)
    try:
        yield
    finally:
        context.trace_roots(0.0)
        _process.exporter = None
        exporter.close()


def start(
    name: str,
    parent: str | None,
    *,
    kind: Kind = Kind.INTERNAL,
    attributes: Attributes | None = None,
    at_ns: int | None = None,
) -> Span:
    """Begins a span below the ``traceparent`` of ``parent``, or a trace when that is ``None``; whoever asks ends it."""
    exporter = _process.exporter
    if exporter is None or (parent is not None and not is_sampled(parent)):
        return UNRECORDED
    return Span(exporter.start(name, parent, kind, attributes or {}, at_ns))


def span(
    name: str, *, kind: Kind = Kind.INTERNAL, attributes: Attributes | None = None
) -> AbstractContextManager[Span]:
    """Makes the block a span of the current request, and the parent of what is done in it."""
    if _process.exporter is None:
        return _NOTHING
    request = context.current()
    return _Block(request, name, kind, attributes) if is_sampled(request.traceparent) else _NOTHING


_NOTHING: Final = nullcontext(UNRECORDED)


class _Block(AbstractContextManager[Span]):
    def __init__(self, request: RequestContext, name: str, kind: Kind, attributes: Attributes | None) -> None:
        parent = None if request.begins_trace else request.traceparent
        self._span = start(name, parent, kind=kind, attributes=attributes)
        self._bound = context.bound(replace(request, traceparent=self._span.traceparent, begins_trace=False))

    def __enter__(self) -> Span:
        self._bound.__enter__()
        return self._span

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if error is not None:
            self._span.fail(error.code if isinstance(error, LoopaiError) else type(error).__name__)
        self._span.end()
        self._bound.__exit__(kind, error, trace)
