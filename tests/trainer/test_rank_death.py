"""The death of any rank ends a run, and with --resume it goes on exactly as if it had not happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.paths import PYTHONPATH, ROOT
from tests.support.same_runs import assert_same_final_weights, measured, write_recipe
from tests.support.trainer_rig import METHOD, BrightnessReward, make_model, rollout_workers
from varl.trainer.checkpoints.checkpoint import checkpoints

DEATHS = (
    "all:varl.trainer.step.update:Updater._step:1:after",  # told to stop, as torchrun and Kubernetes tell all ranks
    "1:torch.optim:AdamW.step:2:before",  # in an update, while rank 0 goes on with it
    "0:varl.trainer.checkpoints.checkpoint:seal:1:before",  # all parts written, nothing sealed
)
SECTIONS = {
    "run": {"updates": 4},
    "objective": METHOD | {"kl_anchor": "previous"},
    "evaluation": {"every": 0},
    "rollout": {"prompts_per_update": 3, "group_size": 4, "rewards": [{"name": "bright"}]},
}


@pytest.mark.timeout(600)
def test_a_run_whose_ranks_die_equals_an_undisturbed_one(redis_server: str, run_id: str, tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    whole_file, whole = write_recipe(tmp_path, f"{run_id}-whole", **SECTIONS)
    broken_file, broken = write_recipe(tmp_path, run_id, **SECTIONS)
    runs = [
        str(whole_file),
        "-",
        *(part for death in DEATHS for part in (str(broken_file), death)),
        str(broken_file),
        "-",
    ]
    environment = os.environ | {"PYTHONPATH": PYTHONPATH, "REDIS_URL": redis_server}
    command = [sys.executable, "-m", "tests.support.ranks_killing", *runs]
    with ExitStack() as stack:
        for recipe in (whole, broken):
            given = (redis_server, recipe.run.name, recipe.model.dir, BrightnessReward())
            stack.enter_context(rollout_workers(*given, name="bright"))
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=True
        )
    undisturbed, told, follower, leader, last = json.loads(done.stdout)
    assert undisturbed == last == [0, 0], done.stderr[-4000:]
    assert told[0] == 128 + signal.SIGTERM and told[1] != 0
    assert "checkpoint 1: complete" in done.stderr  # which is not due: rank 0 saved with the others before it left
    assert follower[1] == leader[0] == -signal.SIGKILL
    assert follower[0] not in (0, -signal.SIGKILL) and leader[1] not in (0, -signal.SIGKILL)
    directories = [recipe.run.dir / recipe.run.name for recipe in (whole, broken)]
    first, second = map(measured, directories)
    assert first == second and [line["update"] for line in first] == list(range(5))
    assert_same_final_weights(*directories)
    assert (checkpoints(directories[1] / "checkpoints")[-1] / "shards").is_dir()
