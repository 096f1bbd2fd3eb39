"""Prometheus metrics of a rollout worker."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from varl.trajectories.collect import failure_name
from varl.v1 import trajectory_pb2

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

FAILURES = (
    trajectory_pb2.FAILURE_CODE_SCORE_FAILED,
    trajectory_pb2.FAILURE_CODE_REWARD_UNAVAILABLE,
    trajectory_pb2.FAILURE_CODE_WEIGHTS_MISSING,
    trajectory_pb2.FAILURE_CODE_BAD_JOB,
)
OUTCOMES = ("ok", "superseded", "left_to_others", "unpublished", "crashed", *map(failure_name, FAILURES))


class Metrics:
    """One registry per worker."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.groups = Counter(
            "varl_rollout_groups_total", "Jobs processed, by outcome.", ("outcome",), registry=registry
        )
        for outcome in OUTCOMES:  # at 0: an increase is seen only of a series that was there before
            self.groups.labels(outcome)
        self.refused = Counter("varl_rollout_refused_total", "Calls without a valid token.", registry=registry)
        self.absent = Counter(
            "varl_rollout_rewards_absent_total",
            "Groups without an optional reward, by reward.",
            ("reward",),
            registry=registry,
        )
        self.images = Counter("varl_rollout_images_total", "Images generated.", registry=registry)
        self.generate_seconds = Histogram(
            "varl_rollout_generate_seconds", "Model time of a group.", registry=registry, buckets=_SECONDS
        )
        self.score_seconds = Histogram(
            "varl_rollout_score_seconds",
            "First image sent to last score received, of a group.",
            registry=registry,
            buckets=_SECONDS,
        )
        self.weight_version = Gauge(
            "varl_rollout_weight_version", "Version of the policy weights held.", registry=registry
        )
        self.jobs_in_hand = Gauge("varl_rollout_jobs_in_hand", "Jobs taken and not yet settled.", registry=registry)

    def render(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self._registry)
