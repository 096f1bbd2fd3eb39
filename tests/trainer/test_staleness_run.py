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


@pytest.mark.timeout(600)
def test_a_run_that_dies_updates_past_its_checkpoint_goes_on(
    redis_server: str, run_id: str, tmp_path: Path, reward: RunningReward
) -> None:
    model = make_model(tmp_path / "model")
    rollout = {"prompts_per_update": 1, "group_size": 2, "rewards": [{"name": "bright"}], "max_staleness": 1}
    file, recipe = write_recipe(
        tmp_path, run_id, rollout=rollout, checkpoint={"every": 4}, evaluation={"every": 0}, optimizer={}
    )
    with rollout_process(redis_server, run_id, model, {"bright": reward.target}):
        assert run_trainers(file, redis_server, "torch.optim:AdamW.step:7:before") == [-signal.SIGKILL, 0]
    directory = recipe.run.dir / run_id
    assert column(directory, "staleness") == [0.0] + [1.0] * 6
    assert column(directory, "failures/weights_missing") == []
