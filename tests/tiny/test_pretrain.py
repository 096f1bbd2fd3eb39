"""The tiny task's data: which words may be seen where, and what the renderer draws."""

import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from varl.policy.nextflow import load
from varl.services.ocr.targets import resolve_targets
from varl.tiny.pretrain.task import TaskName, task
from varl.tiny.pretrain.train_policy import INK_WEIGHT, ink_weights
from varl.tiny.pretrain.train_tokenizer import cell_letters
from varl.tiny.render import render, render_batch
from varl.tiny.words import held_out_words, is_held_out, random_string, training_words
from varl.trajectories.prompt_files import load_prompts

PROMPTS = Path("recipes/prompts")


def test_no_held_out_word_is_ever_trained_on() -> None:
    train = {word for spec in load_prompts(PROMPTS / "tiny_train.jsonl") for word in spec.target_words}
    held_out = {word for spec in load_prompts(PROMPTS / "tiny_heldout.jsonl") for word in spec.target_words}
    assert train <= set(training_words())
    assert held_out <= set(held_out_words())
    assert not train & held_out
    rng = np.random.default_rng(0)
    assert not any(is_held_out(random_string(rng)) for _ in range(500))
    assert not any(is_held_out(word) for item in render_batch(200, rng) for word in item.words)


def test_the_prompt_files_are_what_the_script_writes() -> None:
    for name in get_args(TaskName):
        for stem, specs in task(name).prompts().items():
            assert load_prompts(PROMPTS / f"{stem}.jsonl") == specs


@pytest.mark.parametrize("stem", ["signs", "tiny"])
def test_every_prompt_names_its_words_in_quotes(stem: str) -> None:
    for spec in load_prompts(PROMPTS / f"{stem}_heldout.jsonl")[:100]:
        assert resolve_targets(spec.prompt, ()) == tuple(word.lower() for word in spec.target_words)


def test_letters_lie_where_the_ink_is() -> None:
    item = render(("SUN", "SEA"), np.random.default_rng(3), grain=0.0)
    assert item.image.shape == (64, 64, 3)
    assert set(np.unique(item.letters[:32])) == {0, *(ord(c) - 64 for c in "SUN")}
    assert set(np.unique(item.letters[32:])) == {0, *(ord(c) - 64 for c in "SEA")}
    ink = item.image[item.letters > 0].astype(float).mean(0)
    paper = np.median(item.image[item.letters == 0].astype(float), axis=0)
    assert np.abs(ink - paper).max() > 60  # legible contrast


def test_cells_carry_the_letter_with_most_ink() -> None:
    item = render(("HI",), np.random.default_rng(1))
    cells = cell_letters([item], 8)[0].numpy()
    assert cells.shape == (8, 8)
    assert set(np.unique(cells)) == {0, ord("H") - 64, ord("I") - 64}


def test_cells_with_ink_weigh_more_and_the_mean_stays_one() -> None:
    item = render(("HI",), np.random.default_rng(1), grain=0.0)
    grids = ((1, 1), (8, 8))
    weights = ink_weights([item, item], grids)
    assert weights.shape == (2, 65)
    assert weights[:, 0].tolist() == [1.0, 1.0]  # one cell is all of its scale
    fine = weights[0, 1:].view(8, 8)
    ink = item.letters.reshape(8, 8, 8, 8).max((1, 3)) > 0
    assert float(fine.mean()) == pytest.approx(1)
    assert set((fine / fine.min()).round().int()[ink].tolist()) == {int(INK_WEIGHT)}
    assert set((fine / fine.min()).round().int()[~ink].tolist()) == {1}


def test_pretraining_runs_from_nothing_to_a_loadable_model(tmp_path: Path) -> None:
    steps = {"semantic-steps": 2, "tokenizer-steps": 2, "policy-steps": 1, "batch": 2, "threads": 1, "check-prompts": 2}
    flags = [text for name, value in steps.items() for text in (f"--{name}", str(value))]
    command = [
        sys.executable,
        "-m",
        "varl.tiny.pretrain",
        "--out",
        str(tmp_path / "m"),
        "--prompts",
        str(tmp_path / "p"),
        "--state",
        str(tmp_path / "s"),
        *flags,
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert result.returncode == 0, result.stderr[-2000:]
    assert load(tmp_path / "m").image_size == (108, 108)
    assert "held-out words" in (tmp_path / "m" / "pretrain.log").read_text()
