"""Prometheus metrics of a reward service."""

from __future__ import annotations

from collections.abc import Callable

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

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """One registry per service instance, so that several can live in one process."""

    def __init__(self, reward: str, in_flight: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)
        self._requests = Counter(
            "varl_requests_total", "Score requests by face and outcome.", ("reward", "face", "outcome"), registry=self._registry
        )
        self._samples = Counter("varl_samples_total", "Samples that got a score.", ("reward",), registry=self._registry)
        self._failures = Counter(
            "varl_failures_total", "Samples without a score, by reason.", ("reward", "reason"), registry=self._registry
        )
        self._duration = Histogram(
            "varl_request_seconds", "Time from admission to answer.", ("reward", "face"), registry=self._registry, buckets=_SECONDS
        )
        gauge = Gauge("varl_samples_in_flight", "Samples taken in and not yet answered.", ("reward",), registry=self._registry)
        gauge.labels(reward).set_function(in_flight)
        self._reward = reward

    def request(self, face: str, outcome: str) -> None:
        """Count a request: outcome "ok" or the code of its rejection."""
        self._requests.labels(self._reward, face, outcome).inc()

    def duration(self, face: str, seconds: float) -> None:
        """Record how long an admitted request took."""
        self._duration.labels(self._reward, face).observe(seconds)

    def sample(self, reason: str | None) -> None:
        """Count a sample: None for a score, else the error code."""
        if reason is None:
            self._samples.labels(self._reward).inc()
        else:
            self._failures.labels(self._reward, reason).inc()

    def render(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self._registry)
