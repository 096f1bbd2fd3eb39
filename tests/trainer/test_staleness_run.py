"""Overlapped rollout: which weights sample which groups, and what they are compared with.

A killed run resumes exactly.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.rollout_helpers import RunningReward, rollout_process, running_reward
from tests.support.same_runs import assert_same_run, run_trainers, write_recipe
from tests.support.trainer_rig import column, make_model

DEATHS = [
    "varl.trajectories.queue:RunQueue.receive:2:before",
    "torch.optim:AdamW.step:2:before",
    "torch.optim:AdamW.step:3:after",
    "varl.trainer.checkpoints.manager:save_checkpoint:1:after",
    "varl.trainer.rollouts.prefetch:Prefetcher.jobs_of:1:after",
]


@pytest.fixture(scope="module")
def reward() -> Iterator[RunningReward]:
    with running_reward() as running:
        yield running


@pytest.mark.timeout(900)
@pytest.mark.parametrize("staleness", [1, 2])
def test_a_killed_run_that_overlaps_equals_an_undisturbed_one(
    redis_server: str, run_id: str, tmp_path: Path, reward: RunningReward, staleness: int
) -> None:
    make_model(tmp_path / "model")
    rollout = {"prompts_per_update": 2, "group_size": 4, "rewards": [{"name": "bright"}], "max_staleness": staleness}
    runs = []
    for name, deaths in ((f"{run_id}-whole", []), (run_id, DEATHS)):
        file, recipe = write_recipe(tmp_path, name, rollout=rollout)
        with rollout_process(redis_server, name, recipe.model.dir, {"bright": reward.target, "ocr": reward.target}):
            assert run_trainers(file, redis_server, *deaths) == [-signal.SIGKILL] * len(deaths) + [0]
        runs.append(recipe.run.dir / name)
    assert_same_run(*runs)
    assert column(runs[0], "staleness") == [float(min(update, staleness)) for update in range(7)]
    assert column(runs[0], f"staleness/{staleness}") == [2.0] * (7 - staleness)
    assert max(column(runs[0], "ratio_max_deviation")[staleness:]) > 1e-3  # against probabilities of older weights
    assert column(runs[0], "groups/stale") == []
