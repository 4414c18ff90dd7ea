"""Spans over OTLP/HTTP. Importing this imports OpenTelemetry's SDK, which takes time and memory."""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from loopai_common import __version__
from loopai_common.identifiers import new_id
from loopai_common.runtime.logging import get_logger
from loopai_common.runtime.tracing import Attributes, Kind

_FLUSH_SECONDS: Final = 2.0

log = get_logger()


class OtlpExporter:
    """An :class:`~loopai_common.runtime.tracing.Exporter` to the address in OpenTelemetry's own variables.

    A thread sends what was recorded every few seconds. What it cannot send in time is dropped, and counted.
    """

    def __init__(self, service: str, counts: dict[str, int]) -> None:
        # It logs each batch that fails, more than once; here that is logged when it begins and when it is over.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        resource = Resource.create(
            {
                "service.name": f"loopai-{service}",
                "service.version": __version__,
                "service.instance.id": new_id(),
            }
        )
        self._provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(_Queue(OTLPSpanExporter(), service, counts))
        self._tracer = self._provider.get_tracer("loopai", __version__)

    def start(self, name: str, parent: str | None, kind: Kind, attributes: Attributes, at_ns: int | None) -> Any:
        return self._tracer.start_span(
            name,
            context=Context() if parent is None else _remote(parent),
            kind=trace.SpanKind(kind),
            attributes=attributes,
            start_time=at_ns,
        )

    def close(self) -> None:
        # The SDK waits half a minute for a collector that is away.
        closing = threading.Thread(target=self._provider.shutdown, name="trace-flush", daemon=True)
        closing.start()
        closing.join(_FLUSH_SECONDS)


class _Queue(BatchSpanProcessor):
    """Counts what is dropped: the SDK drops the oldest span of a full queue, and says so in its own log alone."""

    def __init__(self, exporter: SpanExporter, service: str, counts: dict[str, int]) -> None:
        self._counts = counts
        self._waiting = 0
        self._counting = threading.Lock()
        self._most: int = self._default_max_queue_size()  # type: ignore[no-untyped-call]  # of OTEL_BSP_MAX_QUEUE_SIZE
        super().__init__(_Watched(exporter, service, counts, self._taken), self._most)

    def on_end(self, span: ReadableSpan) -> None:
        with self._counting:
            if self._waiting < self._most:
                self._waiting += 1
            else:
                self._counts["dropped"] += 1
        super().on_end(span)

    def _taken(self, spans: int) -> None:
        with self._counting:
            self._waiting -= spans


class _Watched(SpanExporter):
    """Counts what another exporter does, and logs when it stops working and when it works again."""

    def __init__(
        self, exporter: SpanExporter, service: str, counts: dict[str, int], on_export: Callable[[int], None]
    ) -> None:
        self._exporter = exporter
        self._log = log.bind(service=service)  # the thread that exports has no context of its own
        self._counts = counts
        self._on_export = on_export
        self._failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._on_export(len(spans))
        result = self._exporter.export(spans)
        failed = result is not SpanExportResult.SUCCESS
        self._counts["failed" if failed else "exported"] += len(spans)
        if failed and not self._failing:
            self._log.warning("traces_not_exported", consequence="spans are dropped until the collector answers")
        elif self._failing and not failed:
            self._log.info("traces_exported_again")
        self._failing = failed
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


def _remote(traceparent: str) -> Context:
    _, trace_id, span_id, flags = traceparent.split("-")
    parent = trace.SpanContext(
        int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=trace.TraceFlags(int(flags, 16))
    )
    return trace.set_span_in_context(trace.NonRecordingSpan(parent), Context())
