"""Comparisons over seeds: paired differences, Student's t intervals, Holm's correction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student  # type: ignore[import-untyped]

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Mean:
    """Mean over seeds, its standard error and the half-width of its 95 % interval; both NaN for a single seed."""

    value: float
    error: float
    half_width: float
    seeds: int


@dataclass(frozen=True)
class Contrast:
    """First minus second arm over the seeds that both have; p: two-sided, of no difference; holm: after correction."""

    first: str
    second: str
    difference: Mean
    p: float
    holm: float


def mean_over_seeds(values: Sequence[float]) -> Mean:
    """Mean of one figure a seed; raises ValueError for none."""
    if not values:
        raise ValueError("a mean over no seeds")
    array, count = np.asarray(values, np.float64), len(values)
    error = float(array.std(ddof=1) / np.sqrt(count)) if count > 1 else float("nan")
    quantile = float(student.ppf((1 + CONFIDENCE) / 2, count - 1)) if count > 1 else float("nan")
    return Mean(float(array.mean()), error, quantile * error, count)


def contrasts(pairs: Sequence[tuple[str, str]], by_arm: Mapping[str, Mapping[int, float]]) -> list[Contrast]:
    """Paired t tests of ``pairs``; by_arm: arm -> seed -> figure. A pair without a common seed is left out.

    Holm (1979): the i-th smallest of n p-values times n - i + 1, never below those before it, at most 1. n counts all
    pairs, since those left out were planned as well.
    """
    found = [(pair, differences(*(by_arm.get(name, {}) for name in pair))) for pair in pairs]
    p_values = [_p_value(values) if values else float("nan") for _, values in found]
    return [
        Contrast(*pair, mean_over_seeds(values), p, holm)
        for (pair, values), p, holm in zip(found, p_values, holm_corrected(p_values), strict=True)
        if values
    ]


def holm_corrected(p_values: Sequence[float]) -> list[float]:
    """Corrected p-values in the order given; NaN (no seed, or one) stays NaN and counts as a test."""
    order = sorted(range(len(p_values)), key=lambda i: (np.isnan(p_values[i]), p_values[i]))
    corrected, so_far = [float("nan")] * len(p_values), 0.0
    for rank, index in enumerate(order):
        if not np.isnan(p_values[index]):
            so_far = max(so_far, min(1.0, (len(p_values) - rank) * p_values[index]))
            corrected[index] = so_far
    return corrected


def differences(first: Mapping[int, float], second: Mapping[int, float]) -> list[float]:
    """First minus second, of every seed that both have."""
    return [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]


def _p_value(differences: Sequence[float]) -> float:
    mean = mean_over_seeds(differences)
    if not mean.error > 0:  # one seed, or all differences alike
        return float("nan") if mean.seeds < 2 or mean.value == 0 else 0.0
    return float(2 * student.sf(abs(mean.value) / mean.error, mean.seeds - 1))
