"""A policy of bitwise tokens by the suite that every policy passes, and one step of the trainer on it."""

from __future__ import annotations

import torch

from tests.policy.conformance.bitwise_policy import BitwisePolicy
from tests.policy.conformance.suite import HOT, PROMPT, PolicyConformance, sample
from varl.policy.base import SamplingParams, cells
from varl.trainer.recipe.sections import ObjectiveSettings, OptimizerSettings
from varl.trainer.step.batch import GroupBatch
from varl.trainer.step.update import UpdateOutcome, Updater


class TestBitwise(PolicyConformance):
    def build(self, dtype: torch.dtype) -> BitwisePolicy:
        return BitwisePolicy(5, dtype)


class TestBitwiseTall(PolicyConformance):
    def build(self, dtype: torch.dtype) -> BitwisePolicy:
        return BitwisePolicy(5, dtype, ((1, 1), (3, 1), (6, 2)))


def group(policy: BitwisePolicy, sampling: SamplingParams | None) -> GroupBatch:
    """Four candidates whose reward is the share of lowest bits that are set in their last scale."""
    sampled = sample(policy, [1, 2, 3, 4], sampling or SamplingParams(), "plain" if sampling is None else "sampled")
    steps = tuple(cells(policy.grids))
    values = (sampled.tokens[:, -steps[-1] :] & 1).double().mean(1)
    mask = torch.ones_like(sampled.log_probs, dtype=torch.bool)
    rewards = {"bits": values[:, None]}
    return GroupBatch(
        PROMPT,
        range(len(steps)),
        steps,
        sampled.tokens,
        sampled.log_probs,
        mask,
        rewards,
        values[:, None],
        values,
        0,
        sampling,
    )


def check_update(sampling: SamplingParams | None, estimator: str) -> None:
    policy, reference = BitwisePolicy(5), BitwisePolicy(5)
    objective = ObjectiveSettings.model_validate({"stages": "full", "kl_estimator": estimator, "kl_beta": 0.01})
    updater = Updater(policy, reference, objective, OptimizerSettings(lr=1e-2))
    batch, before = group(policy, sampling), None
    for update in range(8):
        outcome, metrics = updater.update([batch], update, by_scale=update == 0)
        assert outcome is UpdateOutcome.STEPPED
        if update == 0:
            assert metrics["ratio_max_deviation"] < 1e-4 and abs(metrics["kl"]) < 1e-6
            assert [value > 0 for name, value in metrics.items() if name.startswith("grad_norm/scale_")] == [True]
        batch = GroupBatch(**(vars(batch) | {"staleness": 1}))  # the same tokens again, now of older weights
    best = int(batch.values.argmax())
    with torch.no_grad():
        before, after = (
            one.distribution(PROMPT, batch.tokens, 0, sampling).log_prob(batch.tokens).sum(1)
            for one in (reference, policy)
        )
    assert (after - before)[best] == (after - before).max() > 0 and metrics["kl"] > 0


def test_the_trainer_moves_towards_the_better_tokens_by_plain_log_probs() -> None:
    check_update(None, "exact")


def test_the_trainer_moves_towards_the_better_tokens_by_sampled_log_probs() -> None:
    check_update(HOT, "exact")


def test_the_sampled_estimate_of_the_kl_serves_bits_as_well() -> None:
    check_update(None, "k3")
