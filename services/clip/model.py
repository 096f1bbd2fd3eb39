"""A CLIP model in the format of transformers: unit vectors of images and texts."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import file_digest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

MEAN = (0.48145466, 0.4578275, 0.40821073)  # OpenAI's CLIP
STD = (0.26862954, 0.26130258, 0.27577711)


class Clip:
    """A CLIP model from a folder or the hub, in float32."""

    def __init__(self, source: str, device: str = "cpu") -> None:
        """Load it.

        Raises:
            OSError: it is neither a folder with a model nor one that the hub gives.
        """
        model: Any = CLIPModel.from_pretrained(source)  # its stubs fit neither ``to`` nor its own config
        self._model = model.to(device).eval()
        self._tokenizer = CLIPTokenizer.from_pretrained(source)
        self._device, self.name = device, source

    @property
    def width(self) -> int:
        """Length of the vectors."""
        return int(self._model.config.projection_dim)

    @property
    def scale(self) -> float:
        """What the model was trained to multiply cosines by."""
        return float(self._model.logit_scale.detach().exp())

    @property
    def revision(self) -> str:
        """The hub's commit, or a digest of a local folder's weights."""
        commit = getattr(self._model.config, "_commit_hash", None)
        return str(commit) if commit else _digest(Path(self.name))

    @torch.inference_mode()
    def embed(self, images: Sequence[Image.Image], texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Unit vectors float32 [images, width] and [texts, width], on the device; texts are cut to CLIP's 77 tokens."""
        size = self._model.config.vision_config.image_size
        pixels = torch.stack([preprocess(image, size) for image in images]).to(self._device)
        text = self._tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self._model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(self._device)
        found = self._model(pixel_values=pixels, **text)
        return found.image_embeds, found.text_embeds


def _digest(folder: Path) -> str:
    files = sorted(folder.glob("*.safetensors"))
    return "+".join(_file_digest(file) for file in files)


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()[:16]


def preprocess(image: Image.Image, size: int) -> Tensor:
    """OpenAI's transform: the shorter side to ``size`` (bicubic), the middle cut out; float32 [3, size, size]."""
    width, height = image.size
    shorter = min(width, height)
    resized = image.resize((size * width // shorter, size * height // shorter), Image.Resampling.BICUBIC)
    left, top = round((resized.width - size) / 2), round((resized.height - size) / 2)
    cut = resized.crop((left, top, left + size, top + size)).convert("RGB")
    values = (np.asarray(cut, np.float32) / 255 - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return torch.from_numpy(values).permute(2, 0, 1)
