"""Writes the prompt files of the tiny recipes: RL prompts of training words, evaluation prompts of held-out words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from varl.tiny.render import draw_prompt, draw_words
from varl.tiny.words import held_out_words, training_words
from varl.trajectories.prompts import PromptSpec

TRAIN_PROMPTS, HELD_OUT_PROMPTS = 4096, 1024


def make_prompts(words: list[str], count: int, seed: int) -> list[PromptSpec]:
    """Distinct prompts of one word (70 %) or two out of ``words``."""
    rng = np.random.default_rng(seed)
    specs: dict[str, PromptSpec] = {}
    while len(specs) < count:
        chosen = draw_words(rng, words, 0.0)
        prompt = draw_prompt(chosen, rng)[0]
        specs[prompt] = PromptSpec(prompt, chosen)
    return list(specs.values())


def write_prompts(folder: Path) -> None:
    """tiny_train.jsonl and tiny_heldout.jsonl, reproducible."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, words, count in (
        ("train", training_words(), TRAIN_PROMPTS),
        ("heldout", held_out_words(), HELD_OUT_PROMPTS),
    ):
        lines = [
            json.dumps({"prompt": s.prompt, "target_words": list(s.target_words)})
            for s in make_prompts(words, count, seed=7)
        ]
        (folder / f"tiny_{name}.jsonl").write_text("\n".join(lines) + "\n")
