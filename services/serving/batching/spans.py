"""Spans of the batcher's batches.

One from a batch's first forward to its last, with links to the requests whose items it holds.
A batch has as many parents as it has requests, so it is a trace of its own that links to theirs, as OpenTelemetry has
it for messages that are handled together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.util.types import Attributes

from varl.services.serving.batching.forward import Execution, Result
from varl.services.serving.batching.queue import Batch, BatchSpan, Entry


class BatchSpans:
    """The spans of one batcher, which calls all but ``origin`` under its lock.

    A batch without a request that is traced has none.

    Attributes of a span: ``varl.batch.size`` (items), ``varl.batch.cost`` (in the unit of the batcher's limits),
    ``varl.batch.executions`` (forwards, the repeated ones of parts included), ``varl.batch.failed`` (items that the
    model failed on). Each forward is an event "forward" with its items, result and seconds.
    """

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer
        self._open: set[BatchSpan] = set()

    def origin(self) -> trace.SpanContext | None:
        """The caller's span if it is recorded; for the entry that it submits."""
        context = trace.get_current_span().get_span_context()
        return context if context.is_valid and context.trace_flags.sampled else None

    def taken(self, batch: Batch[Any, Any] | None, alive: Iterable[Batch[Any, Any]]) -> None:
        """Begin the span of a batch that is about to run; the parts of one that ran before are in its span already."""
        links = [] if batch is None or batch.again else _links(batch.entries)
        if batch is not None and links:
            attributes = {"varl.batch.size": len(batch.entries), "varl.batch.cost": batch.cost}
            batch.span = BatchSpan(self._tracer.start_span("batch", Context(), links=links, attributes=attributes))
            self._open.add(batch.span)
        self.end_all_but(alive)

    def executed(
        self, batch: Batch[Any, Any], execution: Execution, settled: bool, alive: Iterable[Batch[Any, Any]]
    ) -> None:
        """Note a forward; ``settled``: its items have their outcome now."""
        if batch.span is not None:
            batch.span.executions += 1
            batch.span.failed += execution.items if settled and execution.result is not Result.OK else 0
            forward: Attributes = {
                "items": execution.items,
                "result": str(execution.result),
                "seconds": execution.seconds,
            }
            batch.span.span.add_event("forward", forward)
        self.end_all_but(alive)

    def end_all_but(self, alive: Iterable[Batch[Any, Any]]) -> None:
        """End the spans of which no part runs or waits any more, whichever way the last one went."""
        for ended in self._open - {batch.span for batch in alive}:
            self._open.discard(ended)
            ended.span.set_attributes({"varl.batch.executions": ended.executions, "varl.batch.failed": ended.failed})
            if ended.failed:
                ended.span.set_status(trace.StatusCode.ERROR)
            ended.span.end()


def _links(entries: Sequence[Entry[Any, Any]]) -> list[trace.Link]:
    """One for each request, however many of its items there are."""
    origins = {
        (entry.origin.trace_id, entry.origin.span_id): entry.origin for entry in entries if entry.origin is not None
    }
    return [trace.Link(origin) for origin in origins.values()]
