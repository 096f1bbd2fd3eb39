"""Mask Propagation (arXiv 2601.02256, section 3.5): only tokens under what fixed the reward get its gradient.

The paper says that the mask starts at the finest grid from, for instance, predicted boxes and goes back to the
coarsest. The rules for rasterising, pooling, merging and empty masks are this project's choice (docs/method.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

Grid = tuple[int, int]  # (height, width)
Polygon = Sequence[tuple[float, float]]  # (x, y) corners in pixels
MaskPropagation = Literal["chained", "direct", "off"]


def corners_of(numbers: Sequence[float]) -> Polygon:
    """The corners of a polygon that is x0 y0 x1 y1 …; raises ValueError for an odd count."""
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def rasterise(polygons: Sequence[Polygon], grid: Grid, image_size: tuple[int, int]) -> Tensor:
    """The cells of a grid that any polygon touches: bool [h, w].

    image_size: (height, width) in pixels. A cell is touched when it shares area with the polygon; a corner or an edge
    in common is not enough. Parts outside of the image are cut off. Exact for convex polygons, a little wide for
    others.
    """
    mask = torch.zeros(grid, dtype=torch.bool)
    scale_x, scale_y = grid[1] / image_size[1], grid[0] / image_size[0]
    for polygon in polygons:
        corners = [(x * scale_x, y * scale_y) for x, y in polygon]
        for row in _touched(min(y for _, y in corners), max(y for _, y in corners), grid[0]):
            strip = _clip_below(_clip_below(corners, float(row), 1.0), float(row + 1), -1.0)
            if strip:
                columns = _touched(min(x for x, _ in strip), max(x for x, _ in strip), grid[1])
                mask[row, columns.start : columns.stop] = True
    return mask


def _touched(low: float, high: float, count: int) -> range:
    """Unit cells 0 … count-1 that the interval covers.

    An interval without length still covers the cell that it lies in.
    Both bounds lie in 0 … count, so that they can be bounds of a slice, where a negative one would count from the end.
    """
    start = math.floor(low)
    stop = max(math.ceil(high), start + 1)
    return range(min(max(start, 0), count), min(max(stop, 0), count))


def _clip_below(corners: Sequence[tuple[float, float]], bound: float, sign: float) -> list[tuple[float, float]]:
    """The part of a polygon where sign * (y - bound) >= 0 (Sutherland-Hodgman, one side)."""
    kept: list[tuple[float, float]] = []
    for (x0, y0), (x1, y1) in zip([corners[-1], *corners[:-1]], corners, strict=True) if corners else ():
        inside_0, inside_1 = sign * (y0 - bound) >= 0, sign * (y1 - bound) >= 0
        if inside_0 != inside_1:
            kept.append((x0 + (bound - y0) * (x1 - x0) / (y1 - y0), bound))
        if inside_1:
            kept.append((x1, y1))
    return kept


def coarsen(mask: Tensor, grid: Grid) -> Tensor:
    """Max-pool a bool mask [H, W] to [h, w]: a coarse cell is on if any fine cell that shares area with it is on."""
    return adaptive_max_pool2d(mask[None, None].float(), grid)[0, 0].bool()


def propagate(
    polygons: Sequence[Polygon], grids: Sequence[Grid], image_size: tuple[int, int], mode: MaskPropagation
) -> Tensor:
    """One image's mask over all tokens, scale by scale, row by row: bool [sum of h*w].

    ``chained`` rasterises on the finest grid and pools from each grid to the next coarser one; ``direct`` rasterises on
    every grid. No polygons, or ``off``: every token is on.
    """
    if mode == "off" or not polygons:
        return torch.ones(sum(h * w for h, w in grids), dtype=torch.bool)
    if mode == "direct":
        return torch.cat([rasterise(polygons, grid, image_size).flatten() for grid in grids])
    masks = [rasterise(polygons, grids[-1], image_size)]
    for grid in reversed(grids[:-1]):
        masks.append(coarsen(masks[-1], grid))
    return torch.cat([mask.flatten() for mask in reversed(masks)])


def merge(masks: Sequence[Tensor]) -> Tensor:
    """Union of the masks [n] of a candidate's K continuations: a token matters when it does in any of them."""
    return torch.stack(list(masks)).any(dim=0)
