"""From a decoder's images to pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def to_pixels(images: Tensor) -> npt.NDArray[np.uint8]:
    """Images float [B, 3, H, W] in [-1, 1] as uint8 [B, H, W, 3], RGB, 0 to 255, rounded half to even."""
    return ((images + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
