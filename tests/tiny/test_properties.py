"""Properties of a base: components of variance on made rewards, and the whole table of the committed base."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from varl.tiny.properties import spread_of


def test_components_of_variance_are_those_that_the_rewards_were_made_with() -> None:
    rng = np.random.default_rng(0)
    prompts = rng.normal(0, 3.0, (400, 1, 1))
    found = spread_of(prompts + rng.normal(0, 2.0, (400, 8, 1)) + rng.normal(0, 1.0, (400, 8, 4)))
    assert found.prefix == pytest.approx(4.0, rel=0.1)
    assert found.suffix == pytest.approx(1.0, rel=0.1)
    assert found.share == pytest.approx(0.8, abs=0.02)


def test_a_prefix_that_decides_nothing_has_no_share() -> None:
    rewards = np.random.default_rng(1).normal(0, 1, (500, 8, 4))
    assert spread_of(rewards).share < 0.05
    assert np.isnan(spread_of(np.ones((2, 2, 2))).share)


def test_the_table_of_the_committed_base() -> None:
    flags = ["--task", "words", "--model", "checkpoints/tiny", "--prompts", "4", "--split", "4"]
    command = [sys.executable, "-m", "varl.tiny.properties", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = dict(line.strip("| ").split(" | ", 1) for line in done.stdout.splitlines() if line.startswith("| "))
    assert rows["scales; of them in the suffix"] == "5; 1"
    assert len(rows["entropy by scale, nats a token"].split()) == 5
    masks = list(map(float, rows["mask fraction in the finest 3 scales"].split()))
    assert len(masks) == 3
    assert 0 < float(rows["area of the picture within boxes of words"]) < min(masks)  # cells that are touched in part
    assert 0 <= float(rows["word accuracy at temperature 1"]) <= 1
    assert 0 <= float(rows["share of reward variance decided by the prefix (m = 4)"]) <= 1
