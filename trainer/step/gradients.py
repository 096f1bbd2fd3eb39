"""What gradients say beside their sum: their norm by scale, and how much of an update is signal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def add(total: Tensor | None, gradient: Tensor | None) -> Tensor | None:
    """The sum of two gradients, either of which may be missing."""
    return gradient if total is None else total if gradient is None else total + gradient


def square(gradients: Sequence[Tensor | None]) -> float:
    """Sum of the squares of all elements."""
    return math.fsum(float(gradient.square().sum()) for gradient in gradients if gradient is not None)


class GradientNoise:
    """Signal and noise of an update's gradient, from those of its n groups.

    The gradient H = h_1 + … + h_n is a mean over prompts of which a group is one draw. Its noise is the variance of
    that mean, summed over parameters, (n sum |h_i|^2 - |H|^2) / (n - 1); its signal is |H|^2 less the noise, without
    bias and so at times below 0. Their ratio times n is the inverse of the "simple noise scale" of arXiv 1812.06162,
    Appendix A, in groups.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._parameters = parameters
        self._before: list[Tensor | None] = [None] * len(parameters)
        self._squares = list[float]()

    def add_group(self) -> None:
        """Take in what the parameters' gradients gained since the last call."""
        now = [None if one.grad is None else one.grad.detach().clone() for one in self._parameters]
        gained = [new if old is None or new is None else new - old for old, new in zip(self._before, now, strict=True)]
        self._squares.append(square(gained))
        self._before = now

    def metrics(self) -> dict[str, float]:
        """``grad_signal`` and ``grad_noise``, squared norms; nothing where a single group can tell no noise."""
        groups = len(self._squares)
        if groups < 2:
            return {}
        whole = square(self._before)
        noise = (groups * math.fsum(self._squares) - whole) / (groups - 1)
        return {"grad_signal": whole - noise, "grad_noise": noise}


def by_scale_metrics(gradients: Mapping[int, Sequence[Tensor | None]]) -> dict[str, float]:
    """The norm of each scale's gradient, and its cosine with the sum of the other scales': below 0 they conflict.

    Keys of ``gradients`` are scale indices from 0, names count them from 1.
    """
    parameters = len(next(iter(gradients.values())))
    metrics = dict[str, float]()
    for scale, own in gradients.items():
        others: list[Tensor | None] = [None] * parameters
        for other in (gradient for index, gradient in gradients.items() if index != scale):
            others = [add(total, part) for total, part in zip(others, other, strict=True)]
        metrics[f"grad_norm/scale_{scale + 1}"] = math.sqrt(square(own))
        metrics[f"grad_cosine/scale_{scale + 1}"] = cosine(own, others)
    return metrics


def cosine(one: Sequence[Tensor | None], other: Sequence[Tensor | None]) -> float:
    """Cosine of the angle between two gradients, -1 to 1; 0 where one of them is 0."""
    product = math.fsum(
        float(torch.sum(a * b)) for a, b in zip(one, other, strict=True) if a is not None and b is not None
    )
    length = math.sqrt(square(one) * square(other))
    return product / length if length else 0.0
