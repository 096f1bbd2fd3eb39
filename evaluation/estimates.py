"""Means over prompts with their standard errors.

Images of one prompt are not independent, so the prompt is the sampling unit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A pooled figure and its standard error, NaN where fewer than two prompts leave it unknown."""

    value: float
    error: float


def pooled_ratio(sums: Array, counts: Array) -> Estimate:
    """Ratio of totals, sum(sums) / sum(counts), with the standard error of a ratio of cluster totals.

    sums, counts: float64 [P], each prompt's total and what it is a total of; sum(counts) > 0. Cochran, Sampling
    Techniques, eq. 6.13 without the finite-population term: Var = P/(P-1) * sum_p (s_p - r n_p)^2 / (sum_p n_p)^2.

    Raises:
        ValueError: lengths differ, or the counts add up to nothing.
    """
    residuals = _residuals(sums, counts)
    return Estimate(float(sums.sum() / counts.sum()), _cluster_error(residuals))


def paired_change(before: tuple[Array, Array], after: tuple[Array, Array]) -> Estimate:
    """Change of a pooled ratio from ``before`` to ``after``, each (sums, counts) of the same prompts in the same order.

    The standard error takes the difference of each prompt's two residuals, so what both sides share (an easy prompt)
    cancels.

    Raises:
        ValueError: the sides have different numbers of prompts, or counts that add up to nothing.
    """
    if len(before[0]) != len(after[0]):
        raise ValueError(f"paired sides must have the same prompts, got {len(before[0])} and {len(after[0])}")
    residuals = _residuals(*after) - _residuals(*before)
    change = after[0].sum() / after[1].sum() - before[0].sum() / before[1].sum()
    return Estimate(float(change), _cluster_error(residuals))


def _residuals(sums: Array, counts: Array) -> Array:
    """Linearised contribution of each prompt, (s_p - r n_p) / sum(counts)."""
    if len(sums) != len(counts) or not counts.sum() > 0:
        raise ValueError(
            f"want as many counts as sums and a positive total, got {len(sums)}, {len(counts)}, {counts.sum():g}"
        )
    ratio = sums.sum() / counts.sum()
    residuals: Array = (sums - ratio * counts) / counts.sum()
    return residuals


def _cluster_error(residuals: Array) -> float:
    prompts = len(residuals)
    return float(np.sqrt(prompts / (prompts - 1) * np.square(residuals).sum())) if prompts > 1 else float("nan")
