"""The loss of one group (docs/method.md).

Weighted token losses over the number of trained tokens, mean over candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from varl.trainer.objectives.grpo import Surrogate, clipped_surrogate, grid_log_ratios

RatioGranularity = Literal["token", "grid"]


@dataclass(frozen=True)
class LossSettings:
    """Coefficients of the loss; see ``varl.trainer.recipe.sections.ObjectiveSettings`` for what each one means."""

    kl_beta: float
    clip_low: float
    clip_high: float
    ratio: RatioGranularity = "token"
    mask_kl: bool = False


@dataclass(frozen=True)
class TokenLoss:
    """The loss before it is summed: its sum over tokens and mean over candidates is the loss of the group."""

    terms: Tensor  # [G, n]
    surrogate: Surrogate


def token_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    kl: Tensor,
    mask: Tensor,
    weights: Tensor,
    steps: Sequence[int],
    settings: LossSettings,
) -> TokenLoss:
    """w_t (policy M + beta KL) / sum(n) of every token (arXiv 2601.02204 Eq. 3 with 2601.02256 Eq. 9 and section 3.5).

    log_probs, old_log_probs, kl: float [G, n] over the n tokens of the trained grids. advantages: [G]. mask: bool [G,
    n].
    weights: [n]. steps: tokens of each trained grid, summing to n. The policy term is masked, the KL only with
    ``mask_kl``, and the divisor counts masked tokens too, so that a small mask gives a small gradient. A grid ratio is
    the product over the masked tokens, and its surrogate is spread evenly over the grid, so that on-policy both
    granularities give one gradient.
    """
    surrogate = clipped_surrogate(
        _log_ratios(log_probs, old_log_probs, mask, steps, settings.ratio),
        advantages,
        settings.clip_low,
        settings.clip_high,
    )
    policy = surrogate.loss * (_grid_shares(mask, steps) if settings.ratio == "grid" else mask)
    divergence = kl * mask if settings.mask_kl else kl
    terms = weights * (policy + settings.kl_beta * divergence) / sum(steps)
    return TokenLoss(terms=terms, surrogate=surrogate)


def _log_ratios(
    log_probs: Tensor, old_log_probs: Tensor, mask: Tensor, steps: Sequence[int], ratio: RatioGranularity
) -> Tensor:
    difference = log_probs - old_log_probs
    return difference if ratio == "token" else grid_log_ratios(difference * mask, steps)


def _grid_shares(mask: Tensor, steps: Sequence[int]) -> Tensor:
    """1 / (number of masked tokens of the grid) on masked tokens, else 0: [G, n]."""
    counts = grid_log_ratios(mask.float(), steps)
    return mask / counts.clamp(min=1)


def group_loss(terms: Tensor) -> Tensor:
    """Sum over tokens, mean over candidates: [G, n] gives a scalar."""
    return terms.sum(dim=-1).mean()


def by_step(values: Tensor, steps: Sequence[int]) -> Tensor:
    """Mean over candidates and the tokens of each grid: float or bool [G, n] gives float [number of grids]."""
    return torch.stack([part.float().mean() for part in values.detach().split_with_sizes(list(steps), dim=-1)])
