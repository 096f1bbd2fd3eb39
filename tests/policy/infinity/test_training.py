"""A few updates of the trainer on a very small Infinity model, by what the recipes set."""

from __future__ import annotations

import torch

from tests.support.infinity_models import SQUARE, random_policy
from varl.policy.base import SamplingParams, cells
from varl.trainer.recipe.sections import ObjectiveSettings, OptimizerSettings
from varl.trainer.step.batch import GroupBatch
from varl.trainer.step.update import UpdateOutcome, Updater

PROMPT = "a red sign that says 'BREAD'"


def test_the_trainer_moves_towards_the_better_bits_and_starts_at_ratio_one() -> None:
    policy, reference, steps = random_policy(), random_policy(), tuple(cells(SQUARE.grids))
    sampled = policy.sample(policy.prefill(PROMPT, False), len(steps), [1, 2, 3, 4], SamplingParams())[1]
    values = (sampled.tokens[:, -steps[-1] :] & 1).double().mean(1)
    mask = torch.ones_like(sampled.log_probs, dtype=torch.bool)
    rewards = {"bits": values[:, None]}
    batch = GroupBatch(
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
        None,
    )
    objective = ObjectiveSettings.model_validate({"stages": "full", "alpha": 0.5, "kl_beta": 0.01})
    updater = Updater(policy, reference, objective, OptimizerSettings(lr=1e-3))
    for update in range(4):
        outcome, metrics = updater.update([batch], update, by_scale=update == 0)
        assert outcome is UpdateOutcome.STEPPED
        if update == 0:
            assert metrics["ratio_max_deviation"] < 1e-4 and abs(metrics["kl"]) < 1e-6
            assert [value > 0 for name, value in metrics.items() if name.startswith("grad_norm/scale_")] == [True]
        batch = GroupBatch(**(vars(batch) | {"staleness": 1}))  # the same tokens again, now of older weights
    with torch.no_grad():
        before, after = (
            one.distribution(PROMPT, batch.tokens, 0).log_prob(batch.tokens) for one in (reference, policy)
        )
    gain = (after - before).sum(1)
    assert gain[int(values.argmax())] == gain.max() > 0 and metrics["kl"] > 0
