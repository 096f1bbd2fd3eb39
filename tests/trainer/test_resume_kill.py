"""A run whose trainer is repeatedly killed by SIGKILL ends with the metrics and weights of an undisturbed one."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.support.rollout_helpers import RunningReward, rollout_process, running_reward
from tests.support.same_runs import (
    UPDATES,
    assert_same_run,
    run_trainers,
    write_recipe,
)
from tests.support.trainer_rig import make_model, read_metrics

# Where the trainer dies, in this order, each time going on from where the one before it died.
DEATHS = {
    "before the first group came": "varl.trajectories.queue:RunQueue.receive:1:before",
    "with one group in hand": "varl.trajectories.collect:_Collection.settle:2:after",
    "after a step, before its checkpoint": "torch.optim:AdamW.step:1:after",
    "while the files of the first checkpoint are written": (
        "varl.trainer.checkpoints.checkpoint:_save_optimizer:1:after"
    ),
    "renamed, without its mark": "pathlib:Path.rename:1:after",
    "after a checkpoint, "
    "before its trajectories are acknowledged": "varl.trainer.checkpoints.manager:save_checkpoint:1:after",
    "while a checkpoint is deleted": "shutil:rmtree:1:before",
    "after them": "varl.trainer.disk.metrics_log:RunLog.write:1:after",
    "between an evaluation and its verdict": "varl.trainer.checkpoints.manager:CheckpointManager.judge:1:before",
    "at the very end": "varl.trainer.run:keep_final:1:before",
}


@pytest.fixture(scope="module")
def reward() -> Iterator[RunningReward]:
    with running_reward() as running:
        yield running


@pytest.mark.timeout(900)  # a dozen trainers one after another, on a machine that may be busy
def test_a_run_killed_at_every_phase_equals_an_undisturbed_one(
    redis_server: str, redis_client: redis.Redis, run_id: str, tmp_path: Path, reward: RunningReward
) -> None:
    make_model(tmp_path / "model")
    whole_file, whole = write_recipe(tmp_path, f"{run_id}-whole")
    broken_file, broken = write_recipe(tmp_path, run_id)
    rewards = {"bright": reward.target, "ocr": reward.target}
    with rollout_process(redis_server, whole.run.name, whole.model.dir, rewards):
        assert run_trainers(whole_file, redis_server) == [0]
    with rollout_process(redis_server, broken.run.name, broken.model.dir, rewards):
        *killed, _ = run_trainers(broken_file, redis_server, *DEATHS.values())
        assert dict(zip(DEATHS, killed, strict=True)) == dict.fromkeys(DEATHS, -signal.SIGKILL)
    runs = [recipe.run.dir / recipe.run.name for recipe in (whole, broken)]
    assert [line["update"] for line in read_metrics(runs[1])] == list(range(UPDATES + 1))
    assert_same_run(*runs)
    for stream in ("jobs", "trajectories"):
        assert redis_client.xlen(f"varl:{run_id}:{stream}") == 0
    left = {path.name for path in (runs[1] / "checkpoints").iterdir()}
    assert (
        f"{UPDATES:06d}" in left and not any(name.endswith(".part") for name in left) and len(left) <= 3
    )  # newest, best, best.json
