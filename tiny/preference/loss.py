"""HPSv3's loss on pairs.

Each score is a normal distribution, and the better image's should come out above the worse one's.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SAMPLES = 1000  # draws of the difference per pair, as HPSv3 takes them


def uncertainty_loss(better: Tensor, worse: Tensor, noise: Tensor) -> Tensor:
    """Mean over pairs of -E[log sigmoid(z)], z ~ N(mu_b - mu_w, s_b² + s_w²) and s = exp(log sigma).

    The draws are reparametrised, z = (mu_b - mu_w) + sqrt(s_b² + s_w²) · noise, so that both numbers of both images get
    a gradient.

    Args:
        better: float32 [B, 2], mu and log sigma of the preferred images.
        worse: float32 [B, 2], the same of the others.
        noise: float32 [B, S], standard normal; see ``draw_noise``.

    Returns:
        float32 [], above 0.

    """
    mean = better[:, 0] - worse[:, 0]
    deviation = (torch.exp(2 * better[:, 1]) + torch.exp(2 * worse[:, 1])).sqrt()
    draws = mean[:, None] + deviation[:, None] * noise
    return -functional.logsigmoid(draws).mean()


def draw_noise(pairs: int, generator: torch.Generator) -> Tensor:
    """Standard normal float32 [pairs, SAMPLES]."""
    return torch.randn(pairs, SAMPLES, generator=generator)
