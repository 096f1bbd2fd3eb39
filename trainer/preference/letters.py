"""First stage: the vision half learns to see which letter stands in each of its tokens, and in which place of which word.

Qwen2-VL comes to HPSv3 able to read; a model of random weights has to be taught that first. The renderer knows every pixel's letter.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from services.hpsv3.model import RewardModel
from services.hpsv3.preprocess import CELL, resize
from trainer.preference.pairs import soften
from trainer.pretrain.render import PITCHES, SIZE, Rendered, render_batch
from trainer.pretrain.schedule import Progress, cosine_lr
from trainer.pretrain.words import MAX_LETTERS

GRID = 16  # tokens of a side
PIXELS = SIZE // GRID  # of the rendered picture in a token's side; letters are set on multiples of it
STRIP = 8  # rows of tokens that are looked at: half a picture has room for a word, and takes a third of the time
LETTERS, PLACES = 27, 1 + MAX_LETTERS  # with 0 for no ink
EMPTY_WEIGHT = 0.1  # of a token without ink in the loss: nine in ten have none
LR = 2e-3
Labels = npt.NDArray[np.int64]


def token_labels(item: Rendered) -> tuple[Labels, Labels]:
    """For each token, int64 [16, 16]: its letter, 1 + index in A-Z, and the letter's place, 1 + index in the word; 0 without ink.

    A letter's cell begins at a multiple of PIXELS, so that no token has ink of two letters.
    """
    letters = item.letters.reshape(GRID, PIXELS, GRID, PIXELS).max((1, 3)).astype(np.int64)
    band = GRID // len(item.words)
    columns = [_columns(item, index)[None].repeat(band, 0) for index in range(len(item.words))]
    places: Labels = np.where(letters > 0, 1 + np.concatenate(columns), 0)
    return letters, places


def _columns(item: Rendered, index: int) -> Labels:
    """Of each column of tokens, int64 [16], the index of the letter in word ``index``; found from the middle of the word's ink."""
    word, band = item.words[index], SIZE // len(item.words)
    pitch = max(p for p in PITCHES if p * len(word) <= SIZE) if len(item.words) == 1 else PITCHES[0]
    inked = np.flatnonzero(item.letters[index * band : (index + 1) * band].any(0))
    left = PIXELS * round(((inked[0] + inked[-1] + 1) / 2 - pitch * len(word) / 2) / PIXELS)
    places: Labels = ((PIXELS * np.arange(GRID) - left) // pitch).clip(0, len(word) - 1).astype(np.int64)
    return places


def strip(item: Rendered, rng: np.random.Generator) -> tuple[Tensor, Labels, Labels]:
    """STRIP rows of tokens with a whole word in them: uint8 [3, 224, 448], its letters and places int64 [8, 16]."""
    letters, places = token_labels(item)
    rows = np.flatnonzero(letters.any(1))
    if len(item.words) == 1:
        top = int(rng.integers(max(0, rows[-1] + 1 - STRIP), min(rows[0], GRID - STRIP) + 1))
    else:
        top = int(rng.choice([0, GRID - STRIP]))
    image = resize(soften(item.image, rng))[:, top * CELL : (top + STRIP) * CELL]
    return image, letters[top : top + STRIP], places[top : top + STRIP]


def letter_loss(said: Tensor, letters: Tensor, places: Tensor) -> tuple[Tensor, float]:
    """Cross-entropy of letters and places, and the share of tokens with ink whose letter is right.

    Args:
        said: logits float32 [N, LETTERS + PLACES].
        letters: int64 [N].
        places: int64 [N].

    """
    said_letters, said_places = said[:, :LETTERS], said[:, LETTERS:]
    loss = _weighted(said_letters, letters) + _weighted(said_places, places)
    return loss, (said_letters.argmax(-1) == letters)[letters > 0].float().mean().item()


def _weighted(said: Tensor, labels: Tensor) -> Tensor:
    weight = torch.ones(said.shape[-1])
    weight[0] = EMPTY_WEIGHT
    return functional.cross_entropy(said, labels, weight=weight)


def train_letters(model: RewardModel, steps: int, batch: int, seed: int, log: Callable[[str], None]) -> None:
    """Train the vision half on rendered pictures of training words and random strings; the classifier is thrown away."""
    rng = np.random.default_rng(seed)
    probe = nn.Linear(model.visual.config.hidden_size, LETTERS + PLACES)
    optimizer = torch.optim.AdamW([*model.visual.parameters(), *probe.parameters()], betas=(0.9, 0.98), weight_decay=0.01)
    progress = Progress("letters", steps, log, every=25)
    for step in range(steps):
        cosine_lr(optimizer, LR, step, steps)
        images, letters, places = zip(*(strip(item, rng) for item in render_batch(batch, rng)), strict=True)
        with torch.autocast("cpu", torch.bfloat16):
            features = torch.cat(model.visual(images))
        loss, right = letter_loss(probe(features.float()), *(torch.from_numpy(np.stack(part)).flatten() for part in (letters, places)))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.visual.parameters(), 1.0)
        optimizer.step()
        progress.update(step, loss=loss.item(), letters=right)
