"""Comparisons over seeds against figures from tables and from SciPy's own tests."""

from __future__ import annotations

import math

import pytest
from scipy.stats import ttest_rel  # type: ignore[import-untyped]

from varl.studies.study.statistics import contrasts, holm_corrected, mean_over_seeds

A = {0: 0.81, 1: 0.84, 2: 0.79, 3: 0.86, 4: 0.83}
B = {0: 0.79, 1: 0.80, 2: 0.78, 3: 0.85, 4: 0.80}


def test_an_interval_is_students() -> None:
    found = mean_over_seeds([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found.value == 3.0
    assert found.error == pytest.approx(math.sqrt(2.5 / 5))
    assert found.half_width == pytest.approx(2.776 * found.error, rel=1e-3)  # 97.5 % of t with 4 degrees of freedom


def test_one_seed_has_no_interval() -> None:
    found = mean_over_seeds([0.5])
    assert found.value == 0.5 and math.isnan(found.error) and math.isnan(found.half_width)
    with pytest.raises(ValueError, match="no seeds"):
        mean_over_seeds([])


def test_a_contrast_is_a_paired_t_test() -> None:
    (found,) = contrasts([("a", "b")], {"a": A, "b": B})
    expected = ttest_rel(list(A.values()), list(B.values()))
    assert found.p == pytest.approx(expected.pvalue)
    assert found.difference.value == pytest.approx(0.022)
    assert found.holm == found.p


def test_seeds_that_one_arm_lacks_are_left_out() -> None:
    (found,) = contrasts([("a", "b")], {"a": A, "b": {seed: B[seed] for seed in (1, 3)}})
    assert found.difference.seeds == 2
    assert contrasts([("a", "c")], {"a": A}) == []
    assert contrasts([("a", "b")], {"a": {0: 1.0}, "b": {1: 1.0}}) == []


def test_planned_contrasts_without_data_count_in_the_correction() -> None:
    (found,) = contrasts([("a", "b"), ("a", "c"), ("c", "b"), ("d", "b")], {"a": A, "b": B})
    assert found.holm == pytest.approx(min(1.0, 4 * found.p))


def test_a_contrast_of_one_seed_has_no_p() -> None:
    (found,) = contrasts([("a", "b")], {"a": {0: 1.0}, "b": {0: 0.5}})
    assert found.difference.value == 0.5 and math.isnan(found.p) and math.isnan(found.holm)


def test_holm_on_the_example_of_its_definition() -> None:
    assert holm_corrected([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm_corrected([0.6, 0.7]) == [1.0, 1.0]
    assert holm_corrected([]) == []


def test_a_test_without_p_counts_but_stays_without() -> None:
    one, other = holm_corrected([float("nan"), 0.02])
    assert math.isnan(one) and other == pytest.approx(0.04)
