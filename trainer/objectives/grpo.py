"""Group-relative policy optimisation: advantages, clipped surrogate, divergence from the reference policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

KlEstimator = Literal["exact", "k3"]


def group_advantages(values: Tensor, eps: float) -> Tensor:
    """How many standard deviations each candidate lies above its group (arXiv 2601.02204, Eq. 4).

    values: float [G], or of any other shape: the values of one prompt. Returns as many, (value - mean) / (population
    std + eps). A group whose values are all equal gets zeros.
    """
    return (values - values.mean()) / (values.std(correction=0) + eps)


def is_zero_std(values: Tensor, eps: float) -> bool:
    """Whether a group carries no preference: the population std of values [G] is not above eps."""
    return bool(values.std(correction=0) <= eps)


def grid_log_ratios(log_ratios: Tensor, steps: Sequence[int]) -> Tensor:
    """Sum token log-ratios [..., n] over each grid and give the sum to its tokens.

    The ratio of whole grids, 2601.02204, Eq. 5.

    steps: number of tokens of each grid, summing to n.
    """
    per_grid = [
        part.sum(dim=-1, keepdim=True).expand_as(part) for part in log_ratios.split_with_sizes(list(steps), dim=-1)
    ]
    return torch.cat(per_grid, dim=-1)


@dataclass(frozen=True)
class Surrogate:
    """Per-token policy loss and where the clip took the gradient away; all [..., n]."""

    loss: Tensor
    ratio: Tensor
    clipped_low: Tensor  # bool: ratio < 1 - clip_low and advantage < 0
    clipped_high: Tensor  # bool: ratio > 1 + clip_high and advantage > 0


def clipped_surrogate(log_ratios: Tensor, advantages: Tensor, clip_low: float, clip_high: float) -> Surrogate:
    """-min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A), arXiv 2601.02204, Eq. 3.

    log_ratios: [G, n], log pi_theta - log pi_old. advantages: [G], shared by all tokens of a candidate. rho = 1
    throughout on the first step after a rollout, so the clip is inert there.
    """
    ratio = log_ratios.exp()
    advantage = advantages.unsqueeze(-1)
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    loss = -torch.minimum(ratio * advantage, clipped * advantage)
    low = (ratio < 1 - clip_low) & (advantage < 0)
    high = (ratio > 1 + clip_high) & (advantage > 0)
    return Surrogate(loss=loss, ratio=ratio, clipped_low=low, clipped_high=high)


def k3_kl(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """The sampled estimate exp(d) - d - 1 with d = log pi_ref - log pi_theta of the drawn token.

    Two [..., n] give [..., n], >= 0.
    Biased where tokens come from a guided, truncated sampler; the exact KL of varl.policy.distributions is not.
    """
    difference = reference_log_probs - log_probs
    return difference.exp() - difference - 1
