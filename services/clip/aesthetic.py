"""LAION's aesthetic head: linear layers on CLIP's image vector, in the published file's own names."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

_NAME = re.compile(r"layers\.(\d+)\.(weight|bias)")


class AestheticHead:
    """About 1 to 10 for an image's unit vector; the layers have no activations between them, as published."""

    def __init__(self, path: str | Path, width: int, device: str = "cpu") -> None:
        """Read a .pth or .safetensors file of names ``layers.N.weight`` and ``layers.N.bias``.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is no such head, or not one of vectors of ``width`` numbers.
        """
        tensors = _read(Path(path))
        wrong = sorted(name for name in tensors if not _NAME.fullmatch(name))
        numbers = sorted({int(match[1]) for name in tensors if (match := _NAME.fullmatch(name))})
        pairs = [(tensors.get(f"layers.{n}.weight"), tensors.get(f"layers.{n}.bias")) for n in numbers]
        self._layers = [(weight, bias) for weight, bias in pairs if weight is not None and bias is not None]
        if wrong or len(self._layers) != len(numbers) or not _chained(self._layers, width):
            shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
            raise ValueError(f"{path}: no head of linear layers from {width} numbers to 1: {shapes}")
        self._layers = [(weight.float().to(device), bias.float().to(device)) for weight, bias in self._layers]

    @torch.inference_mode()
    def score(self, vectors: Tensor) -> list[float]:
        """One number for each unit vector float32 [n, width]."""
        for weight, bias in self._layers:
            vectors = torch.nn.functional.linear(vectors, weight, bias)
        scores: list[float] = vectors[:, 0].tolist()
        return scores


def _read(path: Path) -> Mapping[str, Tensor]:
    if path.suffix == ".safetensors":
        return load_file(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise ValueError(f"{path}: want a state dict")
    return found


def _chained(layers: list[tuple[Tensor, Tensor]], width: int) -> bool:
    """Whether each layer takes what the one before it gives, and the last gives one number."""
    for weight, bias in layers:
        if weight.ndim != 2 or weight.shape[1] != width or bias.shape != weight.shape[:1]:
            return False
        width = weight.shape[0]
    return width == 1 and bool(layers)
