"""What a number of training may never be, as pure functions, and what then happens.

The run stops, the step is left out, or nothing.
"""

from __future__ import annotations

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


def first_ratio(deviation: float, tolerance: float) -> Alarm | None:
    """Whether an on-policy ratio is further from 1 than rounding takes it.

    ``deviation``: the largest |ratio - 1|, NaN counts.
    """
    if deviation <= tolerance:
        return None
    return Alarm(
        "first_ratio",
        f"a ratio of an on-policy group is {deviation:.3g} off 1, so sampler and trainer do not hold the same weights",
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
