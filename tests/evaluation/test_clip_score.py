"""CLIPScore with a tiny random CLIP in the real format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPModel, CLIPTokenizer

from tests.support.ocr_builders import render
from varl.evaluation.benchmarks.clip_score import MEAN, PREFIX, STD, ClipScorer, preprocess


def test_clip_score_is_that_of_the_model_on_the_transform_of_openai(clip_folder: Path) -> None:
    images = [Image.fromarray(render(["TEA"], size)) for size in ((64, 64), (90, 40), (33, 70))]
    prompts = ["the tea", "a wall " * 60, "the owner’s &amp; his"]
    cleaned = [*prompts[:2], "the owner's & his"]  # as OpenAI's tokenizer begins
    model: Any = CLIPModel.from_pretrained(clip_folder)
    tokenizer = CLIPTokenizer.from_pretrained(clip_folder)
    expected = []
    for image, prompt in zip(images, cleaned, strict=True):
        ids = tokenizer(PREFIX + prompt)["input_ids"]
        ids = [*ids[:76], ids[-1]]
        values = np.asarray(resized(image, 32), np.float32) / 255
        pixels = torch.from_numpy(((values - MEAN) / STD).astype(np.float32)).permute(2, 0, 1)[None]
        with torch.no_grad():
            found = model(pixel_values=pixels, input_ids=torch.tensor([ids]))
        one, other = found.image_embeds[0].numpy(), found.text_embeds[0].numpy()
        expected.append(2.5 * max(float(one @ other / np.linalg.norm(one) / np.linalg.norm(other)), 0.0))
    assert ClipScorer(str(clip_folder)).score(images, prompts) == pytest.approx(
        expected, abs=5e-6
    )  # float32, summed in another order
    assert max(expected) > 0


def resized(image: Image.Image, size: int) -> Image.Image:
    """torchvision's Resize and CenterCrop, written out."""
    width, height = image.size
    new = (size, int(size * height / width)) if width <= height else (int(size * width / height), size)
    large = image.convert("RGB").resize(new, Image.Resampling.BICUBIC)
    left, top = round((new[0] - size) / 2.0), round((new[1] - size) / 2.0)
    return large.crop((left, top, left + size, top + size))


def test_the_transform_gives_squares_in_clips_range() -> None:
    white = preprocess(Image.new("RGB", (50, 200), "white"), 32)
    assert white.shape == (3, 32, 32)
    assert white[:, 0, 0].tolist() == pytest.approx([(1 - m) / s for m, s in zip(MEAN, STD, strict=True)], abs=1e-5)
