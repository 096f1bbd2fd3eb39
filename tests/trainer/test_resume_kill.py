"""A run whose trainer is killed by SIGKILL again and again ends with the metrics and the weights of one that nobody disturbed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from safetensors.torch import load_file

from tests.support.paths import PYTHONPATH, ROOT
from tests.support.rollout_helpers import RunningReward, rollout_process, running_reward
from tests.support.trainer_rig import METHOD, make_model, make_recipe, read_metrics
from varl.trainer.checkpoints.checkpoint import checkpoints
from varl.trainer.recipe.config import Recipe
from varl.trainer.recipe.describe import to_toml

UPDATES = 7
# Where the trainer dies, in this order, each time going on from where the one before it died.
DEATHS = {
    "before the first group came": "varl.trajectories.queue:RunQueue.receive:1:before",
    "with one group in hand": "varl.trajectories.collect:_Collection.settle:2:after",
    "after a step, before its checkpoint": "torch.optim:AdamW.step:1:after",
    "while the files of the first checkpoint are written": "varl.trainer.checkpoints.checkpoint:_save_optimizer:1:after",
    "renamed, without its mark": "pathlib:Path.rename:1:after",
    "after a checkpoint, before its trajectories are acknowledged": "varl.trainer.checkpoints.manager:save_checkpoint:1:after",
    "while a checkpoint is deleted": "shutil:rmtree:1:before",
    "after them": "varl.trainer.disk.metrics_log:RunLog.write:1:after",
    "between an evaluation and its verdict": "varl.trainer.checkpoints.manager:Keeper.judge:1:before",
    "at the very end": "varl.trainer.loop:keep_final:1:before",
}


@pytest.fixture(scope="module")
def reward() -> Iterator[RunningReward]:
    with running_reward() as running:
        yield running


def run_trainers(recipe: Path, redis_url: str, *deaths: str) -> list[int]:
    """Exit statuses of one trainer after another, each a process of its own dying as ``deaths`` say, and of a last one that does not."""
    environment = os.environ | {"PYTHONPATH": PYTHONPATH, "REDIS_URL": redis_url}
    command = [sys.executable, "-m", "tests.support.killing", str(recipe), *deaths]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=True)
    statuses: list[int] = json.loads(done.stdout)
    assert statuses[-1] == 0, done.stderr[-3000:]
    return statuses


def write_recipe(directory: Path, name: str, **sections: Any) -> tuple[Path, Recipe]:  # noqa: ANN401  (settings of any type)
    settings: dict[str, Any] = {
        "run": {"updates": UPDATES},
        "rollout": {"prompts_per_update": 2, "group_size": 4, "rewards": [{"name": "bright"}]},
        "objective": METHOD | {"kl_anchor": "previous"},
        "optimizer": {"ema_decay": 0.5},
        "checkpoint": {"every": 2, "keep": 1},
        "evaluation": {"every": 3, "prompts": 2},
    }
    recipe = make_recipe(directory, name, **(settings | sections))
    path = directory / f"{name}.toml"
    path.write_text(to_toml(recipe))
    return path, recipe


def measured(run: Path) -> list[dict[str, float]]:
    """All metrics that do not tell the time."""
    return [{name: value for name, value in line.items() if not name.startswith("timing/")} for line in read_metrics(run)]


def assert_same_run(one: Path, other: Path) -> None:
    assert measured(one) == measured(other)
    assert_same_final_weights(one, other)
    assert_same_tensors(*(checkpoints(run / "checkpoints")[-1] / "policy.safetensors" for run in (one, other)))


def assert_same_final_weights(one: Path, other: Path) -> None:
    assert_same_tensors(*(run / "weights" / "final.safetensors" for run in (one, other)))


def assert_same_tensors(one: Path, other: Path) -> None:
    first, second = load_file(one), load_file(other)
    assert first.keys() == second.keys()
    assert all(bool((first[name] == second[name]).all()) for name in first)


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
    assert f"{UPDATES:06d}" in left and not any(name.endswith(".part") for name in left) and len(left) <= 3  # newest, best, best.json
