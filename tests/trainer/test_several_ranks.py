"""Two ranks give the loss and the weights of one process, and their checkpoints are those of any number of ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.paths import PYTHONPATH, ROOT
from tests.support.ranks_rig import MODELS, RECIPE, resumed, script
from varl.trainer.disk.atomic import damage
from varl.trainer.run import trained_state

CLOSE = 1e-5  # float32 sums in another order, after three steps of 1e-3
FOLDERS = ("trained", "resumed")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """What one process and two ranks left, each having resumed from the other's checkpoints as well."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    for kind, model in MODELS.items():
        script(trained_state(RECIPE, model(), model()), one / kind)
    command = [sys.executable, "-m", "tests.support.ranks_rig", "2", str(two), str(one)]
    environment = os.environ | {"PYTHONPATH": PYTHONPATH}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=True)
    assert json.loads(done.stdout) == [[0, 0]] * len(MODELS), done.stderr[-4000:]
    for kind, model in MODELS.items():
        resumed(trained_state(RECIPE, model(), model()), two / kind / "000002", one / kind)
    return one, two


@pytest.mark.parametrize("kind", MODELS)
def test_two_ranks_move_the_weights_as_one_process_does(runs: tuple[Path, Path], kind: str) -> None:
    for folder in FOLDERS:
        for name in ("policy.safetensors", "average.safetensors"):
            first, second = (load_file(run / kind / folder / name) for run in runs)
            assert first.keys() == second.keys()
            assert all(torch.allclose(first[key], second[key], rtol=0, atol=CLOSE) for key in first), (folder, name)
    start, end = MODELS[kind]().module.state_dict(), load_file(runs[1] / kind / "trained" / "policy.safetensors")
    assert max(float((end[key] - start[key]).abs().max()) for key in end) > 100 * CLOSE  # there was something to miss


@pytest.mark.parametrize("kind", MODELS)
def test_two_ranks_measure_what_one_process_does(runs: tuple[Path, Path], kind: str) -> None:
    for folder in FOLDERS:
        first, second = (json.loads((run / kind / folder / "lines.json").read_text()) for run in runs)
        assert len(first) == len(second) == (3 if folder == "trained" else 1)
        for one, two in zip(first, second, strict=True):
            assert one.pop("outcome") == two.pop("outcome") == "stepped"
            assert one["zero_std_ratio"] == 0.25 and one["grad_norm"] > RECIPE.optimizer.grad_clip
            assert two == pytest.approx(one, rel=1e-4, abs=CLOSE)


@pytest.mark.parametrize("kind", MODELS)
def test_each_rank_writes_a_part_of_a_checkpoint_under_one_seal(runs: tuple[Path, Path], kind: str) -> None:
    checkpoint = runs[1] / kind / "000002"
    parts = sorted((checkpoint / "shards").iterdir())
    assert len(parts) == 2 and all(part.suffix == ".safetensors" for part in parts)
    assert not (checkpoint / "policy.safetensors").exists() and damage(checkpoint) is None
    whole = sum(value.numel() for value in load_file(runs[0] / kind / "000002" / "policy.safetensors").values())
    sizes = [sum(value.numel() for value in load_file(part).values()) for part in parts]
    assert max(sizes) < 5 * whole * 0.6  # weights, reference, averages and two moments, in halves
    content = parts[0].read_bytes()
    parts[0].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert damage(checkpoint) == f"shards/{parts[0].name} has changed"
    parts[0].write_bytes(content)
