"""Training on a tiny setting, and what the committed checkpoint claims."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from varl.services.hpsv3.golden import PICTURES, read_golden
from varl.services.hpsv3.preprocess import resize
from varl.services.hpsv3.prompt import read_wording
from varl.tiny.preference import base as bases
from varl.tiny.preference.evaluate import held_out_pairs, scores
from varl.tiny.preference.loss import draw_noise
from varl.tiny.preference.pairs import CONTENT_SHARES, DAMAGES, make_pair
from varl.tiny.preference.tokens import build_tokenizer
from varl.tiny.preference.train import PromptProbe, pair_loss

CHECKPOINT = Path("checkpoints/hpsv3-tiny-synthetic")
SMALL = (("WIDTH", 32), ("HEADS", 1), ("LAYERS", 2), ("VISION_WIDTH", 32), ("VISION_HEADS", 1), ("VISION_LAYERS", 1))


@pytest.fixture(scope="module")
def trained() -> bases.Base:
    return bases.load(CHECKPOINT)


def test_a_few_steps_reduce_every_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SMALL:
        monkeypatch.setattr(bases, name, value)
    base = bases.create(tmp_path, seed=0)
    probe = PromptProbe(base)
    optimizer = torch.optim.AdamW([*base.model.parameters(), *probe.parameters()], lr=3e-3)
    rng = np.random.default_rng(0)
    pairs = [make_pair(kind, rng) for kind in ("noise", "word", "scene", "contrast")]
    losses = []
    for step in range(8):
        loss, parts = pair_loss(base, probe, pairs, draw_noise(len(pairs), torch.Generator().manual_seed(step)))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append((parts["preference"], parts["match"]))
    assert losses[-1][0] < 0.8 * losses[0][0] and losses[-1][1] < losses[0][1]


@pytest.mark.parametrize("committed", [False, True])
def test_no_token_is_more_than_one_word(committed: bool) -> None:
    tokenizer = (
        Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json")) if committed else build_tokenizer(read_wording())
    )
    tokens = [tokenizer.decode([number]) for number in range(tokenizer.get_vocab_size())]
    assert max(len(token.split()) for token in tokens) == 1
    assert max(map(len, tokens)) < 25, "the longest are control tokens"


def test_the_short_wording_is_the_line_of_the_prompt(tmp_path: Path) -> None:
    base = bases.create(tmp_path, seed=0)
    prompt = "a red sign that says 'CAT'"
    long, short = (prompts.token_ids(prompt, 4) for prompts in (base.prompts, base.short_prompts))
    assert len(short) < 80 and len(long) > 400
    assert long[-25:] == short[-25:], "the prompt and what follows it"


def test_prompt_letters_are_single_tokens_and_words_of_the_instruction_too(tmp_path: Path) -> None:
    base = bases.create(tmp_path, seed=0)
    ids = base.prompts.token_ids("a red sign that says 'QUIZ TO'", 256)
    assert [token for token in ids[-25:] if token in base.vocabulary.letters] == [
        base.vocabulary.letters[ord(c) - 65] for c in "QUIZTO"
    ]
    assert sum(token in base.vocabulary.asked for token in ids) == 8, "the colour, the object and six letters"
    assert len(ids) < 256 + 560


def test_checkpoint_is_small_and_scores_its_golden_picture(trained: bases.Base) -> None:
    assert sum(file.stat().st_size for file in CHECKPOINT.iterdir()) < 15e6
    golden = read_golden(CHECKPOINT)
    assert golden is not None
    picture = resize(PICTURES[golden.image]())
    with torch.no_grad():
        found = trained.model.eval()([picture], [trained.prompts.token_ids(golden.prompt, 256)])[0].tolist()
    assert found == pytest.approx([golden.mu, golden.log_sigma], abs=1e-3)


@pytest.mark.heavy
def test_checkpoint_prefers_the_undamaged_of_held_out_pairs(trained: bases.Base) -> None:
    assert share_in_order(trained, DAMAGES, 6) >= 0.9


@pytest.mark.heavy
def test_checkpoint_prefers_what_the_prompt_asks_for(trained: bases.Base) -> None:
    assert share_in_order(trained, CONTENT_SHARES, 10) >= 0.75


def share_in_order(base: bases.Base, kinds: Iterable[str], count: int) -> float:
    """Over ``count`` held-out pairs of each kind."""
    pairs = [pair for kind in kinds for pair in held_out_pairs(kind, count, seed=5)]
    texts = [pair.prompt for pair in pairs]
    better, worse = (
        scores(base, images, texts)[:, 0] for images in ([p.better for p in pairs], [p.worse for p in pairs])
    )
    return (better > worse).float().mean().item()
