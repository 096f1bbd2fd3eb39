"""Whether something grows: a straight line through the second half of its samples, and how sure its slope is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

BLOCKS = 20  # neighbouring samples are alike, so a line is laid through the means of blocks, which are less so
STUDENT_T = 2.101  # two-sided 95 %, BLOCKS - 2 degrees of freedom
SECONDS_AN_HOUR = 3600.0


class Growth(StrEnum):
    """What can be said of a slope and the most that is allowed."""

    FLAT = "flat"  # with 95 % confidence no more than allowed
    GROWING = "growing"  # with 95 % confidence more
    UNDECIDED = "undecided"  # the samples are too few or too uneven to say


@dataclass(frozen=True)
class Slope:
    """Change an hour, with the ends of its 95 % interval, and the mean level."""

    per_hour: float
    low: float
    high: float
    level: float

    def growth(self, allowed: float) -> Growth:
        """The verdict, where ``allowed`` an hour is still flat."""
        if self.low > allowed:
            return Growth.GROWING
        return Growth.FLAT if self.high <= allowed else Growth.UNDECIDED


def second_half_slope(seconds: Sequence[float], values: Sequence[float]) -> Slope:
    """Slope of the later half of the samples, by ordinary least squares over block means.

    Raises ValueError where that half has fewer than two samples a block.
    """
    x, y = (np.asarray(column, dtype=np.float64)[len(values) // 2 :] for column in (seconds, values))
    if len(y) < 2 * BLOCKS:
        raise ValueError(f"{len(y)} samples in the second half are fewer than {2 * BLOCKS}")
    x, y = (np.array([block.mean() for block in np.array_split(column, BLOCKS)]) for column in (x / SECONDS_AN_HOUR, y))
    spread = ((x - x.mean()) ** 2).sum()
    slope = ((x - x.mean()) * (y - y.mean())).sum() / spread
    rest = y - y.mean() - slope * (x - x.mean())
    reach = STUDENT_T * np.sqrt((rest**2).sum() / (BLOCKS - 2) / spread)
    return Slope(float(slope), float(slope - reach), float(slope + reach), float(y.mean()))
