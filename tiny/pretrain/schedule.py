"""Learning-rate schedule and progress lines of pretraining."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch


def cosine_lr(
    optimizer: torch.optim.Optimizer, peak: float, step: int, steps: int, warmup: int = 50, floor: float = 0.05
) -> float:
    """Linear warm-up, then a cosine from ``peak`` to ``floor * peak``.

    Sets and returns the learning rate of this step.
    """
    ramp = min(1.0, (step + 1) / warmup)
    lr = peak * ramp * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * step / steps)))
    for group in optimizer.param_groups:
        group["lr"] = lr
    return lr


class StepLog:
    """A line every ``every`` steps: step, share done, time left, and the running mean of what it is given."""

    def __init__(self, name: str, steps: int, log: Callable[[str], None], every: int = 50) -> None:
        self.name, self.steps, self.log, self.every = name, steps, log, every
        self.start, self.done = time.monotonic(), -1  # of this process: a resumed stage has steps before it
        self.means: dict[str, float] = {}

    def update(self, step: int, **values: float) -> None:
        """Take the values of one step; prints when a line is due."""
        self.done += 1
        for key, value in values.items():
            self.means[key] = 0.95 * self.means.get(key, value) + 0.05 * value
        if (step + 1) % self.every and step + 1 != self.steps:
            return
        spent = time.monotonic() - self.start
        left = spent / max(1, self.done) * (self.steps - step - 1)
        text = " ".join(f"{key} {value:.4f}" for key, value in self.means.items())
        self.log(f"{self.name} {step + 1}/{self.steps} {spent:.0f} s, {left:.0f} s left: {text}")
