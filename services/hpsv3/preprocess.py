"""Pixels on their way to the model: the size that HPSv3 looks at, bicubic resizing, normalised patches."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

PATCH = 14  # pixels of a patch's side
MERGE = 2  # patches of a token's side
CELL = PATCH * MERGE  # pixels of a token's side; both sides of a resized image are multiples of it
TEMPORAL = 2  # frames of a patch; a still image is two equal ones
PATCH_VALUES = 3 * TEMPORAL * PATCH * PATCH  # numbers in a patch: channel, frame, row, column
AREA = 256 * CELL * CELL  # pixels that every image is brought to, up or down, as nearly as the cells allow
MAX_ASPECT_RATIO = 200
_MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's, for RGB in [0, 1]
_STD = (0.26862954, 0.26130258, 0.27577711)


def target_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) in pixels that an image is resized to.

    Both are multiples of CELL, with about AREA pixels in all; the aspect ratio is nearly kept.

    Raises:
        ValueError: the longer side has more than MAX_ASPECT_RATIO times the pixels of the shorter one, or a side has
            none.

    """
    if min(height, width) < 1 or max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise ValueError(
            f"{width} x {height}: "
            f"the longer side may have at most {MAX_ASPECT_RATIO} times the pixels of the shorter one"
        )
    # Whether to shrink or to grow is asked of the rounded sides, as in training: an image of nearly AREA pixels may
    # need neither.
    area = max(CELL, round(height / CELL) * CELL) * max(CELL, round(width / CELL) * CELL)
    if area > AREA:
        shrink = math.sqrt(height * width / AREA)
        return math.floor(height / shrink / CELL) * CELL, math.floor(width / shrink / CELL) * CELL
    if area < AREA:
        grow = math.sqrt(AREA / (height * width))
        return math.ceil(height * grow / CELL) * CELL, math.ceil(width * grow / CELL) * CELL
    return max(CELL, round(height / CELL) * CELL), max(CELL, round(width / CELL) * CELL)


def resize(pixels: npt.NDArray[np.uint8]) -> Tensor:
    """RGB uint8 [H, W, 3] as uint8 [3, H', W'] of ``target_size``, bicubic; raises ValueError as that does.

    Pillow frees the interpreter while it resizes, so that threads do this side by side.
    """
    height, width = target_size(*pixels.shape[:2])
    resized = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))
    return torch.from_numpy(resized.transpose(2, 0, 1).copy())


def token_count(image: Tensor) -> int:
    """Tokens that an image [3, H, W] takes up in the sequence."""
    return (image.shape[-2] // CELL) * (image.shape[-1] // CELL)


def patchify(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Images of one size, uint8 [B, 3, H, W], as normalised patches [B, H·W / PATCH², PATCH_VALUES].

    The patches are of ``dtype`` and on the same device. The patches of one token (MERGE x MERGE of them) follow each
    other. Floating point images in [0, 255] are taken as well and keep their gradients.
    """
    batch, channels, height, width = images.shape
    mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (_MEAN, _STD))
    normal = (images.float() / 255.0 - mean) / std
    rows, columns = height // CELL, width // CELL
    cells = normal.view(batch, channels, rows, MERGE, PATCH, columns, MERGE, PATCH).permute(0, 2, 5, 3, 6, 1, 4, 7)
    frames = cells.unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, TEMPORAL, -1, -1)
    return frames.reshape(batch, rows * columns * MERGE * MERGE, PATCH_VALUES).to(dtype)
