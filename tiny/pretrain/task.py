"""What a tiny base is pretrained on: its sizes, its pictures, and the prompts of RL and evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from varl.policy.nextflow import NextFlowConfig
from varl.policy.nextflow.config import TokenizerConfig, TransformerConfig
from varl.tiny import render, signs
from varl.tiny.pretrain.stage import Batch
from varl.tiny.prompts import (
    HELD_OUT_PROMPTS,
    TRAIN_PROMPTS,
    TUNING_PROMPTS,
    TUNING_SEED,
    sign_prompts,
    word_prompts,
)
from varl.tiny.render import Rendered
from varl.tiny.sign_words import Split
from varl.tiny.words import held_out_words, training_words
from varl.trajectories.prompts import PromptSpec

TaskName = Literal["signs", "words"]


@dataclass(frozen=True)
class Task:
    """One base.

    tokenizer_batch, policy_batch: count pictures that pretraining may show. held_out: count pictures of words that
    neither pretraining nor RL shows. stem: of the prompt files; train_prompts, tuning_prompts (words of RL as well: for
    the choices of a study) and held_out_prompts: what they hold.
    """

    config: NextFlowConfig
    tokenizer_batch: Batch
    policy_batch: Batch
    held_out: Batch
    stem: str
    train_prompts: Callable[[], list[PromptSpec]]
    tuning_prompts: Callable[[], list[PromptSpec]]
    held_out_prompts: Callable[[], list[PromptSpec]]

    def prompts(self) -> dict[str, list[PromptSpec]]:
        """The prompts by the stem of their file."""
        kinds = {"train": self.train_prompts, "tuning": self.tuning_prompts, "heldout": self.held_out_prompts}
        return {f"{self.stem}_{kind}": made() for kind, made in kinds.items()}


SIGNS = NextFlowConfig(
    tokenizer=TokenizerConfig(
        codes=1024,
        stem=6,
        encoder=((48, 1), (128, 2)),
        decoder=((160, 2), (96, 2)),
        semantic_encoder=((48, 1), (96, 2)),
    ),
    transformer=TransformerConfig(dim=192, depth=5, heads=3, kv_heads=3, mlp_dim=512),
    scales=(1, 2, 3, 4, 6, 7, 8, 9),
    base_scale=9,
    base_grid=(signs.CELLS, signs.CELLS),
)


def task(name: TaskName) -> Task:
    """The task of checkpoints/tiny_signs or of checkpoints/tiny."""
    if name == "signs":
        return Task(
            SIGNS,
            tokenizer_batch=signs.render_batch,
            policy_batch=signs.render_batch,
            held_out=_held_out_signs,
            stem="signs",
            train_prompts=lambda: sign_prompts(Split.TRAIN, TRAIN_PROMPTS),
            tuning_prompts=lambda: sign_prompts(Split.TRAIN, TUNING_PROMPTS, TUNING_SEED),
            held_out_prompts=lambda: sign_prompts(Split.HELD_OUT, HELD_OUT_PROMPTS),
        )
    return Task(
        NextFlowConfig(),
        tokenizer_batch=lambda count, rng: render.render_batch(count, rng, render.TOKENIZER_GRAIN),
        policy_batch=render.render_batch,
        held_out=_held_out_words,
        stem="tiny",
        train_prompts=lambda: word_prompts(training_words(), TRAIN_PROMPTS),
        tuning_prompts=lambda: word_prompts(training_words(), TUNING_PROMPTS, TUNING_SEED),
        held_out_prompts=lambda: word_prompts(held_out_words(), HELD_OUT_PROMPTS),
    )


def _held_out_signs(count: int, rng: np.random.Generator) -> list[Rendered]:
    return [signs.render(signs.draw_sign(rng, Split.HELD_OUT, signs.PRETRAIN_SHARES), rng) for _ in range(count)]


def _held_out_words(count: int, rng: np.random.Generator) -> list[Rendered]:
    pool = held_out_words()
    return [render.render(render.draw_words(rng, pool, 0.0), rng) for _ in range(count)]
