"""What a number of training may never be, as pure functions, and what then happens.

The run stops, the step is left out, or nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from varl.trainer.recipe.sections import Action

LEAST_HISTORY = 8  # norms before a median says anything


@dataclass(frozen=True)
class Alarm:
    """A guard that saw something: its name in the settings, and what it saw."""

    guard: str
    detail: str


class GuardError(ArithmeticError):
    """A guard whose setting is "stop" saw something; the weights are as before the update.

    ``metrics`` is what was measured by then.
    """

    def __init__(self, alarm: Alarm) -> None:
        super().__init__(f"guards.{alarm.guard}: {alarm.detail}")
        self.alarm = alarm
        self.metrics: dict[str, float] = {}


def non_finite(name: str, values: Tensor) -> Alarm | None:
    """Whether any of ``values``, of any shape, is NaN or infinite."""
    bad = int((~torch.isfinite(values)).sum())
    return Alarm("non_finite", f"{bad} of {values.numel()} values of {name} are not finite") if bad else None


def duplicates(tokens: Tensor, tolerated: float) -> Alarm | None:
    """Whether more than this share of the candidates, tokens [G, N], repeat an earlier one.

    Such candidates show the same image.
    """
    share = duplicate_share(tokens)
    return (
        Alarm("duplicates", f"{share:.2f} of the candidates repeat another one's tokens") if share > tolerated else None
    )


def duplicate_share(tokens: Tensor) -> float:
    """Share of the candidates of tokens [G, N] that repeat an earlier one, in [0, 1)."""
    return 1 - len(torch.unique(tokens, dim=0)) / len(tokens)


def ratio_deviation(ratios: Sequence[Tensor], quantile: float) -> float:
    """The ``quantile`` of |ratio - 1| over all tokens of on-policy groups: so large a share deviates no more than that.

    ratios: tensors of any shape; none: 0. quantile: (0, 1], 1 is the maximum. NaN where a ratio is not finite, which no
    quantile may hide.
    """
    if not ratios:
        return 0.0
    deviations = torch.cat([(ratio - 1).abs().flatten() for ratio in ratios])
    if not bool(torch.isfinite(deviations).all()):
        return math.nan
    return float(deviations.kthvalue(max(1, math.ceil(quantile * len(deviations)))).values)


def first_ratio(deviation: float, tolerance: float) -> Alarm | None:
    """Whether on-policy ratios are further from 1 than rounding takes them.

    ``deviation``: as ``ratio_deviation`` gives it, NaN counts.
    """
    if deviation <= tolerance:
        return None
    return Alarm(
        "first_ratio",
        f"ratios of on-policy groups are {deviation:.3g} off 1: sampler and trainer hold other weights, or rounding is "
        "that large, which guidance and a low temperature multiply (guards.ratio_tolerance)",
    )


def zero_spread(groups: int, without: int) -> Alarm | None:
    """Whether all groups of an update, one or more, are without spread."""
    return (
        Alarm("zero_spread", f"none of {groups} groups has any spread of values")
        if groups and groups == without
        else None
    )


def exploding(norm: float, history: Sequence[float], factor: float) -> Alarm | None:
    """Whether a gradient norm is more than ``factor`` times the median of those before it.

    Silent while there are fewer than 8.
    """
    if len(history) < LEAST_HISTORY or not norm > factor * median(history):
        return None
    return Alarm(
        "grad_norm",
        f"gradient norm {norm:.4g} is {norm / max(median(history), 1e-30):.3g} "
        f"times the median of {len(history)} before it",
    )


class Watch:
    """Applies the settings to alarms and counts them over one update."""

    def __init__(self, actions: Mapping[str, Action]) -> None:
        self._actions = actions
        self.counts: Counter[str] = Counter()
        self.alarms: list[Alarm] = []

    def skips(self, alarm: Alarm | None) -> bool:
        """Whether to leave out what the alarm is about. Raises GuardError where the setting is "stop"."""
        if alarm is None or self._actions[alarm.guard] == "off":
            return False
        self.counts[alarm.guard] += 1
        self.alarms.append(alarm)
        if self._actions[alarm.guard] == "stop":
            raise GuardError(alarm)
        return True

    def metrics(self) -> dict[str, float]:
        """guard/<name>: how often each guard has seen something."""
        return {f"guard/{name}": float(count) for name, count in sorted(self.counts.items())}
