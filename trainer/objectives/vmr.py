"""Value as Middle Return (arXiv 2601.02256, section 3.3).

One horizon split at scale m into a prefix and a suffix problem.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import Literal

from torch import Tensor

Stages = Literal["vmr", "full"]


class Stage(Enum):
    """Which scales an update trains."""

    FULL = "full"
    PREFIX = "prefix"
    SUFFIX = "suffix"


def middle_value(rewards: Tensor, eta: float) -> Tensor:
    """V_m = eta log mean_k exp(R_k / eta), Eq. 10: rewards [..., K] of the continuations of one prefix give [...].

    Lies between the mean and the maximum of the rewards, nearer to the maximum the smaller eta > 0 is; K = 1 gives the
    reward itself.
    """
    return eta * ((rewards / eta).logsumexp(dim=-1) - math.log(rewards.shape[-1]))


def stage_of(update: int, stages: Stages, prefix_per_suffix: int, suffix_in_a_row: int = 1) -> Stage:
    """The stage of an update counted from 0.

    ``prefix_per_suffix`` prefix updates, then ``suffix_in_a_row`` suffix updates, and again.
    """
    if stages == "full":
        return Stage.FULL
    return Stage.SUFFIX if update % (prefix_per_suffix + suffix_in_a_row) >= prefix_per_suffix else Stage.PREFIX


def trained_scales(stage: Stage, split_scale: int, scale_count: int) -> range:
    """Indices (from 0) of the scales that a stage trains.

    The prefix is the first ``split_scale`` of ``scale_count`` scales.

    Raises:
        ValueError: the split leaves one side without a scale.
    """
    if stage is Stage.FULL:
        return range(scale_count)
    if not 1 <= split_scale < scale_count:
        raise ValueError(
            f"objective.split_scale must be in 1..{scale_count - 1} for a model of {scale_count} scales, "
            f"got {split_scale}"
        )
    return range(split_scale) if stage is Stage.PREFIX else range(split_scale, scale_count)
