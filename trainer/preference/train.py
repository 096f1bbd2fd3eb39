"""Second and third stage: the decoder, then the whole model, learn to prefer the better picture of a pair, by HPSv3's loss.

Beside that, a classifier that is thrown away afterwards asks of each letter in the prompt whether the picture shows it in its place.
A preference says once per pair what this says ten times; without it, the model takes no notice of words in the time it has here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from services.hpsv3.preprocess import resize, token_count
from trainer.preference.base import Base
from trainer.preference.loss import draw_noise, uncertainty_loss
from trainer.preference.pairs import SHARES, WORD_SHARES, Pair, draw_pairs
from trainer.pretrain.render import Pixels
from trainer.pretrain.schedule import Progress, cosine_lr

LR = 1e-3
MATCH_WEIGHT = 1.0


class LetterProbe(nn.Module):
    """One logit per letter of a prompt, from the input of the decoder's last layer."""

    def __init__(self, base: Base) -> None:
        super().__init__()
        self.letters = base.letters
        self.linear = nn.Linear(base.model.model.config.hidden_size, 1)
        self._states = torch.empty(0)
        self._hook = base.model.model.layers[-1].register_forward_pre_hook(self._keep)

    def detach(self) -> None:
        """Let go of the model."""
        self._hook.remove()

    def _keep(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._states = inputs[0]

    def loss(self, rows: Sequence[Sequence[int]], matches: Sequence[Sequence[bool]]) -> tuple[Tensor, float]:
        """Cross-entropy over the letters of the prompts of the last forward, and the share of them that is judged right.

        Args:
            rows: token ids of the batch.
            matches: for each row, of each letter of its prompt whether the picture shows it; empty to leave the row out.

        """
        found = [
            (row, place, match)
            for row, (ids, known) in enumerate(zip(rows, matches, strict=True))
            if known
            for place, match in zip([i for i, token in enumerate(ids) if token in self.letters][-len(known) :], known, strict=True)
        ]
        row, place, match = (torch.tensor(part) for part in zip(*found, strict=True))
        said = self.linear(self._states[row, place].float()).squeeze(-1)
        right = ((said > 0) == match).float().mean().item()
        return functional.binary_cross_entropy_with_logits(said, match.float()), right


def letter_matches(asked: Sequence[str], shown: Sequence[str] | None) -> list[bool]:
    """Of each letter of the words asked for, whether the words shown have it in its place; empty where nothing is known."""
    if shown is None:
        return []
    return [k < len(seen) and seen[k] == letter for word, seen in zip(asked, shown, strict=True) for k, letter in enumerate(word)]


def forward(base: Base, images: Sequence[Pixels], texts: Sequence[str]) -> tuple[Tensor, list[list[int]]]:
    """Scores float32 [B, 2] of pictures uint8 [H, W, 3] for their prompts, in bfloat16 within; and the token ids."""
    resized = [resize(image) for image in images]
    rows = [base.prompts.token_ids(text, token_count(image)) for text, image in zip(texts, resized, strict=True)]
    with torch.autocast("cpu", torch.bfloat16):
        return base.model(resized, rows).float(), rows


def pair_loss(base: Base, probe: LetterProbe, pairs: Sequence[Pair], noise: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Loss of a batch, and its parts with the share of pairs in the right order; ``noise`` as ``uncertainty_loss`` takes it."""
    images = [pair.better for pair in pairs] + [pair.worse for pair in pairs]
    scores, rows = forward(base, images, 2 * [pair.prompt for pair in pairs])
    better, worse = scores.chunk(2)
    matches = [letter_matches(pair.asked, None if pair.graded else pair.asked) for pair in pairs]
    matches += [letter_matches(pair.asked, pair.shown) for pair in pairs]
    preference = uncertainty_loss(better, worse, noise)
    match, right = probe.loss(rows, matches)
    order = (better[:, 0] > worse[:, 0]).float().mean().item()
    return preference + MATCH_WEIGHT * match, {"preference": preference.item(), "order": order, "match": match.item(), "letters": right}


def train_words(base: Base, steps: int, batch: int, seed: int, log: Callable[[str], None]) -> None:
    """Train on ``batch`` pairs of a right and a wrong word a step, with the vision half as it is: that saves a third of the time."""
    base.model.visual.requires_grad_(False)
    for _ in _steps(base, "words", WORD_SHARES, steps, batch, seed, log):
        pass
    base.model.visual.requires_grad_(True)


def train_pairs(
    base: Base, steps: int, batch: int, seed: int, log: Callable[[str], None], check: Callable[[int], None], check_every: int
) -> None:
    """Train on ``batch`` pairs of every kind a step; ``check(step)`` runs every ``check_every`` steps and after the last one."""
    for step in _steps(base, "pairs", SHARES, steps, batch, seed, log):
        if step % check_every == 0 or step == steps:
            check(step)


def _steps(
    base: Base, name: str, shares: Mapping[str, float], steps: int, batch: int, seed: int, log: Callable[[str], None]
) -> Iterator[int]:
    """Number of each step, counted from 1, when it is done."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    probe = LetterProbe(base)
    parameters = [*(p for p in base.model.parameters() if p.requires_grad), *probe.parameters()]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.01)
    progress = Progress(name, steps, log, every=25)
    for step in range(steps):
        cosine_lr(optimizer, LR, step, steps)
        loss, parts = pair_loss(base, probe, draw_pairs(batch, rng, shares), draw_noise(batch, generator))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        progress.update(step, **parts)
        yield step + 1
    probe.detach()
