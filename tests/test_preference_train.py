"""Training on a tiny setting, and what the committed checkpoint claims."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from services.hpsv3.golden import PICTURES, read_golden
from services.hpsv3.preprocess import resize
from trainer.preference import base as bases
from trainer.preference.evaluate import held_out_pairs, scores
from trainer.preference.loss import draw_noise
from trainer.preference.pairs import DAMAGES, make_pair
from trainer.preference.train import LetterProbe, pair_loss

CHECKPOINT = Path("checkpoints/hpsv3-tiny-synthetic")


@pytest.fixture(scope="module")
def trained() -> bases.Base:
    return bases.load(CHECKPOINT)


def test_a_few_steps_reduce_the_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WIDTH", 32), ("HEADS", 1), ("LAYERS", 2), ("VISION_WIDTH", 32), ("VISION_HEADS", 1), ("VISION_LAYERS", 1)):
        monkeypatch.setattr(bases, name, value)
    base = bases.create(tmp_path, seed=0)
    probe = LetterProbe(base)
    optimizer = torch.optim.AdamW([*base.model.parameters(), *probe.parameters()], lr=3e-3)
    rng = np.random.default_rng(0)
    pairs = [make_pair(kind, rng) for kind in ("noise", "word", "blur", "contrast")]
    losses = []
    for step in range(8):
        loss, parts = pair_loss(base, probe, pairs, draw_noise(len(pairs), torch.Generator().manual_seed(step)))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(parts["preference"])
    assert losses[-1] < 0.8 * losses[0]


def test_prompt_letters_are_single_tokens_and_the_instruction_few(tmp_path: Path) -> None:
    base = bases.create(tmp_path, seed=0)
    ids = base.prompts.token_ids("a red sign that says 'QUIZ TO'", 256)
    assert sum(token in base.letters for token in ids) == 6
    assert len(ids) < 256 + 80


def test_checkpoint_is_small_and_scores_its_golden_picture(trained: bases.Base) -> None:
    assert sum(file.stat().st_size for file in CHECKPOINT.iterdir()) < 15e6
    golden = read_golden(CHECKPOINT)
    assert golden is not None
    picture = resize(PICTURES[golden.image]())
    with torch.no_grad():
        found = trained.model.eval()([picture], [trained.prompts.token_ids(golden.prompt, 256)])[0].tolist()
    assert found == pytest.approx([golden.mu, golden.log_sigma], abs=1e-3)


def test_checkpoint_prefers_the_undamaged_of_held_out_pairs(trained: bases.Base) -> None:
    """Damage alone: of the words it knows too little, as docs/preference_model.md says."""
    pairs = [pair for kind in DAMAGES for pair in held_out_pairs(kind, 6, seed=5)]
    texts = [pair.prompt for pair in pairs]
    better, worse = (scores(trained, images, texts)[:, 0] for images in ([p.better for p in pairs], [p.worse for p in pairs]))
    assert (better > worse).float().mean() >= 0.9
