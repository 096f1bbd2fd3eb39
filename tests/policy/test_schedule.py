"""The scale schedule rule against the printed rows of arXiv 2601.02204, Table 14."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from varl.policy.base import cells
from varl.policy.schedule import PAPER_BASES, SQUARE_SCALES, base_for_aspect, scale_schedule

# Twelfth grids of the printed rows at or below 1:1 (arXiv 2601.02204, section 2).
ROWS = [
    (8, 32), (8, 31), (8, 30), (8, 29), (9, 28), (9, 26), (9, 27), (10, 25), (10, 24), (11, 23), (11, 22),
    (11, 21), (12, 21), (12, 20), (13, 19), (13, 18), (14, 18), (14, 17), (15, 17), (15, 16), (16, 16),
]  # fmt: skip


def test_square_schedule_is_the_papers() -> None:
    assert scale_schedule((16, 16)) == tuple((s, s) for s in SQUARE_SCALES)
    totals = [sum(cells(scale_schedule((16, 16))[:m])) for m in (4, 8, 12, 16, 18)]
    assert totals == [30, 204, 900, 3684, 10084]


def test_every_row_of_the_paper_is_a_base() -> None:
    assert sorted(PAPER_BASES.values()) == sorted(ROWS)


@pytest.mark.parametrize("base", ROWS)
def test_rows_and_their_transposes(base: tuple[int, int]) -> None:
    grids = scale_schedule(base)
    assert grids[11] == base
    assert len(grids) == 18
    assert scale_schedule(base[::-1]) == tuple(grid[::-1] for grid in grids)


def test_a_wide_row_by_hand() -> None:
    # 1:4 at 1024-level area: 8 x 32 at the twelfth scale, every other grid by half-to-even rounding.
    expected = [(1, 1), (1, 4), (2, 6), (2, 8), (2, 10), (3, 12), (4, 14), (4, 16), (5, 20), (6, 24), (7, 28), (8, 32)]
    assert list(scale_schedule((8, 32))[:12]) == expected
    assert scale_schedule((8, 32))[12:] == ((10, 40), (12, 48), (14, 56), (16, 64), (24, 96), (32, 128))


@given(st.integers(256, 1024))
def test_aspects_find_the_row_of_the_nearest_printed_ratio(height: int) -> None:
    width = 1024
    found = base_for_aspect(height, width)
    printed = {base: ratio for ratio, base in PAPER_BASES.items()}[found]
    assert all(
        abs(math.log(printed * width / height)) <= abs(math.log(other * width / height)) for other in PAPER_BASES
    )
    assert base_for_aspect(width, height) == found[::-1]


@pytest.mark.parametrize(("ratio", "base"), PAPER_BASES.items())
def test_printed_ratios_find_their_own_row(ratio: float, base: tuple[int, int]) -> None:
    assert base_for_aspect(round(ratio * 1000), 1000) == base


def test_bad_values_are_named() -> None:
    with pytest.raises(ValueError, match="base grid"):
        scale_schedule((0, 16))
    with pytest.raises(ValueError, match="grow strictly"):
        scale_schedule((16, 16), (1, 3, 2), 3)
    with pytest.raises(ValueError, match="outside"):
        base_for_aspect(64, 1024)
