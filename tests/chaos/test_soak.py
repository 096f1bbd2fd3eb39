"""A soak tells what grows from what does not, and its load is a real one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from chaos.slope import BLOCKS, Growth, second_half_slope
from chaos.soak import EXPECTED, judge
from tests.support.paths import PYTHONPATH, ROOT

SECONDS = [5.0 * index for index in range(360)]  # half an hour


def noisy(per_hour: float, noise: float, warm_up: float = 0.0) -> list[float]:
    rng = np.random.default_rng(0)
    return [
        100 + per_hour * second / 3600 + warm_up * float(np.exp(-second / 120)) + float(rng.normal(0, noise))
        for second in SECONDS
    ]


@pytest.mark.parametrize(
    ("per_hour", "noise", "growth"),
    [
        (0.0, 0.5, Growth.FLAT),
        (10.0, 0.5, Growth.FLAT),
        (-50.0, 0.5, Growth.FLAT),
        (40.0, 0.5, Growth.GROWING),
        (16.0, 20.0, Growth.UNDECIDED),
    ],
)
def test_a_slope_is_found_in_noise_and_compared_with_what_is_allowed(
    per_hour: float, noise: float, growth: Growth
) -> None:
    slope = second_half_slope(SECONDS, noisy(per_hour, noise))
    assert slope.low <= per_hour <= slope.high or abs(slope.per_hour - per_hour) < slope.high - slope.low
    assert slope.growth(16.0) is growth


def test_an_exact_line_has_no_interval_and_what_came_before_the_half_does_not_count() -> None:
    slope = second_half_slope(SECONDS, [500.0] * 180 + [second / 3600 for second in SECONDS[180:]])
    assert (slope.per_hour, slope.low, slope.high) == pytest.approx((1.0, 1.0, 1.0), abs=1e-9)
    assert second_half_slope(SECONDS, noisy(0.0, 0.5, warm_up=80.0)).growth(16.0) is Growth.FLAT


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    slopes = [
        second_half_slope(SECONDS, [5 * second / 3600 + float(rng.normal()) for second in SECONDS]) for _ in range(400)
    ]
    assert 0.92 < np.mean([slope.low <= 5 <= slope.high for slope in slopes]) < 0.98


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="fewer than"):
        second_half_slope(SECONDS[: 4 * BLOCKS - 2], SECONDS[: 4 * BLOCKS - 2])


GOOD_COUNTS = dict.fromkeys(EXPECTED, 10)
GOOD_SERIES = {
    "seconds": SECONDS,
    "ocr rss_mib": noisy(0, 0.5),
    "ocr files": [20.0] * 360,
    "redis used_mib": noisy(0, 0.01),
}


def test_flat_columns_and_the_expected_answers_are_sound() -> None:
    result = judge(GOOD_SERIES, GOOD_COUNTS, "")
    assert (
        result["sound"]
        and result["verdicts"] == {"flat": 3}
        and set(result["slopes"]) == set(GOOD_SERIES) - {"seconds"}
    )


def test_a_leak_a_failure_a_silent_client_and_a_broken_one_are_not() -> None:
    leak = GOOD_SERIES | {"ocr files": [20 + second / 600 for second in SECONDS]}
    assert not judge(leak, GOOD_COUNTS, "")["sound"]
    assert not judge(GOOD_SERIES, GOOD_COUNTS | {"rollout: failure": 1}, "")["sound"]
    assert not judge(
        GOOD_SERIES, {name: number for name, number in GOOD_COUNTS.items() if name != "grpc ocr: error"}, ""
    )["sound"]
    assert not judge(GOOD_SERIES, GOOD_COUNTS, "ReadTimeout")["sound"]


@pytest.mark.timeout(900)
def test_a_short_soak_asks_everything_and_leaves_samples_and_a_chart(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "chaos.soak", "--minutes", "0.5", "--out", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": PYTHONPATH}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=800)
    assert (tmp_path / "soak.json").exists(), f"{done.stdout[-2000:]}{done.stderr[-3000:]}"
    result = json.loads((tmp_path / "soak.json").read_text())
    assert (
        result["unexpected"] == {} and result["missing"] == [] and result["broken"] == ""
    )  # half a minute says nothing about slopes
    for part in ("redis", "ocr", "hpsv3", "gateway", "rollout"):
        assert (
            all(value > 1 for value in result["series"][f"{part} rss_mib"])
            and min(result["series"][f"{part} files"]) > 3
        )
    assert max(result["series"]["rollout in_hand"]) >= 1 and max(result["series"]["ocr in_hand"]) >= 1
    assert (tmp_path / "soak.svg").read_text().count("<svg") == 1
