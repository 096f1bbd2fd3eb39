"""A small run for the report: evaluations before and after, and metrics."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from varl.evaluation.results import Evaluation, FailedPrompt, Picture, PromptResult, ReadWord


def png(seed: int) -> bytes:
    """A PNG of random pixels, 64 x 64."""
    pixels = np.random.default_rng(seed).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def result(index: int, hits: int, words: tuple[ReadWord, ...] | None = None, prompt: str | None = None) -> PromptResult:
    """Four images of a prompt, of which some are right; ``words``: what was read in the one that is shown."""
    shown = None if words is None else Picture(image=png(index * 2 + hits), words=words, reward=0.25 * hits)
    target = f"word{index}"
    return PromptResult(
        index=index,
        prompt=prompt or f"a sign that says '{target}'",
        target_words=(target,),
        images=4,
        shares={"word_accuracy": (hits, 4), "ned": (hits + 0.5, 4), "reward": (hits, 4), "reward/ocr": (hits, 4)},
        picture=shown,
    )


def evaluation(tag: str, results: list[PromptResult], failed: tuple[FailedPrompt, ...] = ()) -> Evaluation:
    """An evaluation of the base or of the weights after 30 updates."""
    models = {"ocr": "paddleocr-onnxruntime PP-OCR (abc123)"}
    version = 0 if tag == "before" else 30
    return Evaluation(
        tag=tag, weight_version=version, seed=77, group_size=4, models=models, prompts=tuple(results), failed=failed
    )


RIGHT = ReadWord(text="WORD0", confidence=0.97, polygon=(1, 2, 30.5, 2, 30.5, 12, 1, 12))
WRONG = ReadWord(text="W0RD", confidence=0.41, polygon=(3, 4, 20, 4, 20, 9))
HOSTILE = "<script>alert('x')</script> & 'word1'"
BEFORE = evaluation("before", [result(0, 1, (WRONG,)), result(1, 2, (), HOSTILE), result(2, 1, (WRONG,)), result(3, 0)])
FAILED = FailedPrompt(
    index=2, prompt="a sign that says 'word2'", code="reward_unavailable", detail="ocr: no answer in 120 s"
)
AFTER = evaluation("after", [result(0, 4, (RIGHT, WRONG)), result(1, 3, (), HOSTILE), result(3, 2)], (FAILED,))
ROWS: list[dict[str, float]] = [
    {
        "update": update,
        "reward/total": 0.5 + update / 100,
        "kl": 0.001 * update,
        "entropy/scale_2": 2.0,
        "entropy/scale_10": 1.0,
    }
    for update in range(30)
]
