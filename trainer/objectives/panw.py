"""Per-Action Normalization Weighting (arXiv 2601.02256, section 3.4, Eq. 9).

Coarse grids have few tokens, so each of them counts more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Normaliser = Literal["constant_total", "none"]


def step_weights(steps: Sequence[int], alpha: float, normaliser: Normaliser) -> Tensor:
    """The weight w_t of every token of each trained grid: float64 [number of grids].

    steps: tokens n_t = h_t w_t of each trained grid. k_t = n_t ** -alpha. ``constant_total`` keeps the sum over tokens
    where it is with equal weights, w_t = k_t sum(n) / sum(k n), so that with the loss's division by sum(n) the tokens'
    shares add up to 1; ``none`` is k_t as Eq. 9 prints it. alpha = 0 counts every token alike, alpha = 1 every grid
    alike.
    """
    sizes = torch.tensor(list(steps), dtype=torch.float64)
    factors = sizes**-alpha
    if normaliser == "none":
        return factors
    return factors * sizes.sum() / (factors * sizes).sum()


def token_weights(steps: Sequence[int], weights: Tensor) -> Tensor:
    """Grid weights [T] repeated over the grids' tokens: [sum of steps]."""
    return weights.repeat_interleave(torch.tensor(list(steps)))


def shares(steps: Sequence[int], weights: Tensor) -> Tensor:
    """Each grid's part of the whole weight, n_t w_t / sum(n w): [T], summing to 1."""
    totals = torch.tensor(list(steps), dtype=torch.float64) * weights
    return totals / totals.sum()


def effective_scale(steps: Sequence[int], weights: Tensor) -> float:
    """Mean weight of a token, sum(n w) / sum(n); 1 for constant_total.

    A loss that is equal on all tokens is scaled by this factor.
    """
    sizes = torch.tensor(list(steps), dtype=torch.float64)
    return float((sizes * weights).sum() / sizes.sum())
