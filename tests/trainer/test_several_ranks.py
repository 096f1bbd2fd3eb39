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

from tests.support.infinity_models import random_policy
from tests.support.paths import PYTHONPATH, ROOT
from tests.support.ranks_rig import MODELS, PROMPT, RECIPE, resumed, script, trained_of
from varl.policy import lora
from varl.policy.nextflow import build_random
from varl.trainer.disk.atomic import damage
from varl.trainer.recipe.size.ranks import rank_memory
from varl.trainer.run import trained_state

CLOSE = 1e-5  # float32 sums in another order, after three steps of 1e-3
FOLDERS = ("trained", "resumed")
ROUNDED = "adapters of a bfloat16 base"
EXACT = [kind for kind in MODELS if kind != ROUNDED]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """What one process and two ranks left, each having resumed from the other's checkpoints as well."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    torch.set_num_threads(1)
    for kind in MODELS:
        script(trained_state(*trained_of(kind)), one / kind)
    command = [sys.executable, "-m", "tests.support.ranks_rig", "2", str(two), str(one)]
    environment = os.environ | {"PYTHONPATH": PYTHONPATH}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=True)
    assert json.loads(done.stdout) == [[0, 0]] * len(MODELS), done.stderr[-4000:]
    for kind in MODELS:
        resumed(trained_state(*trained_of(kind)), two / kind / "000002", one / kind)
    return one, two


@pytest.mark.parametrize("kind", EXACT)
def test_two_ranks_move_the_weights_as_one_process_does(runs: tuple[Path, Path], kind: str) -> None:
    for folder in FOLDERS:
        for name in ("policy.safetensors", "average.safetensors"):
            first, second = (load_file(run / kind / folder / name) for run in runs)
            assert first.keys() == second.keys()
            assert all(torch.allclose(first[key], second[key], rtol=0, atol=CLOSE) for key in first), (folder, name)
    start, end = lora.trained_state(MODELS[kind]().module), load_file(runs[1] / kind / "trained" / "policy.safetensors")
    assert max(float((end[key] - start[key]).abs().max()) for key in end) > 100 * CLOSE  # there was something to miss


@pytest.mark.parametrize("kind", EXACT)
def test_two_ranks_measure_what_one_process_does(runs: tuple[Path, Path], kind: str) -> None:
    for folder in FOLDERS:
        first, second = (json.loads((run / kind / folder / "lines.json").read_text()) for run in runs)
        assert len(first) == len(second) == (3 if folder == "trained" else 1)
        for one, two in zip(first, second, strict=True):
            assert one.pop("outcome") == two.pop("outcome") == "stepped"
            assert one["zero_std_ratio"] == 0.25 and one["grad_norm"] > RECIPE.optimizer.grad_clip
            assert two == pytest.approx(one, rel=1e-4, abs=CLOSE)


@pytest.mark.parametrize("kind", MODELS)
def test_a_rank_holds_what_a_dry_run_says(runs: tuple[Path, Path], kind: str, tmp_path: Path) -> None:
    recipe = trained_of(kind)[0]
    (build_random(0) if kind == "nextflow" else random_policy()).save(tmp_path)
    dtype = "bfloat16" if kind == ROUNDED else "float32"
    model = recipe.model.model_copy(update={"dir": tmp_path, "dtype": dtype})
    found = rank_memory(recipe.model_copy(update={"model": model}), PROMPT, 2)
    held = json.loads((runs[1] / kind / "trained" / "held.json").read_text())
    said = {name: found[name] for name in held} | {"weights": found["weights"] + found["adapters"]}
    assert held == pytest.approx(said, rel=0.05, abs=1000)  # what cannot be halved lies at rank 0


def test_adapters_of_a_bfloat16_base_move_as_in_one_process_but_for_rounding(runs: tuple[Path, Path]) -> None:
    lines = [json.loads((run / ROUNDED / "trained" / "lines.json").read_text()) for run in runs]
    for one, two in zip(*lines, strict=True):
        assert [two[name] for name in ("loss", "grad_norm")] == pytest.approx([one["loss"], one["grad_norm"]], rel=1e-2)
    files = [load_file(run / ROUNDED / "trained" / "policy.safetensors") for run in runs]
    first, second = (torch.cat([file[key].flatten() for key in sorted(file) if key.endswith(lora.B)]) for file in files)
    assert 0 < float((first - second).norm()) < 0.1 * float(first.norm())  # B began at 0: this is all it has moved


@pytest.mark.parametrize("kind", MODELS)
def test_each_rank_writes_a_part_of_a_checkpoint_under_one_seal(runs: tuple[Path, Path], kind: str) -> None:
    checkpoint = runs[1] / kind / "000002"
    parts = sorted((checkpoint / "shards").iterdir())
    assert len(parts) == 2 and all(part.suffix == ".safetensors" for part in parts)
    assert not (checkpoint / "policy.safetensors").exists() and damage(checkpoint) is None
    whole = sum(value.numel() for value in load_file(runs[0] / kind / "000002" / "policy.safetensors").values())
    sizes = [sum(value.numel() for value in load_file(part).values()) for part in parts]
    assert max(sizes) < 5 * whole * 0.6  # weights, averages, two moments and, where it moves, the reference, in halves
    content = parts[0].read_bytes()
    parts[0].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert damage(checkpoint) == f"shards/{parts[0].name} has changed"
    parts[0].write_bytes(content)
