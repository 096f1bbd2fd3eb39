"""OpenTelemetry's own SDK, keeping what it is given."""

from __future__ import annotations

from collections.abc import Mapping

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.util.types import AttributeValue


class Recorder:
    """A tracer, and the spans that it made and that ended."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = provider.get_tracer("test")

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]


def figures(span: ReadableSpan) -> Mapping[str, AttributeValue]:
    """What a batch's span says of it."""
    return {name.removeprefix("varl.batch."): value for name, value in (span.attributes or {}).items()}
