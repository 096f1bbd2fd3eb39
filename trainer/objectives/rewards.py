"""Several rewards as one: what a group's images are compared by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from varl.trainer.objectives.grpo import group_advantages

Combination = Literal["sum", "normalised_sum"]


def weighted_sum(rewards: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """sum_r w_r R_r: float [G, K] by reward give [G, K].

    A reward of wide range drowns the others, whatever it is worth.
    """
    return torch.stack([weight * rewards[name] for name, weight in weights.items()]).sum(dim=0)


def combine(
    rewards: Mapping[str, Tensor], weights: Mapping[str, float], combination: Combination, eps: float
) -> Tensor:
    """What the advantages are made of, before the continuations are joined: float [G, K] by reward give [G, K].

    ``sum`` is ``weighted_sum``. ``normalised_sum`` first puts each reward on the scale of its own spread within the
    group, over all
    G K images: (R - mean) / (population std + eps), so that weights say how much a reward counts and not how large its
    numbers are. A reward that is the same for all images adds nothing.
    """
    if combination == "sum":
        return weighted_sum(rewards, weights)
    return weighted_sum({name: group_advantages(values, eps) for name, values in rewards.items()}, weights)
