"""HPSv3's loss against a slow reference, its limit of certain scores, and the gradients it must give."""

from __future__ import annotations

import math

import pytest
import torch

from varl.tiny.preference.loss import SAMPLES, draw_noise, uncertainty_loss


def slow_loss(better: list[list[float]], worse: list[list[float]], noise: list[list[float]]) -> float:
    total, count = 0.0, 0
    for (mu_b, log_b), (mu_w, log_w), draws in zip(better, worse, noise, strict=True):
        deviation = math.sqrt(math.exp(log_b) ** 2 + math.exp(log_w) ** 2)
        for draw in draws:
            total += math.log1p(math.exp(-(mu_b - mu_w + deviation * draw)))
            count += 1
    return total / count


def test_equals_the_slow_reference() -> None:
    generator = torch.Generator().manual_seed(0)
    better, worse = torch.randn(2, 5, 2, generator=generator, dtype=torch.float64)
    noise = draw_noise(5, generator).double()
    assert noise.shape == (5, SAMPLES)
    assert uncertainty_loss(better, worse, noise).item() == pytest.approx(
        slow_loss(better.tolist(), worse.tolist(), noise.tolist())
    )


@pytest.mark.parametrize("difference", [-3.0, 0.0, 2.0])
def test_certain_scores_give_the_logistic_loss(difference: float) -> None:
    better, worse = torch.tensor([[difference, -30.0]]), torch.tensor([[0.0, -30.0]])
    loss = uncertainty_loss(better, worse, draw_noise(1, torch.Generator().manual_seed(0)))
    assert loss.item() == pytest.approx(math.log1p(math.exp(-difference)), abs=1e-6)


def test_uncertain_scores_give_the_mean_of_a_half_normal() -> None:
    """Where s is far above both mu and 1, -log sigmoid(z) is max(-z, 0), whose mean is S / sqrt(2 pi)."""
    scores = torch.tensor([[0.0, math.log(1000.0)]])
    loss = uncertainty_loss(scores, scores, torch.randn(1, 400_000, generator=torch.Generator().manual_seed(0)))
    assert loss.item() == pytest.approx(1000 * math.sqrt(2) / math.sqrt(2 * math.pi), rel=0.01)


def test_gradient_raises_the_better_and_lowers_the_worse() -> None:
    better, worse = torch.zeros(1, 2, requires_grad=True), torch.zeros(1, 2, requires_grad=True)
    uncertainty_loss(better, worse, draw_noise(1, torch.Generator().manual_seed(0))).backward()  # type: ignore[no-untyped-call]
    assert better.grad is not None and worse.grad is not None
    assert better.grad[0, 0] < 0 < worse.grad[0, 0]
    assert better.grad[0, 1] > 0 and worse.grad[0, 1] > 0, "doubt costs where the order is right"
