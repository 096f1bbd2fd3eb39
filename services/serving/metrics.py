"""Prometheus metrics of a reward service."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from varl.services.serving.batching.batcher import Batcher
from varl.services.serving.batching.forward import Execution, Result

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SHORT_SECONDS = (0.0005, 0.001, 0.0025, *_SECONDS)
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def new_registry() -> CollectorRegistry:
    """Return a new registry with the metrics of the process itself.

    Each service instance has its own, so that several can live in one process.
    """
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    return registry


class Metrics:
    """What a reward service counts."""

    def __init__(self, reward: str, in_flight: Callable[[], int]) -> None:
        self._registry = new_registry()
        self._reward = reward
        requests = self._counter("varl_requests", "Score requests by protocol and outcome.", "protocol", "outcome")
        ended = self._counter("varl_connections_ended", "HTTP connections that the service ended, by reason.", "reason")
        self._ended = cache(lambda reason: ended.labels(reward, reason))
        failures = self._counter("varl_failures", "Samples without a score, by reason.", "reason")
        duration = self._histogram("varl_request_seconds", "Time from admission to answer.", _SECONDS, "protocol")
        self._samples = self._counter("varl_samples", "Samples that got a score.").labels(reward)
        # Looking a child up by its labels costs more than counting does.
        self._request = cache(lambda protocol, outcome: requests.labels(reward, protocol, outcome))
        self._failure = cache(lambda reason: failures.labels(reward, reason))
        self._duration = cache(lambda protocol: duration.labels(reward, protocol))
        self._decode = self._histogram(
            "varl_decode_seconds", "Time that decoding one image takes.", _SHORT_SECONDS
        ).labels(reward)
        self.gauge("varl_samples_in_flight", "Samples taken in and not yet answered.", in_flight)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, ("reward", *labels), registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, text, ("reward", *labels), registry=self._registry, buckets=buckets)

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Offer a value that is read when the metrics are."""
        Gauge(name, text, ("reward",), registry=self._registry).labels(self._reward).set_function(value)

    def watch(self, batcher: Batcher[Any, Any]) -> None:
        """Offer a batcher's queue and count its forwards."""
        self.gauge("varl_queue_items", "Items that wait for the model.", lambda: batcher.waiting)
        self.gauge("varl_queue_bytes", "Bytes that wait for the model.", lambda: batcher.waiting_bytes)
        self.gauge(
            "varl_batch_cost_ceiling", "Cost that batches keep to; falls when memory runs out.", lambda: batcher.ceiling
        )
        executions = self._counter("varl_executions", "Forwards of the model, by how they ended.", "result")
        by_result = {result: executions.labels(self._reward, result) for result in Result}
        inferences = self._counter("varl_inferences", "Items that the model answered.").labels(self._reward)
        items = self._histogram("varl_batch_items", "Items of one forward.", _ITEMS).labels(self._reward)
        seconds = self._histogram("varl_model_seconds", "Time of one forward.", _SHORT_SECONDS).labels(self._reward)
        wait = self._histogram(
            "varl_queue_wait_seconds", "Time that an item waits for its first forward.", _SHORT_SECONDS
        ).labels(self._reward)

        def observe(execution: Execution) -> None:
            by_result[execution.result].inc()
            if execution.result is Result.OK:
                inferences.inc(execution.items)
            items.observe(execution.items)
            seconds.observe(execution.seconds)
            for waited in execution.waits:
                wait.observe(waited)

        batcher.observe = observe

    def request(self, protocol: str, outcome: str) -> None:
        """Count a request: outcome "ok" or the code of its rejection."""
        self._request(protocol, outcome).inc()

    def connection_ended(self, reason: str) -> None:
        """Count an HTTP connection that took too much: the code of its refusal, or "idle"."""
        self._ended(reason).inc()

    def duration(self, protocol: str, seconds: float) -> None:
        """Record how long an admitted request took."""
        self._duration(protocol).observe(seconds)

    def decoded(self, seconds: float) -> None:
        """Record how long decoding an image took; from any thread."""
        self._decode.observe(seconds)

    def sample(self, reason: str | None) -> None:
        """Count a sample: None for a score, else the error code."""
        if reason is None:
            self._samples.inc()
        else:
            self._failure(reason).inc()

    def render(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self._registry)
