"""NextFlow, square and not, its text bytes and Qwen's, by the suite that every policy passes."""

from __future__ import annotations

import torch

from tests.policy.conformance.suite import KINDS, PolicyConformance
from tests.support.paths import ROOT
from tests.support.qwen_models import build_random_qwen
from varl.policy.base import LogProbs
from varl.policy.nextflow import NextFlowPolicy, build_random, load


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


class TestQwen(PolicyConformance):
    def build(self, dtype: torch.dtype) -> NextFlowPolicy:
        return build_random_qwen(dtype)


class TestQwenWide(PolicyConformance):
    def build(self, dtype: torch.dtype) -> NextFlowPolicy:
        return build_random_qwen(dtype, "mrope", base_grid=(4, 12))


class Trained(PolicyConformance):
    """The committed model, whose sharp distributions rounding moves further; only that check is run on it."""

    bfloat16_tolerance = 0.3  # .19 measured
    bfloat16_mean_tolerance = 0.06  # .035 measured

    def build(self, dtype: torch.dtype) -> NextFlowPolicy:
        return load(ROOT / "checkpoints" / "tiny", dtype=dtype)


@KINDS
def test_bfloat16_is_near_on_the_trained_model(kind: LogProbs) -> None:
    suite = Trained()
    suite.test_bfloat16_is_near(suite.build(torch.float32), kind)
