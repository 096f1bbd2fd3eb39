"""The example of a model of one's own: by the suite that every policy passes, and trained by the trainer's own step."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import torch

from tests.policy.conformance.suite import PROMPT, PolicyConformance, sample
from varl.examples.palette import Palette, main
from varl.policy.base import SamplingParams, TrainablePolicy, cells
from varl.policy.load import load
from varl.trainer.recipe.sections import ObjectiveSettings, OptimizerSettings
from varl.trainer.step.batch import GroupBatch
from varl.trainer.step.update import UpdateOutcome, Updater

PLUGIN = "varl.examples.palette:load"


def palette(dtype: torch.dtype = torch.float32) -> TrainablePolicy:
    return cast(TrainablePolicy, Palette("cpu", dtype, 5))  # type: ignore[no-untyped-call] # examples have no types


class TestPalette(PolicyConformance):
    def build(self, dtype: torch.dtype) -> TrainablePolicy:
        return palette(dtype)


def test_a_recipe_names_its_loader(tmp_path: Path) -> None:
    main(tmp_path)  # type: ignore[no-untyped-call]
    found = load(tmp_path, plugin=PLUGIN)
    assert found.image_size == (64, 64)
    again = load(tmp_path, plugin=PLUGIN)
    first, second = (sample(policy, [1], SamplingParams()).tokens for policy in (found, again))
    assert torch.equal(first, second)
    with pytest.raises(ValueError, match="architecture 'palette' is not one of"):
        load(tmp_path)


def group(policy: TrainablePolicy, update: int) -> GroupBatch:
    """Sixteen candidates whose reward is how bright their pictures are."""
    sampled = sample(policy, [16 * update + seed for seed in range(16)], SamplingParams())
    values = torch.from_numpy(policy.decode(sampled.tokens)).double().mean((1, 2, 3)) / 255
    steps = tuple(cells(policy.grids))
    mask = torch.ones_like(sampled.log_probs, dtype=torch.bool)
    rewards = {"brightness": values[:, None]}
    tokens, log_probs = sampled.tokens, sampled.log_probs
    return GroupBatch(
        PROMPT, range(len(steps)), steps, tokens, log_probs, mask, rewards, values[:, None], values, 0, None
    )


def test_the_trainer_makes_its_pictures_brighter() -> None:
    policy, reference = palette(), palette()
    objective = ObjectiveSettings.model_validate({"stages": "full", "kl_beta": 0.0, "alpha": 0.0})
    updater = Updater(policy, reference, objective, OptimizerSettings(lr=1e-2))
    means = []
    for update in range(12):
        batch = group(policy, update)
        outcome, _ = updater.update([batch], update, by_scale=False)
        assert outcome is UpdateOutcome.STEPPED
        means.append(float(batch.values.mean()))
    assert sum(means[-3:]) / 3 > sum(means[:3]) / 3 + 0.05
