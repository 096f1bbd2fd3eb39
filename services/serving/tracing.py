"""Optional traces: a span for each request, in the trace that the caller's W3C traceparent header names.

FastAPI makes those of HTTP.
Those of the model's batches are in ``batch_spans``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from opentelemetry import propagate, trace

from varl.services.serving.status import RequestRejectedError

_on = False


def configure_tracing(endpoint: str, service: str) -> Callable[[], None]:
    """Send spans to ``endpoint``, an OTLP collector's URL for traces over HTTP, under the name ``service``.

    "" for none.
    Returns what sends the last spans when the process ends. Raises RuntimeError where the packages are missing.
    """
    global _on
    if not endpoint:
        return lambda: None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise RuntimeError(f"traces need the extra 'otel' (pip install 'varl[otel]'): {error}") from error
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
    trace.set_tracer_provider(provider)
    _on = True
    return provider.shutdown


def own_tracer() -> trace.Tracer | None:
    """What makes the spans of this package; None where traces are off."""
    return trace.get_tracer("varl.serving") if _on else None


def server_span(name: str, metadata: Callable[[], Iterable[Any] | None]) -> AbstractContextManager[None]:
    """A span around one gRPC request whose metadata is read as pairs; a rejection is noted by its code alone."""
    return _server_span(name, dict(metadata() or ())) if _on else nullcontext()


@contextmanager
def _server_span(name: str, headers: Mapping[str, str]) -> Iterator[None]:
    tracer = trace.get_tracer("varl.serving")
    with tracer.start_as_current_span(
        name, propagate.extract(headers), trace.SpanKind.SERVER, record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            yield
        except RequestRejectedError as rejection:
            span.set_attribute("varl.rejection", rejection.code)
            span.set_status(trace.StatusCode.ERROR)
            raise


def outgoing() -> tuple[tuple[str, str], ...]:
    """Headers that carry the current span to the next service."""
    carrier: dict[str, str] = {}
    if _on:
        propagate.inject(carrier)
    return tuple(carrier.items())
