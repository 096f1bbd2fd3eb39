"""Autograd against central finite differences on a whole two-scale policy.

One 1x1 grid, then a 2x2 grid that depends on its token.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from varl.policy.distributions import Categorical
from varl.trainer.objectives import grpo, panw, vmr
from varl.trainer.objectives.loss import LossSettings, group_loss, token_loss

CODES, STEPS = 4, (1, 4)
SIZE = CODES + CODES * STEPS[1] * CODES


def _logits(parameters: Tensor, tokens: Tensor) -> Tensor:
    """First grid: a table of logits; second grid: one table per token of the first.

    Parameters [SIZE], tokens [G, 5] give [G, 5, CODES].
    """
    first = parameters[:CODES].expand(len(tokens), 1, CODES)
    second = parameters[CODES:].view(CODES, STEPS[1], CODES)[tokens[:, 0]]
    return torch.cat([first, second], dim=1)


def _loss(parameters: Tensor, case: dict[str, Tensor], settings: LossSettings, estimator: grpo.KlEstimator) -> Tensor:
    tokens = case["tokens"]
    found = Categorical(_logits(parameters, tokens)).evaluate(tokens, Categorical(_logits(case["reference"], tokens)))
    log_probs = found.log_probs
    kl = found.kl if estimator == "exact" else grpo.k3_kl(log_probs, found.reference_log_probs)
    advantages = grpo.group_advantages(vmr.middle_value(case["rewards"], 1.0), 1e-6)
    weights = panw.token_weights(STEPS, panw.step_weights(STEPS, 0.6, "constant_total"))
    return group_loss(token_loss(log_probs, case["old"], advantages, kl, case["mask"], weights, STEPS, settings).terms)


def _case(seed: int, drift: float) -> tuple[Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    parameters, tokens = normal(SIZE), torch.randint(CODES, (6, 5), generator=generator)
    old = Categorical(_logits(parameters, tokens)).log_prob(tokens) + drift * normal(6, 5)
    mask = torch.rand((6, 5), generator=generator) < 0.7
    return parameters, {"tokens": tokens, "reference": normal(SIZE), "old": old, "rewards": normal(6, 2), "mask": mask}


@pytest.mark.parametrize(
    ("estimator", "ratio", "drift"), list(itertools.product(["exact", "k3"], ["token", "grid"], [0.0, 0.4]))
)
def test_autograd_agrees_with_finite_differences(estimator: grpo.KlEstimator, ratio: str, drift: float) -> None:
    settings = LossSettings(kl_beta=0.2, clip_low=0.2, clip_high=0.3, ratio="grid" if ratio == "grid" else "token")
    parameters, case = _case(3, drift)
    leaf = parameters.clone().requires_grad_()
    gradient = torch.autograd.grad(_loss(leaf, case, settings, estimator), leaf)[0]
    step = 1e-5
    for index in range(SIZE):
        bump = torch.zeros(SIZE, dtype=torch.float64)
        bump[index] = step
        up, down = (float(_loss(parameters + side * bump, case, settings, estimator)) for side in (1, -1))
        assert float(gradient[index]) == pytest.approx((up - down) / (2 * step), abs=1e-6)
    assert float(gradient.abs().max()) > 1e-3
