"""Trainer runs to compare: the recipe, trainers that die on command, and what must be equal at the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from tests.support.paths import PYTHONPATH, ROOT
from tests.support.trainer_rig import METHOD, make_recipe, read_metrics
from varl.trainer.checkpoints.checkpoint import checkpoints
from varl.trainer.recipe.config import Recipe
from varl.trainer.recipe.describe import to_toml

UPDATES = 7


def run_trainers(recipe: Path, redis_url: str, *deaths: str) -> list[int]:
    """Exit statuses of consecutive trainers.

    Each is a process of its own that dies as ``deaths`` say, but for a last one that does not.
    """
    environment = os.environ | {"PYTHONPATH": PYTHONPATH, "REDIS_URL": redis_url}
    command = [sys.executable, "-m", "tests.support.killing", str(recipe), *deaths]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=True)
    statuses: list[int] = json.loads(done.stdout)
    assert statuses[-1] == 0, done.stderr[-3000:]
    return statuses


def write_recipe(directory: Path, name: str, **sections: Any) -> tuple[Path, Recipe]:  # noqa: ANN401
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
    return [
        {name: value for name, value in line.items() if not name.startswith("timing/")} for line in read_metrics(run)
    ]


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
