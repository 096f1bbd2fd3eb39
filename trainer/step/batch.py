"""From a group message to the tensors that the loss takes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from varl.policy.base import SamplingParams
from varl.trainer.objectives.mask_propagation import Polygon, corners_of, merge, propagate
from varl.trainer.objectives.rewards import combine, weighted_sum
from varl.trainer.objectives.vmr import middle_value
from varl.trainer.recipe.sections import ObjectiveSettings
from varl.trajectories.job_checks import optimised_scales
from varl.trajectories.sampling import trained_sampling
from varl.trajectories.tokens import unpack
from varl.v1 import trajectory_pb2


@dataclass(frozen=True)
class GroupBatch:
    """One group: G candidates of N tokens, the last n of which are trained.

    tokens: int64 [G, N], scales 1 to the last trained one. reported: float32 [G, n], the sampler's log-probabilities.
    mask: bool [G, n].
    rewards: by name, float64 [G, K]. total: float64 [G, K], their weighted sum. values: float64 [G], what the
    advantages are made of.
    """

    prompt: str
    scales: range  # trained, from 0
    steps: tuple[int, ...]  # tokens of each trained scale
    tokens: Tensor
    reported: Tensor
    mask: Tensor
    rewards: dict[str, Tensor]
    total: Tensor
    values: Tensor
    staleness: int = 0  # updates between the weights that drew the group and those that it trains
    sampling: SamplingParams | None = (
        None  # whose temperature and guidance the trained distribution has; None: the plain one
    )


def to_batch(
    group: trajectory_pb2.Group, weights: Mapping[str, float], objective: ObjectiveSettings, staleness: int = 0
) -> GroupBatch:
    """Tensors of a valid group message; ``weights`` maps reward names to their factors in the total.

    An optional reward that is absent is left out of the sum for the whole group, and never counts as 0. The regions of
    a reward whose factor is 0 mask nothing, since nothing is trained on it.
    """
    weights = {name: weight for name, weight in weights.items() if name not in group.absent_rewards}
    counts = [grid.height * grid.width for grid in group.grids]
    scales = optimised_scales(group.job, len(counts))
    rewards = {name: _rewards(group, name) for name in weights}
    compared = combine(rewards, weights, objective.combination, objective.advantage_eps)
    return GroupBatch(
        prompt=group.job.prompt,
        scales=scales,
        steps=tuple(counts[scale] for scale in scales),
        tokens=_tokens(group),
        reported=torch.from_numpy(np.array([candidate.log_probs for candidate in group.candidates], dtype=np.float32)),
        mask=_masks(group, weights, objective)[:, sum(counts[: scales.start]) : sum(counts[: scales.stop])],
        rewards=rewards,
        total=weighted_sum(rewards, weights),
        values=middle_value(compared, objective.eta),
        staleness=staleness,
        sampling=trained_sampling(group.job),
    )


def _tokens(group: trajectory_pb2.Group) -> Tensor:
    rows = [unpack(group.prefix_tokens + candidate.tokens, group.bits_per_site) for candidate in group.candidates]
    return torch.from_numpy(np.stack(rows).view(np.int64))


def _rewards(group: trajectory_pb2.Group, name: str) -> Tensor:
    rows = [[continuation.rewards[name] for continuation in candidate.continuations] for candidate in group.candidates]
    return torch.tensor(rows, dtype=torch.float64)


def _masks(group: trajectory_pb2.Group, weights: Mapping[str, float], objective: ObjectiveSettings) -> Tensor:
    grids = [(grid.height, grid.width) for grid in group.grids]
    size, mode = (group.image_height, group.image_width), objective.mask_propagation
    trained_on = {name for name, weight in weights.items() if weight}
    return torch.stack(
        [
            merge(
                [
                    propagate(_polygons(continuation.regions, trained_on), grids, size, mode)
                    for continuation in candidate.continuations
                ]
            )
            for candidate in group.candidates
        ]
    )


def _polygons(regions: Iterable[trajectory_pb2.LocatedRegion], rewards: Collection[str]) -> list[Polygon]:
    return [corners_of(region.polygon) for region in regions if region.polygon and region.reward in rewards]
