"""Infinity by the suite that every policy passes: 32 bits a token, 56 patchified ones, and an image twice as tall."""

from __future__ import annotations

import torch

from tests.policy.conformance.suite import PolicyConformance
from tests.support.infinity_models import PATCHIFIED, SQUARE, TALL, random_policy
from varl.policy.infinity import InfinityConfig, InfinityPolicy


class InfinityConformance(PolicyConformance):
    bfloat16_tolerance = 0.15  # sums over 32 or 56 bits; .11 measured, against float32
    bfloat16_mean_tolerance = 0.035  # .025 measured
    config: InfinityConfig

    def build(self, dtype: torch.dtype) -> InfinityPolicy:
        return random_policy(self.config, dtype)


class TestSquare(InfinityConformance):
    config = SQUARE


class TestPatchified(InfinityConformance):
    config = PATCHIFIED


class TestTall(InfinityConformance):
    config = TALL
