"""First stage: the vision half learns to name what each of its tokens shows, in the decoder's own words.

Qwen2-VL comes to HPSv3 able to read; a model of random weights has to be taught that first. The renderer knows every
pixel's letter.
There is no classifier to throw away: a token of the picture is compared with the embeddings of the words that prompts
are made of, so that the decoder later finds "A" in a picture where it finds "A" in a prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from varl.services.hpsv3.preprocess import CELL, resize
from varl.tiny.precision import autocast
from varl.tiny.preference.base import Base, Vocabulary
from varl.tiny.preference.facts import read_prompt
from varl.tiny.preference.pairs import soften
from varl.tiny.pretrain.schedule import StepLog, cosine_lr
from varl.tiny.render import COLOURS, OBJECTS, PITCHES, SIZE, Rendered, render_batch

GRID = 16  # tokens of a side
PIXELS = SIZE // GRID  # of the rendered picture in a token's side; letters are set on multiples of it
STRIP = 8  # rows of tokens that are looked at: half a picture has room for a word, and takes a third of the time
EMPTY_WEIGHT = 0.1  # of a token without ink in the loss of letters: nine in ten have none
LR = 2e-3
SCALE = 8.0  # of a dot product with an embedding, to make it a logit
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Seen:
    """What tokens show, int64 of one shape each.

    letter, before: the letter and the one to its left, 1 + index in A-Z and 0 for none; colour: index of the ink's or,
    without ink, of the ground's; thing: index of the object.
    """

    letter: Labels
    before: Labels
    colour: Labels
    thing: Labels


def token_labels(item: Rendered) -> Seen:
    """Of each token [16, 16].

    A letter's cell begins at a multiple of PIXELS, so that no token has ink of two letters.
    """
    letters = item.letters.reshape(GRID, PIXELS, GRID, PIXELS).max((1, 3)).astype(np.int64)
    band = GRID // len(item.words)
    left = np.concatenate([_left_letters(item, index)[None].repeat(band, 0) for index in range(len(item.words))])
    facts, colours = read_prompt(item.prompt), list(COLOURS)
    colour = np.where(letters > 0, colours.index(facts.ink), colours.index(facts.colour))
    return Seen(
        letters, np.where(letters > 0, left, 0), colour, np.full_like(letters, list(OBJECTS).index(facts.thing))
    )


def _left_letters(item: Rendered, index: int) -> Labels:
    """Of each column of tokens, int64 [16], the letter left of that of word ``index`` that stands there.

    The ink shows where the word is.
    """
    word, band = item.words[index], SIZE // len(item.words)
    pitch = max(p for p in PITCHES if p * len(word) <= SIZE) if len(item.words) == 1 else PITCHES[0]
    inked = np.flatnonzero(item.letters[index * band : (index + 1) * band].any(0))
    left = PIXELS * round(((inked[0] + inked[-1] + 1) / 2 - pitch * len(word) / 2) / PIXELS)
    places = ((PIXELS * np.arange(GRID) - left) // pitch).clip(0, len(word) - 1)
    found: Labels = np.array([0, *(ord(letter) - 64 for letter in word)], np.int64)[places]
    return found


def strip(item: Rendered, rng: np.random.Generator) -> tuple[Tensor, Seen]:
    """STRIP rows of tokens with a whole word in them: uint8 [3, 224, 448], and what they show, [8, 16]."""
    seen = token_labels(item)
    rows = np.flatnonzero(seen.letter.any(1))
    if len(item.words) == 1:
        top = int(rng.integers(max(0, rows[-1] + 1 - STRIP), min(rows[0], GRID - STRIP) + 1))
    else:
        top = int(rng.choice([0, GRID - STRIP]))
    part = slice(top, top + STRIP)
    image = resize(soften(item.image, rng))[:, top * CELL : (top + STRIP) * CELL]
    return image, Seen(seen.letter[part], seen.before[part], seen.colour[part], seen.thing[part])


def shift(embeddings: Tensor) -> Tensor:
    """Turn [..., D] by half of D: the code of a letter as a left neighbour.

    It differs from the code of the letter itself.
    """
    return embeddings.roll(embeddings.shape[-1] // 2, -1)


def named(states: Tensor, table: Tensor, ids: Vocabulary, before_only: bool = False) -> dict[str, Tensor]:
    """Logits of what states float32 [N, D] say.

    ``before`` [N, 27] and, unless that alone is wanted, ``letter``, ``colour``, ``thing``.
    ``table`` is the decoder's embeddings [V, D].
    """
    letters = table[[ids.blank, *ids.letters]]
    found = {"before": states @ shift(letters).T}
    if not before_only:
        found |= {
            "letter": states @ letters.T,
            "colour": states @ table[list(ids.colours)].T,
            "thing": states @ table[list(ids.things)].T,
        }
    return {name: SCALE * logits for name, logits in found.items()}


def seeing_loss(said: dict[str, Tensor], seen: Seen) -> tuple[Tensor, dict[str, float]]:
    """Sum of the four cross-entropies, and of each the share that is right, of letters among the tokens with ink."""
    labels = {name: torch.from_numpy(getattr(seen, name)).flatten() for name in said}
    inked = labels["letter"] > 0
    weight = torch.where(inked, 1.0, EMPTY_WEIGHT)
    loss, right = torch.zeros(()), {}
    for name, logits in said.items():
        each = functional.cross_entropy(logits, labels[name], reduction="none")
        loss = loss + ((each * weight).sum() / weight.sum() if name in ("letter", "before") else 0.3 * each.mean())
        hit = (logits.argmax(-1) == labels[name]).float()
        right[name] = (hit[inked] if name in ("letter", "before") else hit).mean().item()
    return loss, right


def train_letters(base: Base, steps: int, batch: int, seed: int, log: Callable[[str], None]) -> None:
    """Train the vision half and the embeddings on rendered pictures of training words and random strings."""
    rng = np.random.default_rng(seed)
    visual, table = base.model.visual, base.model.model.embed_tokens.weight
    optimizer = torch.optim.AdamW([*visual.parameters(), table], betas=(0.9, 0.98), weight_decay=0.01)
    progress = StepLog("letters", steps, log, every=25)
    for step in range(steps):
        cosine_lr(optimizer, LR, step, steps)
        images, parts = zip(*(strip(item, rng) for item in render_batch(batch, rng)), strict=True)
        seen = Seen(
            *(np.stack([getattr(part, name) for part in parts]) for name in ("letter", "before", "colour", "thing"))
        )
        with autocast():
            features = torch.cat(visual(images))
        loss, right = seeing_loss(named(features.float(), table, base.vocabulary), seen)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_([*visual.parameters(), table], 1.0)
        optimizer.step()
        progress.update(step, loss=loss.item(), **right)
