"""The metrics of an update out of what its groups and its passes left behind."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from varl.trainer.objectives.loss import by_step
from varl.trainer.objectives.vmr import prefix_share
from varl.trainer.step.batch import GroupBatch
from varl.v1 import trajectory_pb2


@dataclass(frozen=True)
class Measured:
    """What one pass saw of every token, detached, all [candidates, n]."""

    kl: Tensor
    entropy: Tensor
    sampler_ratio: Tensor  # exp(log pi as recomputed - log pi as the sampler reported)
    clipped_low: Tensor
    clipped_high: Tensor
    mask: Tensor
    loss: Tensor


def update_metrics(passes: Sequence[Sequence[Measured]], scales: range, steps: Sequence[int]) -> dict[str, float]:
    """Means over all tokens of an update, and by scale (numbered from 1, as the split scale m is)."""
    flat = [part for group in passes for part in group]

    def every(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in flat])

    ratio = every("sampler_ratio")
    metrics = {
        "loss": float(every("loss").sum(dim=-1).mean()),
        "kl": float(every("kl").mean()),
        "entropy": float(every("entropy").mean()),
        "ratio_mean": float(ratio.mean()),
        "ratio_max_deviation": float((ratio - 1).abs().max()),
        "clip_ratio/low": float(every("clipped_low").float().mean()),
        "clip_ratio/high": float(every("clipped_high").float().mean()),
    }
    for label, name in (("kl", "kl"), ("entropy", "entropy"), ("mask_fraction", "mask")):
        values = by_step(every(name), steps).tolist()
        metrics |= {f"{label}/scale_{scale + 1}": value for scale, value in zip(scales, values, strict=True)}
    return metrics


def reward_metrics(groups: Sequence[GroupBatch]) -> dict[str, float]:
    """Mean rewards over all images, and the mean over groups of the std of the compared values within a group.

    Where prefixes have several continuations, also the part of the reward's variance that the prefix decides.
    """
    if not groups:
        return {}
    names = dict.fromkeys(name for group in groups for name in group.rewards)
    metrics = {
        f"reward/{name}": _mean(group.rewards[name] for group in groups if name in group.rewards) for name in names
    }
    metrics["reward/total"] = _mean(group.total for group in groups)
    metrics["reward_std"] = float(torch.stack([group.values.std(correction=0) for group in groups]).mean())
    share = prefix_share(torch.stack([group.total for group in groups]))
    return metrics if math.isnan(share) else metrics | {"prefix_share": share}


def rollout_metrics(groups: Sequence[trajectory_pb2.Group], weight_version: int) -> dict[str, float]:
    """What the group messages say of an update.

    Age of the weights behind them in updates: mean, and groups by age; groups that lack an optional reward, by its
    name; the workers' own seconds for generating and scoring, summed over groups.
    """
    if not groups:
        return {}
    ages = Counter(weight_version - group.job.weight_version for group in groups)
    absent = Counter(name for group in groups for name in group.absent_rewards)
    return {
        "staleness": sum(age * count for age, count in ages.items()) / len(groups),
        **{f"staleness/{age}": float(count) for age, count in sorted(ages.items())},
        **{f"rewards_absent/{name}": float(count) for name, count in sorted(absent.items())},
        "timing/generate": sum(group.generate_seconds for group in groups),
        "timing/score": sum(group.score_seconds for group in groups),
    }


def _mean(tensors: Iterable[Tensor]) -> float:
    return float(torch.cat([tensor.flatten() for tensor in tensors]).mean())
