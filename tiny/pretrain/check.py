"""What the OCR engine reads in pretraining's pictures: originals, reconstructions, and samples for held-out words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from varl.policy.base import SamplingParams
from varl.policy.nextflow.policy import NextFlowPolicy
from varl.policy.sampling import mix
from varl.services.ocr.engines.base import EngineFailure, OcrEngine, ReadWord
from varl.services.ocr.metrics import ned_values, word_accuracy_counts
from varl.tiny.pretrain.train_tokenizer import to_images
from varl.tiny.render import Pixels, Rendered
from varl.trajectories.prompts import PromptSpec

TOGETHER = 16  # prompts that are sampled in one call


@dataclass(frozen=True)
class ReadCheck:
    """Word Accuracy and NED over some images, both in [0, 1]."""

    word_accuracy: float
    ned: float

    def __str__(self) -> str:
        return f"word accuracy {self.word_accuracy:.3f} ned {self.ned:.3f}"


def read_words(engine: OcrEngine, images: Sequence[Pixels]) -> list[list[ReadWord]]:
    """The words of uint8 images [H, W, 3]; raises RuntimeError where the engine fails on one."""
    found = list[list[ReadWord]]()
    for reading in engine.read(list(images)):
        if isinstance(reading, EngineFailure):
            raise RuntimeError(f"the OCR engine failed: {reading.detail}")
        found.append(reading)
    return found


def read_check(engine: OcrEngine, images: Sequence[Pixels], targets: Sequence[tuple[str, ...]]) -> ReadCheck:
    """Read uint8 images [H, W, 3] and compare with the words that each should show."""
    hits = total = 0
    neds: list[float] = []
    for words, target in zip(read_words(engine, images), targets, strict=True):
        texts = [word.text for word in words]
        found, asked = word_accuracy_counts(target, texts)
        hits, total = hits + found, total + asked
        neds += ned_values(target, texts)
    return ReadCheck(hits / total, float(np.mean(neds)))


def check_tokenizer(
    policy: NextFlowPolicy, engine: OcrEngine, items: Sequence[Rendered]
) -> tuple[ReadCheck, ReadCheck]:
    """The same rendered images as they are, and after encoding and decoding."""
    words = [item.words for item in items]
    with torch.no_grad():
        targets = policy.tokenizer.encode(to_images(items)).targets
    decoded = policy.decode(torch.cat([target.flatten(1) for target in targets], 1))
    return read_check(engine, [item.image for item in items], words), read_check(engine, list(decoded), words)


def check_policy(
    policy: NextFlowPolicy, engine: OcrEngine, prompts: Sequence[PromptSpec], params: SamplingParams, seed: int
) -> ReadCheck:
    """One sample a prompt."""
    seeds, last, parts = [mix(seed, index) for index in range(len(prompts))], len(policy.grids), list[Tensor]()
    for first in range(0, len(prompts), TOGETHER):
        some = [spec.prompt for spec in prompts[first : first + TOGETHER]]
        state = policy.prefill_all(some, params.cfg > 0)
        parts.append(policy.sample(state, last, seeds[first : first + TOGETHER], params)[1].tokens)
    images = policy.decode(torch.cat(parts))
    return read_check(engine, list(images), [spec.target_words for spec in prompts])


def sample(policy: NextFlowPolicy, prompt: str, seeds: Sequence[int], params: SamplingParams) -> Tensor:
    """Whole token sequences int64 [len(seeds), sum of h*w] for one prompt."""
    return policy.sample(policy.prefill(prompt, params.cfg > 0), len(policy.grids), seeds, params)[1].tokens
