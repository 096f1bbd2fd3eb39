"""How often the model prefers the better picture of held-out pairs, by what is wrong with the worse one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from varl.tiny.preference.base import Base
from varl.tiny.preference.pairs import KINDS, Pair, make_pair
from varl.tiny.preference.train import forward
from varl.tiny.render import Pixels

BATCH = 16


@torch.no_grad()
def scores(base: Base, images: Sequence[Pixels], texts: Sequence[str]) -> torch.Tensor:
    """Mu and log sigma float32 [N, 2] of pictures uint8 [H, W, 3] for their prompts, without dropout."""
    base.model.eval()
    parts = [forward(base, images[i : i + BATCH], texts[i : i + BATCH])[0] for i in range(0, len(images), BATCH)]
    base.model.train()
    return torch.cat(parts)


def held_out_pairs(kind: str, count: int, seed: int) -> list[Pair]:
    """Pairs of words that training never shows; the same for a seed whatever the other kinds are."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    return [make_pair(kind, rng, held_out=True) for _ in range(count)]


def accuracies(base: Base, count: int, seed: int) -> dict[str, float]:
    """Share of ``count`` held-out pairs of each kind whose better picture has the higher mu; ``all`` is their mean."""
    found: dict[str, float] = {}
    for kind in KINDS:
        pairs = held_out_pairs(kind, count, seed)
        texts = [pair.prompt for pair in pairs]
        better, worse = (
            scores(base, images, texts)[:, 0] for images in ([p.better for p in pairs], [p.worse for p in pairs])
        )
        found[kind] = (better > worse).float().mean().item()
    return found | {"all": sum(found.values()) / len(found)}


def as_text(accuracy: dict[str, float]) -> str:
    """One line."""
    return ", ".join(f"{kind} {value:.3f}" for kind, value in accuracy.items())
