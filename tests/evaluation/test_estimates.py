"""Standard errors against independent slow computations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from varl.evaluation.estimates import Array, paired_change, pooled_ratio


def slow_error(residuals: list[float]) -> float:
    count = len(residuals)
    return math.sqrt(count / (count - 1) * math.fsum(r * r for r in residuals))


def slow_ratio(sums: list[float], counts: list[float]) -> tuple[float, list[float]]:
    total, size = math.fsum(sums), math.fsum(counts)
    ratio = total / size
    return ratio, [(s - ratio * n) / size for s, n in zip(sums, counts, strict=True)]


prompts = st.lists(st.tuples(st.floats(0, 8), st.floats(0, 8), st.integers(1, 8)), min_size=2, max_size=30)


@given(prompts)
def test_pooled_ratio_is_the_ratio_of_totals_with_the_linearised_error(rows: list[tuple[float, float, int]]) -> None:
    sums, _, counts = (np.array(column, dtype=np.float64) for column in zip(*rows, strict=True))
    found = pooled_ratio(sums, counts)
    value, residuals = slow_ratio(sums.tolist(), counts.tolist())
    assert found.value == pytest.approx(value, abs=1e-12)
    assert found.error == pytest.approx(slow_error(residuals), abs=1e-12)


@given(prompts)
def test_paired_change_takes_the_difference_of_residuals(rows: list[tuple[float, float, int]]) -> None:
    old, new, counts = (np.array(column, dtype=np.float64) for column in zip(*rows, strict=True))
    found = paired_change((old, counts), (new, counts))
    before, old_residuals = slow_ratio(old.tolist(), counts.tolist())
    after, new_residuals = slow_ratio(new.tolist(), counts.tolist())
    assert found.value == pytest.approx(after - before, abs=1e-12)
    assert found.error == pytest.approx(
        slow_error([b - a for a, b in zip(old_residuals, new_residuals, strict=True)]), abs=1e-12
    )


def test_equal_counts_give_the_plain_mean_and_its_standard_error() -> None:
    values: Array = np.array([0.0, 1.0, 1.0, 0.0, 1.0])
    found = pooled_ratio(values, np.ones(5))
    assert found.value == pytest.approx(0.6)
    assert found.error == pytest.approx(values.std(ddof=1) / math.sqrt(5))


def test_images_of_one_prompt_are_not_counted_as_independent() -> None:
    """Four identical images of each prompt say no more than one."""
    one = pooled_ratio(np.array([0.0, 1.0, 1.0]), np.ones(3))
    four = pooled_ratio(np.array([0.0, 4.0, 4.0]), np.full(3, 4.0))
    assert four == one


def test_error_agrees_with_the_spread_over_fresh_samples_of_prompts() -> None:
    rng = np.random.default_rng(0)
    ease = rng.beta(2, 2, size=(2000, 200))  # prompts differ: images of one are correlated
    counts = rng.integers(1, 3, size=(2000, 200)).astype(np.float64)
    sums = rng.binomial(counts.astype(int), ease).astype(np.float64)
    estimates = [pooled_ratio(s, n) for s, n in zip(sums, counts, strict=True)]
    spread = np.std([estimate.value for estimate in estimates])
    assert np.mean([estimate.error for estimate in estimates]) == pytest.approx(spread, rel=0.05)


def test_what_both_sides_share_cancels() -> None:
    old = np.array([0.0, 1.0, 3.0, 4.0])
    shifted = paired_change((old, np.full(4, 8.0)), (old + 2, np.full(4, 8.0)))
    assert shifted.value == pytest.approx(0.25)
    assert shifted.error == pytest.approx(0.0, abs=1e-12)


def test_one_prompt_has_no_known_error() -> None:
    found = pooled_ratio(np.array([1.0]), np.array([2.0]))
    assert found.value == 0.5
    assert math.isnan(found.error)


@pytest.mark.parametrize(("sums", "counts"), [([1.0], [0.0]), ([], []), ([1.0, 2.0], [1.0])])
def test_nothing_to_divide_by_is_an_error(sums: list[float], counts: list[float]) -> None:
    with pytest.raises(ValueError, match="positive total"):
        pooled_ratio(np.array(sums), np.array(counts))


def test_sides_of_unequal_length_are_an_error() -> None:
    side = np.ones(2), np.ones(2)
    with pytest.raises(ValueError, match="same prompts"):
        paired_change(side, (np.ones(3), np.ones(3)))
