"""Means of rewards over images: of each by name, and of their weighted sum."""

from __future__ import annotations

import math
from collections.abc import Mapping

from varl.evaluation.measures.base import Measure, Share, images
from varl.v1 import trajectory_pb2

TOTAL = "reward"
BY_NAME = f"{TOTAL}/"


def total_reward(weights: Mapping[str, float]) -> Measure:
    """The weighted sum of an image's rewards, ``weights`` by name."""
    return Measure(TOTAL, lambda group: _mean(group, weights))


def one_reward(name: str) -> Measure:
    """One reward as its service gives it."""
    return Measure(BY_NAME + name, lambda group: _mean(group, {name: 1.0}))


def reward_of(image: trajectory_pb2.Continuation, weights: Mapping[str, float]) -> float:
    """Weighted sum of one image's rewards."""
    return math.fsum(weight * image.rewards[name] for name, weight in weights.items())


def _mean(group: trajectory_pb2.Group, weights: Mapping[str, float]) -> Share:
    scored = images(group)
    return math.fsum(reward_of(image, weights) for image in scored), float(len(scored))
