"""Batch invariance of the real engine: what stands beside an image changes nothing of its score, to the last bit."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.support.ocr_builders import render
from varl.services.ocr.engines.onnx import build_onnx
from varl.services.ocr.scorer import OCRScorer
from varl.services.serving.batching.queue import BatchLimits
from varl.services.serving.scoring import Outcome, SampleScore, ScorerSample

WORDS = ("BREAD", "MILK", "open", "Coffee")


def samples() -> list[ScorerSample]:
    """32 images of several sizes, most of them noisy: confidences that differ in every digit."""
    rng = np.random.default_rng(0)
    found = []
    for index in range(32):
        word = WORDS[index % 4]
        clean = render([word], (64 + 32 * (index % 3), 64))
        noisy = np.clip(clean + rng.normal(0, 2 * index, clean.shape), 0, 255).astype(np.uint8)
        found.append(ScorerSample(f"says '{word}'", noisy, ()))
    return found


@pytest.mark.parametrize(("lanes", "max_items"), [(1, 1), (2, 1), (1, 32)])
async def test_a_score_is_the_same_alone_and_among_31_others(ocr_model_cache: Path, lanes: int, max_items: int) -> None:
    scorer = OCRScorer(partial(build_onnx, ocr_model_cache), lanes, True, BatchLimits(max_items))
    await scorer.start()
    alone: list[Outcome] = [await scorer.score(sample, "") for sample in samples()]
    together = await asyncio.gather(*(scorer.score(sample, "") for sample in samples()))
    await scorer.close()
    assert together == alone
    assert len({outcome.value for outcome in alone if isinstance(outcome, SampleScore)}) > 20
