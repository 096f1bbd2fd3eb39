"""Prompts of the tiny recipes: those of RL, of words for training, and those of evaluation, of held-out words."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from varl.tiny.render import draw_prompt, draw_words
from varl.tiny.sign_words import Split
from varl.tiny.signs import PROMPT_SHARES, draw_sign
from varl.trajectories.prompts import PromptSpec

TRAIN_PROMPTS, HELD_OUT_PROMPTS, TUNING_PROMPTS = 4096, 1024, 256
TUNING_SEED = 8


def word_prompts(words: list[str], count: int, seed: int = 7) -> list[PromptSpec]:
    """Distinct prompts of one word (70 %) or two out of ``words``."""

    def draw(rng: np.random.Generator) -> PromptSpec:
        chosen = draw_words(rng, words, 0.0)
        return PromptSpec(draw_prompt(chosen, rng)[0], chosen)

    return _distinct(draw, count, seed)


def sign_prompts(split: Split, count: int, seed: int = 7) -> list[PromptSpec]:
    """Distinct prompts of one to three words of a split."""

    def draw(rng: np.random.Generator) -> PromptSpec:
        sign = draw_sign(rng, split, PROMPT_SHARES)
        return PromptSpec(sign.prompt(), sign.words)

    return _distinct(draw, count, seed)


def _distinct(draw: Callable[[np.random.Generator], PromptSpec], count: int, seed: int) -> list[PromptSpec]:
    rng = np.random.default_rng(seed)
    specs: dict[str, PromptSpec] = {}
    while len(specs) < count:
        spec = draw(rng)
        specs[spec.prompt] = spec
    return list(specs.values())
