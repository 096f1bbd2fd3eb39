"""Infinity's scale schedules: one for each aspect ratio, cut off at the image's size.

The numbers are those of FoundationVision/Infinity, infinity/utils/dynamic_resolution.py. No grid needs to divide the
next one.
"""

from __future__ import annotations

from varl.policy.base import Grid

SIZES = {"0.06M": 7, "0.25M": 10, "0.60M": 12, "1M": 13}  # pixels of an image to its number of scales

_TALL = {
    1.0: "1x1 2x2 4x4 6x6 8x8 12x12 16x16 20x20 24x24 32x32 40x40 48x48 64x64",
    1.25: "1x1 2x2 3x3 5x4 10x8 15x12 20x16 25x20 30x24 35x28 45x36 55x44 70x56",
    1.333: "1x1 2x2 4x3 8x6 12x9 16x12 20x15 24x18 28x21 36x27 48x36 60x45 72x54",
    1.5: "1x1 2x2 3x2 6x4 9x6 15x10 21x14 27x18 33x22 39x26 48x32 63x42 78x52",
    1.75: "1x1 2x2 3x3 7x4 11x6 14x8 21x12 28x16 35x20 42x24 56x32 70x40 84x48",
    2.0: "1x1 2x2 4x2 6x3 10x5 16x8 22x11 30x15 38x19 46x23 60x30 74x37 90x45",
    2.5: "1x1 2x2 5x2 10x4 15x6 20x8 25x10 30x12 40x16 50x20 65x26 80x32 100x40",
    3.0: "1x1 2x2 6x2 9x3 15x5 21x7 27x9 36x12 45x15 54x18 72x24 90x30 111x37",
}


def _grids(text: str) -> tuple[Grid, ...]:
    pairs = (grid.split("x") for grid in text.split())
    return tuple((int(height), int(width)) for height, width in pairs)


def _schedules() -> dict[float, tuple[Grid, ...]]:
    """Height over width to the 13 grids; wide images have the grids of tall ones, turned, and a truncated ratio."""
    tall = {ratio: _grids(text) for ratio, text in _TALL.items()}
    wide = {int(1000 / ratio) / 1000: tuple((w, h) for h, w in grids) for ratio, grids in tall.items()}
    return wide | tall


SCHEDULES = _schedules()


def nearest_template(ratio: float) -> float:
    """The template whose height over width is nearest to ``ratio`` by difference, as the published code chooses it.

    Raises:
        ValueError: the ratio is not above 0.
    """
    if not ratio > 0:
        raise ValueError(f"aspect ratio (height over width) must be above 0, got {ratio}")
    return min(SCHEDULES, key=lambda known: abs(known - ratio))
