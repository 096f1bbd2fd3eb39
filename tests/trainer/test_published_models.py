"""Tiny random checkpoints in the published formats: converted, trained by real processes, killed and resumed."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

from tests.support.paths import ROOT
from tests.support.published_models import infinity_folder, qwen_folder
from tests.support.rollout_helpers import start_rollout, wait_until_ready
from tests.support.same_runs import assert_same_run, assert_same_tensors, run_trainers, write_recipe
from tests.support.trainer_rig import PROMPTS, column
from varl import cli
from varl.policy.load import load
from varl.trainer.recipe.config import Recipe

UPDATES = 2
DEATH = "torch.optim:AdamW.step:2:after"  # of the second update, which is lost; the first one is in a checkpoint


@contextmanager
def processes(*started: subprocess.Popen[str]) -> Iterator[None]:
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def reward() -> Iterator[str]:
    """The example of docs/own_reward.md, served; its gRPC address."""
    place = str(ROOT / "examples" / "brightness.py") + ":Brightness"
    command = [sys.executable, "-m", "varl.services.reward", place, "--http-port", "0", "--grpc-port", "0"]
    service = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    with processes(service):
        yield f"127.0.0.1:{wait_until_ready(service)['grpc_port']}"


def infinity(folder: Path) -> Path:
    return infinity_folder(folder, PROMPTS)


def train(
    redis_url: str, file: Path, recipe: Recipe, reward: str, deaths: Sequence[str] = ()
) -> tuple[Path, list[int]]:
    """A run with a rollout worker of its own; where it is, and how its trainers that were to die ended."""
    worker = start_rollout(redis_url, recipe.run.name, recipe.model.dir, {"bright": reward})
    with processes(worker):
        *killed, _ = run_trainers(file, redis_url, *deaths)
    return recipe.run.dir / recipe.run.name, killed


@pytest.mark.parametrize("make", [infinity, qwen_folder], ids=["infinity", "nextflow with Qwen's text"])
@pytest.mark.timeout(600)  # four processes that import torch, on a machine that may be busy
def test_a_published_checkpoint_is_trained_published_and_resumed_bit_for_bit(
    make: Callable[[Path], Path], redis_server: str, run_id: str, tmp_path: Path, reward: str
) -> None:
    model, runs = make(tmp_path), list[Path]()
    objective = {"stages": "vmr", "split_scale": 3, "prefix_per_suffix": 1, "mask_propagation": "off"}
    for name, deaths in ((f"{run_id}-whole", ()), (run_id, (DEATH,))):
        file, recipe = write_recipe(
            tmp_path,
            name,
            run={"updates": UPDATES},
            objective=objective,
            checkpoint={"every": 1},
            evaluation={"every": UPDATES, "prompts": 2},
        )
        run, killed = train(redis_server, file, recipe, reward, deaths)
        assert killed == [-signal.SIGKILL] * len(deaths)
        runs.append(run)
    assert_same_run(*runs)
    for run in runs:
        assert column(run, "groups/used") == [2.0] * UPDATES
        assert max(column(run, "ratio_max_deviation")) < 1e-3
    published, again = (max((run / "weights").glob("v*.safetensors")) for run in runs)
    assert published.name == again.name
    assert_same_tensors(published, again)
    moved, base = load_file(published), load_file(model / "policy.safetensors")
    assert moved.keys() == base.keys() and any(bool((moved[name] != base[name]).any()) for name in base)
    picture = tmp_path / "image.png"
    weights = ["--weights", str(published)]
    assert cli.main(["generate", PROMPTS[0], "--model", str(model), *weights, "-o", str(picture)]) == 0
    with Image.open(picture) as image:
        assert image.size == load(model).image_size[::-1]
