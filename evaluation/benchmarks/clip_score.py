"""CLIPScore (arXiv 2104.08718) as CVTG-2K's script computes it: 2.5 max(cos, 0) of "A photo depicts PROMPT"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

MEAN = (0.48145466, 0.4578275, 0.40821073)  # OpenAI's CLIP
STD = (0.26862954, 0.26130258, 0.27577711)
PREFIX, SCALE = "A photo depicts ", 2.5
DEFAULT_MODEL = "openai/clip-vit-large-patch14"  # the script's ViT-L/14


class ClipScorer:
    """A CLIP model from a folder or the hub, in the format of transformers."""

    def __init__(self, source: str = DEFAULT_MODEL, device: str = "cpu") -> None:
        """Load it.

        Raises:
            OSError: it is neither a folder with a model nor one that the hub gives.
        """
        model: Any = CLIPModel.from_pretrained(source)  # its stubs fit neither ``to`` nor its own config
        self._model = model.to(device).eval()
        self._tokenizer = CLIPTokenizer.from_pretrained(source)
        self._device, self.name = device, source

    @torch.inference_mode()
    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        """A score in [0, 2.5] for each image and its prompt, which is cut to CLIP's 77 tokens."""
        size = self._model.config.vision_config.image_size
        pixels = torch.stack([preprocess(image, size) for image in images]).to(self._device)
        text = self._tokenizer(
            [PREFIX + prompt for prompt in prompts],
            padding=True,
            truncation=True,
            max_length=self._model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(self._device)
        found = self._model(pixel_values=pixels, **text)
        cosines = torch.nn.functional.cosine_similarity(found.image_embeds, found.text_embeds)
        return [SCALE * max(value, 0.0) for value in cosines.tolist()]


def preprocess(image: Image.Image, size: int) -> Tensor:
    """OpenAI's transform: the shorter side to ``size`` (bicubic), the middle cut out; float32 [3, size, size]."""
    width, height = image.size
    shorter = min(width, height)
    resized = image.resize((size * width // shorter, size * height // shorter), Image.Resampling.BICUBIC)
    left, top = round((resized.width - size) / 2), round((resized.height - size) / 2)
    cut = resized.crop((left, top, left + size, top + size)).convert("RGB")
    values = (np.asarray(cut, np.float32) / 255 - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return torch.from_numpy(values).permute(2, 0, 1)
