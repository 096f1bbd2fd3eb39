"""Mask propagation against loops over cells.

The overlap rule is compared with exact fractions, the polygons with a separating-axis test.
"""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from varl.policy.infinity.schedule import SCHEDULES
from varl.trainer.objectives.mask_propagation import Polygon, coarsen, merge, propagate, rasterise

SIDES = [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 48, 64]
GRIDS = [(side, side) for side in SIDES]


def _box(x: float, y: float, width: float, height: float) -> Polygon:
    return [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]


def _by_side(mask: Tensor) -> dict[int, float]:
    parts = mask.split_with_sizes([side * side for side in SIDES])
    return {side: float(part.float().mean()) for side, part in zip(SIDES, parts, strict=True)}


CHAINED = {
    64: (0.057, 3),
    32: (0.068, 3),
    16: (0.156, 3),
    12: (0.33, 2),
    8: (0.50, 2),
    6: (0.67, 2),
    4: (1.0, 2),
    1: (1.0, 2),
}
DIRECT = {
    64: (0.057, 3),
    32: (0.063, 3),
    16: (0.082, 3),
    12: (0.083, 3),
    8: (0.125, 3),
    6: (0.11, 2),
    4: (0.25, 2),
    1: (1.0, 2),
}


def test_active_fractions_of_the_method_for_a_400_by_130_box() -> None:
    polygons = [_box(289, 180, 400, 130)]
    for mode, table in (("chained", CHAINED), ("direct", DIRECT)):
        fractions = _by_side(propagate(polygons, GRIDS, (1024, 1024), "chained" if mode == "chained" else "direct"))
        for side, (expected, digits) in table.items():
            assert fractions[side] == pytest.approx(expected, abs=0.55 * 10**-digits), (mode, side)


def _slow_coarsen(mask: list[list[bool]], grid: tuple[int, int]) -> list[list[bool]]:
    def overlaps(coarse: int, coarse_count: int, fine: int, fine_count: int) -> bool:
        low = max(Fraction(coarse, coarse_count), Fraction(fine, fine_count))
        return low < min(Fraction(coarse + 1, coarse_count), Fraction(fine + 1, fine_count))

    height, width = len(mask), len(mask[0])
    return [
        [
            any(
                mask[y][x]
                for y in range(height)
                for x in range(width)
                if overlaps(row, grid[0], y, height) and overlaps(column, grid[1], x, width)
            )
            for column in range(grid[1])
        ]
        for row in range(grid[0])
    ]


@settings(max_examples=30)
@given(st.integers(2, 9), st.integers(2, 9), st.integers(0, 2**32 - 1), st.data())
def test_coarsen_is_any_overlap(height: int, width: int, seed: int, data: st.DataObject) -> None:
    grid = (data.draw(st.integers(1, height)), data.draw(st.integers(1, width)))
    mask = torch.rand((height, width), generator=torch.Generator().manual_seed(seed)) < 0.2
    assert coarsen(mask, grid).tolist() == _slow_coarsen(mask.tolist(), grid)


def _share_area(polygon: Polygon, cell: Polygon) -> bool:
    """Two convex polygons share area unless an edge normal of either separates them."""
    for shape in (polygon, cell):
        for (x0, y0), (x1, y1) in zip(shape, [*shape[1:], shape[0]], strict=True):
            normal = (y1 - y0, x0 - x1)
            first, second = ([normal[0] * x + normal[1] * y for x, y in points] for points in (polygon, cell))
            if max(first) <= min(second) + 1e-9 or max(second) <= min(first) + 1e-9:
                return False
    return True


@settings(max_examples=60)
@given(
    st.floats(-10, 74),
    st.floats(-10, 74),
    st.floats(2.5, 60),
    st.floats(2.5, 30),
    st.floats(0, math.pi),
    st.sampled_from([(4, 6), (8, 8), (5, 7)]),
)
def test_rasterise_marks_the_cells_that_share_area(
    x: float, y: float, width: float, height: float, angle: float, grid: tuple[int, int]
) -> None:
    half = [(-width / 2, -height / 2), (width / 2, -height / 2), (width / 2, height / 2), (-width / 2, height / 2)]
    polygon = [
        (x + a * math.cos(angle) - b * math.sin(angle), y + a * math.sin(angle) + b * math.cos(angle)) for a, b in half
    ]
    result = rasterise([polygon], grid, (64, 64))
    cell_height, cell_width = 64 / grid[0], 64 / grid[1]
    for row in range(grid[0]):
        for column in range(grid[1]):
            cell = _box(column * cell_width, row * cell_height, cell_width, cell_height)
            grown, shrunk = (
                [
                    (cx + s * (-1 if i in (0, 3) else 1), cy + s * (-1 if i < 2 else 1))
                    for i, (cx, cy) in enumerate(cell)
                ]
                for s in (1e-6, -1e-6)
            )
            if _share_area(polygon, grown) == _share_area(
                polygon, shrunk
            ):  # leave out cells that are grazed within rounding
                assert bool(result[row, column]) == _share_area(polygon, cell)


def test_edges_in_common_do_not_touch_and_outside_is_cut_off() -> None:
    aligned = rasterise([_box(16, 16, 32, 16)], (4, 4), (64, 64))
    assert aligned.int().tolist() == [[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert rasterise([_box(-20, 50, 30, 40)], (4, 4), (64, 64)).int().tolist() == [
        [0] * 4,
        [0] * 4,
        [0] * 4,
        [1, 0, 0, 0],
    ]
    assert int(rasterise([_box(20, 20, 0, 0)], (4, 4), (64, 64)).sum()) == 1
    assert not rasterise(
        [_box(-60, 20, 20, 20), _box(90, 20, 20, 20), _box(20, -60, 20, 20), _box(20, 90, 20, 20)], (4, 4), (64, 64)
    ).any()
    slanting = [
        (10.0, 0.0),
        (-30.0, 40.0),
        (-40.0, 30.0),
        (0.0, -10.0),
    ]  # leaves the image on the left: its lower rows stay empty
    assert rasterise([slanting], (4, 4), (64, 64)).int().tolist() == [[1, 0, 0, 0], *([0] * 4 for _ in range(3))]


def test_rectangles_on_unequal_grids_and_images() -> None:
    wide = propagate([_box(0, 0, 64, 16)], [(1, 1), (1, 2), (2, 4)], (32, 128), "chained")
    assert wide.int().tolist() == [1, 1, 0, 1, 1, 0, 0, 0, 0, 0, 0]


def test_no_boxes_or_off_keeps_every_token() -> None:
    assert bool(propagate([], GRIDS, (1024, 1024), "chained").all())
    assert bool(propagate([], GRIDS, (1024, 1024), "direct").all())
    assert bool(propagate([_box(0, 0, 8, 8)], GRIDS, (1024, 1024), "off").all())


@settings(max_examples=20)
@given(st.floats(0, 900), st.floats(0, 900), st.floats(1, 120), st.floats(1, 120))
def test_chained_covers_direct(x: float, y: float, width: float, height: float) -> None:
    chained, direct = (
        propagate([_box(x, y, width, height)], GRIDS, (1024, 1024), mode) for mode in ("chained", "direct")
    )
    assert bool((chained | ~direct).all())


def test_merge_is_the_union() -> None:
    first, second = torch.tensor([True, False, False]), torch.tensor([False, False, True])
    assert merge([first, second]).tolist() == [True, False, True]
    assert merge([first]).tolist() == first.tolist()


@pytest.mark.parametrize("ratio", [1.0, 2.0, 0.333])
def test_pooling_loses_no_cell_where_grids_do_not_divide_one_another(ratio: float) -> None:
    for coarse, fine in pairwise(SCHEDULES[ratio][:6]):  # 6 to 8 to 12, 4x2 to 6x3 to 10x5, 2x6 to 3x9 to 5x15
        mask = torch.rand(fine, generator=torch.Generator().manual_seed(1)) < 0.2
        assert coarsen(mask, coarse).tolist() == _slow_coarsen(mask.tolist(), coarse)


@pytest.mark.parametrize("ratio", SCHEDULES)
def test_a_box_reaches_every_scale_of_every_template(ratio: float) -> None:
    grids = SCHEDULES[ratio]
    height, width = (16 * side for side in grids[-1])
    box = _box(0.3 * width, 0.4 * height, 0.2 * width, 0.05 * height)
    chained, direct = (propagate([box], grids, (height, width), mode) for mode in ("chained", "direct"))
    assert (chained | ~direct).all()  # pooling from grid to grid only widens
    counts = [int(part.sum()) for part in chained.split_with_sizes([h * w for h, w in grids])]
    assert min(counts) > 0 and counts[-1] < 0.03 * height * width / 256
