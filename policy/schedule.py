"""Scale schedules: how many tokens each next-scale step samples, for any aspect ratio (arXiv 2601.02204, Table 14)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from varl.policy.base import Grid, cells

SQUARE_SCALES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 48, 64)
BASE_SCALE = 16  # the entry of SQUARE_SCALES whose grid, at 256-pixel area, names an aspect ratio's row of the table

# The (height, width) of the twelfth grid for the aspect ratios (height / width) up to square of arXiv 2601.02204, Table
# 14. Rows wider than tall are printed as they are, taller ones are their transposes.
PAPER_BASES: dict[float, Grid] = {
    0.250: (8, 32), 0.260: (8, 31), 0.267: (8, 30), 0.276: (8, 29), 0.295: (9, 28), 0.311: (9, 26), 0.333: (9, 27),
    0.345: (10, 25), 0.417: (10, 24), 0.478: (11, 23), 0.500: (11, 22), 0.524: (11, 21), 0.571: (12, 21),
    0.600: (12, 20),
    0.685: (13, 19), 0.722: (13, 18), 0.781: (14, 18), 0.824: (14, 17), 0.882: (15, 17), 0.937: (15, 16), 1.0: (16, 16),
}  # fmt: skip


def scale_schedule(
    base: Grid, scales: tuple[int, ...] = SQUARE_SCALES, base_scale: int = BASE_SCALE
) -> tuple[Grid, ...]:
    """Grids of every scale for an image whose grid at ``base_scale`` is ``base``.

    Each side is round(side * s / base_scale), half to even, at least 1; the first grid is always (1, 1). The rule
    reproduces the rows of arXiv 2601.02204, Table 14 from their twelfth grids.

    Raises:
        ValueError: a side is below 1, or scales are not strictly growing from 1.
    """
    if min(base) < 1:
        raise ValueError(f"base grid sides must be >= 1, got {base}")
    if scales[0] != 1 or any(a >= b for a, b in pairwise(scales)):
        raise ValueError(f"scales must grow strictly from 1, got {scales}")
    sides = [tuple(max(1, round(side * s / base_scale)) for side in base) for s in scales]
    return ((1, 1), *((h, w) for h, w in sides[1:]))


def base_for_aspect(height: int, width: int) -> Grid:
    """The paper's twelfth grid whose printed aspect ratio is nearest (in log ratio) to height : width.

    Between 0.29 and 0.35 the printed ratios are up to 14 % off their grids' own; the paper's assignment is kept.

    Raises:
        ValueError: a side is below 1, or the ratio lies outside 1:4 … 4:1.
    """
    if min(height, width) < 1:
        raise ValueError(f"height and width must be >= 1, got {height} x {width}")
    ratio = min(height, width) / max(height, width)
    if ratio < min(PAPER_BASES) * 0.99:
        raise ValueError(f"aspect ratio {height}:{width} lies outside 1:4 … 4:1")
    short, long = PAPER_BASES[min(PAPER_BASES, key=lambda known: abs(math.log(known / ratio)))]
    return (short, long) if height <= width else (long, short)


def split_scales(tokens: Tensor, grids: Sequence[Grid]) -> list[Tensor]:
    """int64 [B, n] into one [B, h, w] per scale; n is the cells of the first scales, in full.

    Raises:
        ValueError: n ends inside a scale.
    """
    parts, taken = [], 0
    for (h, w), size in zip(grids, cells(grids), strict=True):
        if taken >= tokens.shape[1]:
            break
        parts.append(tokens[:, taken : taken + size].reshape(-1, h, w) if taken + size <= tokens.shape[1] else None)
        taken += size
    if taken != tokens.shape[1] or any(part is None for part in parts):
        raise ValueError(f"{tokens.shape[1]} tokens do not end at a scale's end of {tuple(grids)}")
    return [part for part in parts if part is not None]


def shared_scales(scales: Sequence[Tensor]) -> int:
    """How many leading scales, of those that are inputs, have the same codes in all candidates."""
    return next(
        (i for i, codes in enumerate(scales[:-1]) if not torch.equal(codes, codes[:1].expand_as(codes))),
        len(scales) - 1,
    )
