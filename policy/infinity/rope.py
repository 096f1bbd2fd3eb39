"""Rotary positions of Infinity's self-attention: the rows and columns of the largest grid.

Facts: FoundationVision/Infinity, infinity/models/basic.py, where they are called "star style". No position depends on
the scale; scales are told apart by their embedding alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from varl.policy.base import Grid

BASE = 10000.0


def positions(grid: Grid, whole: Grid) -> Tensor:
    """int64 [h * w, 2]: row and column of every cell on the grid ``whole``, round(i * H / h), half to even in float32.

    ``whole`` is the last grid of the aspect ratio at 1M pixels, for smaller images as well.
    """
    rows, columns = (
        (torch.arange(count) * (last / count)).round().long() for count, last in zip(grid, whole, strict=True)
    )
    return torch.cartesian_prod(rows, columns)


def rotation(grid: Grid, whole: Grid, head_size: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines, float32 [h * w, head_size / 2].

    The first half of the pairs turns by the row, the other by the column, each with its own frequencies from 1 down.
    """
    half = head_size // 2
    frequencies = 1.0 / BASE ** (torch.arange(0, half, 2, dtype=torch.float32) / half)
    angles = (positions(grid, whole)[..., None] * frequencies).flatten(1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate neighbours (2j, 2j + 1) of heads x [B, heads, N, head_size] by [N, head_size / 2].

    In the higher precision of the two, which is float32 for the tables of ``rotation``.
    """
    a, b = x[..., ::2], x[..., 1::2]
    return torch.stack([cos * a - sin * b, sin * a + cos * b], -1).flatten(-2)
