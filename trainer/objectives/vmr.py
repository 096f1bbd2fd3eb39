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


def prefix_share(rewards: Tensor) -> float:
    """The part of a reward's variance that the prefix decides, of rewards [prompts, prefixes, continuations].

    By one-way analysis of variance within each prompt: the mean square between prefixes estimates K prefix + suffix,
    that within them suffix (Searle, Casella and McCulloch, Variance Components, section 3.6). The estimate may fall a
    little below 0, so that its mean over updates is unbiased but for the ratio. NaN where nothing varies, or with fewer
    than two prefixes or continuations.
    """
    copies = rewards.shape[2]
    if min(rewards.shape[1:]) < 2:
        return math.nan
    within = float(rewards.var(dim=2).mean())
    prefix = float(rewards.mean(dim=2).var(dim=1).mean()) - within / copies
    return prefix / (prefix + within) if prefix + within > 0 else math.nan


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
