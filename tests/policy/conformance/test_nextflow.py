"""NextFlow, square and not, by the suite that every policy passes."""

from __future__ import annotations

import torch

from tests.policy.conformance.suite import PolicyConformance
from varl.policy.nextflow import NextFlowPolicy, build_random


class TestSquare(PolicyConformance):
    def build(self, dtype: torch.dtype) -> NextFlowPolicy:
        return build_random(3, dtype)


class TestWide(PolicyConformance):
    def build(self, dtype: torch.dtype) -> NextFlowPolicy:
        return build_random(3, dtype, base_grid=(4, 12))

    def test_grids_are_wide(self) -> None:
        policy = self.build(torch.float32)
        assert policy.grids == ((1, 1), (1, 3), (2, 6), (3, 9), (4, 12)) and policy.image_size == (32, 96)


class TestTall(PolicyConformance):
    def build(self, dtype: torch.dtype) -> NextFlowPolicy:
        return build_random(3, dtype, base_grid=(10, 6))
