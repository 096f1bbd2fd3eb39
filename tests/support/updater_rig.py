"""A small policy with an updater, and batches for it."""

from __future__ import annotations

from typing import Literal

import torch

import varl.policy.nextflow
from varl.policy.nextflow import NextFlowPolicy
from varl.trainer.recipe.sections import ObjectiveSettings, OptimizerSettings
from varl.trainer.step.batch import GroupBatch
from varl.trainer.step.update import Updater


def random_policy() -> NextFlowPolicy:
    """A small policy, the same every time."""
    return varl.policy.nextflow.build_random(0)


def random_batch(model: NextFlowPolicy, values: list[float], stage: range = range(3), seed: int = 0) -> GroupBatch:
    """A group of random tokens with these total rewards, its log-probabilities those of the model."""
    steps = tuple(model.grids[scale][0] * model.grids[scale][1] for scale in stage)
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(32, (len(values), sum(h * w for h, w in model.grids[: stage.stop])), generator=generator)
    with torch.no_grad():
        reported = model.distribution("a prompt", tokens, stage.start).log_prob(tokens[:, -sum(steps) :])
    total = torch.tensor(values, dtype=torch.float64)
    mask = torch.rand(reported.shape, generator=generator) < 0.5
    return GroupBatch("a prompt", stage, steps, tokens, reported, mask, {"ocr": total[:, None]}, total[:, None], total)


def updater_of(model: NextFlowPolicy, state_dtype: Literal["same", "bfloat16"] = "same", **optimizer: float) -> Updater:
    """An updater of the model, with a KL to another copy of ``random_policy``."""
    settings = OptimizerSettings.model_validate({"lr": 1e-2, "state_dtype": state_dtype, **optimizer})
    return Updater(model, random_policy(), ObjectiveSettings(kl_beta=0.1), settings)


def weights_of(model: NextFlowPolicy) -> list[torch.Tensor]:
    """Copies of all weights and buffers."""
    return [value.clone() for value in model.module.state_dict().values()]


def same_weights(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    """Whether all are equal, bit for bit."""
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
