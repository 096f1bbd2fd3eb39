"""What gradients say beside their sum: their norm by scale, and how much of an update is signal."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import torch
from torch import Tensor

ROUNDING = 1e-6  # of a squared norm that is a difference of others


class GradientProbe:
    """Norms by scale, conflicts between scales, signal and noise of an update, while its groups are added up.

    Each group measures the gradient of one scale's part of its loss, by one backward pass more of that part alone: the
    first one a scale that ``update`` decides at random, those after it the following scales until all are measured. A
    scale's figures are thus those of one group, and with fewer groups than scales some scales have none this time.

    Two gradients are held beside the parameters' own, however many scales there are: their sum before the group at
    hand, and the scale's. The parameters' own are added up as without a probe, so that measuring changes no weight.

    parameters: whose ``grad`` the groups' gradients are added to. groups: how many there will be, by whose number each
    group's loss is divided before.
    """

    def __init__(self, parameters: Sequence[Tensor], scales: range, groups: int, update: int) -> None:
        self._parameters, self._scales, self._groups = parameters, scales, groups
        self._first = random.Random(update).randrange(len(scales))
        self._before: list[Tensor | None] = [None] * len(parameters)
        self._scale: list[Tensor | None] = [None] * len(parameters)
        self._squares, self._metrics = list[float](), dict[str, float]()

    def add_pass(self, parts: Sequence[Tensor]) -> None:
        """Measure a pass that is about to be differentiated; parts: each scale's share of the group's loss, scalars."""
        measured = len(self._squares)
        if measured >= len(self._scales):
            return
        part = parts[(self._first + measured) % len(self._scales)]
        found = torch.autograd.grad(part, self._parameters, retain_graph=True, allow_unused=True)
        self._scale = [add(total, gradient) for total, gradient in zip(self._scale, found, strict=True)]

    def add_group(self) -> None:
        """Take in what the parameters' gradients gained since the last call."""
        squares, products = list[float](), list[float]()
        for index, parameter in enumerate(self._parameters):
            if parameter.grad is not None:
                before, own = self._before[index], self._scale[index]
                gained = parameter.grad if before is None else parameter.grad - before
                squares.append(float(gained.square().sum(dtype=torch.float64)))
                products.append(0.0 if own is None else float((gained * own).sum(dtype=torch.float64)))
                self._before[index] = parameter.grad.detach().clone()
        # Not fsum, which raises where a gradient that is not finite gives both infinities.
        self._add_scale(self._groups**2 * sum(squares), self._groups * sum(products))
        self._squares.append(math.fsum(squares))
        self._scale = [None] * len(self._parameters)

    def _add_scale(self, whole: float, product: float) -> None:
        """whole: the squared norm of the group's gradient; product: its scalar product with the scale's."""
        measured = len(self._squares)
        if measured < len(self._scales):
            scale, own = self._scales[(self._first + measured) % len(self._scales)], square(self._scale)
            self._metrics[f"grad_norm/scale_{scale + 1}"] = math.sqrt(own)
            self._metrics[f"grad_cosine/scale_{scale + 1}"] = cosine_with_rest(own, product, whole)

    def metrics(self) -> dict[str, float]:
        """What was measured.

        ``grad_norm/scale_*``: norm of the gradient of a scale's loss in one group. ``grad_cosine/scale_*``: its cosine
        with that of the other scales; below 0 they conflict. ``grad_signal`` and ``grad_noise``: see ``signal_noise``.
        """
        whole = square(self._before)
        return dict(sorted(self._metrics.items())) | signal_noise(self._squares, whole)


def add(total: Tensor | None, gradient: Tensor | None) -> Tensor | None:
    """The sum of two gradients, either of which may be missing."""
    return gradient if total is None else total if gradient is None else total + gradient


def square(gradients: Sequence[Tensor | None]) -> float:
    """Sum of the squares of all elements."""
    return math.fsum(float(one.square().sum(dtype=torch.float64)) for one in gradients if one is not None)


def signal_noise(squares: Sequence[float], whole: float) -> dict[str, float]:
    """Signal and noise of an update's gradient, as squared norms; nothing where a single group can tell no noise.

    The gradient H = h_1 + … + h_n is a mean over prompts of which a group is one draw. Its noise is the variance of
    that mean, summed over parameters, (n sum |h_i|^2 - |H|^2) / (n - 1); its signal is |H|^2 less the noise, without
    bias and so at times below 0. Their ratio times n is the inverse of the "simple noise scale" of arXiv 1812.06162,
    Appendix A, in groups.

    squares: |h_i|^2 of every group. whole: |H|^2.
    """
    groups = len(squares)
    if groups < 2:
        return {}
    noise = (groups * math.fsum(squares) - whole) / (groups - 1)
    return {"grad_signal": whole - noise, "grad_noise": noise}


def cosine_with_rest(own: float, product: float, whole: float) -> float:
    """Cosine of a part g of a gradient h with the rest h - g, -1 to 1; 0 where one of them is 0.

    own: |g|^2. product: g h. whole: |h|^2.
    """
    rest = whole - 2 * product + own
    if own <= 0 or rest <= ROUNDING * max(own, whole):
        return 0.0
    return max(-1.0, min(1.0, (product - own) / math.sqrt(own * rest)))
