"""The only file that knows OpenTelemetry. Imported when tracing is on (tracing.py)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Status, StatusCode, set_span_in_context

from supervisor.tracing import BATCH, QUEUE, SEND_EVERY, SEND_LIMIT, Attributes

log = logging.getLogger("wharfinger.tracing")


class Otlp:
    """`tracing.Sink`."""

    def __init__(self, url: str, version: str, host: str) -> None:
        library = logging.getLogger("opentelemetry")  # a line for each failed attempt: one for each change is enough
        library.addHandler(logging.NullHandler())
        library.propagate = False
        self._provider = TracerProvider(
            resource=Resource({"service.name": "wharfinger", "service.version": version, "host.name": host}),
            shutdown_on_exit=False,  # a dead collector must not hold the daemon's end
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                _Told(OTLPSpanExporter(endpoint=url, timeout=SEND_LIMIT), url),
                max_queue_size=QUEUE,
                max_export_batch_size=BATCH,
                schedule_delay_millis=SEND_EVERY * 1000,
            )
        )
        self._tracer = self._provider.get_tracer("wharfinger", version)

    def span(self, name: str, begin: int, end: int, attributes: Attributes, failed: str, parent: Any) -> Any:
        context = None if parent is None else set_span_in_context(parent)
        span = self._tracer.start_span(name, context, attributes=attributes, start_time=begin)
        if end:
            self.end(span, end, failed)
        return span

    def end(self, span: Any, end: int, failed: str) -> None:
        if failed:
            span.set_status(Status(StatusCode.ERROR, failed[:200]))
        span.end(end_time=end)

    def close(self) -> None:
        self._provider.shutdown()


class _Told(SpanExporter):
    """Says in the log when the collector stops or begins to take spans."""

    def __init__(self, inner: SpanExporter, url: str) -> None:
        self._inner = inner
        self._url = url
        self._well = True

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._inner.export(spans)
        well = result is SpanExportResult.SUCCESS
        if well is not self._well:
            self._well = well
            log.warning("tracing endpoint=%s %s", self._url, "takes spans again" if well else "takes no spans")
        return result

    def shutdown(self) -> None:
        self._inner.shutdown()
