"""Prometheus metrics of the gateway."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import Counter, Gauge, Histogram, generate_latest

from varl.services.serving.metrics import new_registry

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class GatewayMetrics:
    """What a gateway counts."""

    def __init__(self) -> None:
        self._registry = new_registry()
        self._requests = Counter(
            "varl_gateway_requests",
            "Score requests by protocol and outcome.",
            ("protocol", "outcome"),
            registry=self._registry,
        )
        self._ended = Counter(
            "varl_gateway_connections_ended",
            "HTTP connections that the gateway ended, by reason.",
            ("reason",),
            registry=self._registry,
        )
        self._duration = Histogram(
            "varl_gateway_request_seconds",
            "Time from reading a request to answering it.",
            registry=self._registry,
            buckets=_SECONDS,
        )
        self._answers = Counter(
            "varl_gateway_rewards",
            "Requests to each reward, by outcome.",
            ("reward", "outcome"),
            registry=self._registry,
        )
        self._latency = Histogram(
            "varl_gateway_reward_seconds",
            "Time that a reward takes to answer.",
            ("reward",),
            registry=self._registry,
            buckets=_SECONDS,
        )

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Offer a value that is read when the metrics are."""
        Gauge(name, text, registry=self._registry).set_function(value)

    def gauges(self, name: str, text: str, values: Mapping[str, Callable[[], float]]) -> None:
        """Offer a value for each reward."""
        gauge = Gauge(name, text, ("reward",), registry=self._registry)
        for reward, value in values.items():
            gauge.labels(reward).set_function(value)

    def request(self, protocol: str, outcome: str) -> None:
        """Count a request: outcome "ok" or the code of its rejection."""
        self._requests.labels(protocol, outcome).inc()

    def connection_ended(self, reason: str) -> None:
        """Count an HTTP connection that took too much: the code of its refusal, or "idle"."""
        self._ended.labels(reason).inc()

    def duration(self, seconds: float) -> None:
        """Record how long a request took; one that was refused unread took none."""
        self._duration.observe(seconds)

    def answer(self, reward: str, outcome: str, seconds: float) -> None:
        """Count what one reward made of a request."""
        self._answers.labels(reward, outcome).inc()
        self._latency.labels(reward).observe(seconds)

    def render(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self._registry)
