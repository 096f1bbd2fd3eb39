"""Each objective against a slow reference written here from the formulas.

Loops, float64, no call into the code under test.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from varl.policy.distributions import Categorical
from varl.trainer.objectives import grpo, panw, vmr
from varl.trainer.objectives.loss import LossSettings, by_step, group_loss, token_loss
from varl.trainer.objectives.rewards import Combination, combine

SQUARE = [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 48, 64]
PREFIX_256 = [side * side for side in SQUARE[:12]]
values_strategy = st.lists(st.floats(-5, 5), min_size=2, max_size=16)


@given(values_strategy)
def test_group_advantages_match_the_loop(values: list[float]) -> None:
    mean = math.fsum(values) / len(values)
    std = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values))
    result = grpo.group_advantages(torch.tensor(values, dtype=torch.float64), 1e-6)
    assert result.tolist() == pytest.approx([(v - mean) / (std + 1e-6) for v in values], abs=1e-6)


def test_equal_values_have_no_preference() -> None:
    equal, mixed = torch.full((4,), 0.7, dtype=torch.float64), torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    assert grpo.is_zero_std(equal, 1e-6) and not grpo.is_zero_std(mixed, 1e-6)
    assert grpo.group_advantages(equal, 1e-6).abs().max() < 1e-6


TABLES = st.lists(st.lists(st.floats(-50, 50), min_size=2, max_size=2), min_size=2, max_size=6)


@given(TABLES, TABLES, st.floats(-2, 2), st.sampled_from(["sum", "normalised_sum"]))
def test_several_rewards_match_the_loop(
    first: list[list[float]], second: list[list[float]], weight: float, how: Combination
) -> None:
    rows = min(len(first), len(second))
    tables, weights = {"ocr": first[:rows], "hps": second[:rows]}, {"ocr": 1.0, "hps": weight}

    def scaled(name: str, row: int, column: int) -> float:
        flat = [value for each in tables[name] for value in each]
        mean = math.fsum(flat) / len(flat)
        std = math.sqrt(math.fsum((value - mean) ** 2 for value in flat) / len(flat))
        value = tables[name][row][column]
        return value if how == "sum" else (value - mean) / (std + 1e-6)

    expected = [
        [sum(weights[name] * scaled(name, row, column) for name in tables) for column in range(2)]
        for row in range(rows)
    ]
    found = combine(
        {name: torch.tensor(table, dtype=torch.float64) for name, table in tables.items()}, weights, how, 1e-6
    )
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=1e-6)


@given(values_strategy, st.floats(0.1, 10))
def test_middle_value_matches_the_loop(rewards: list[float], eta: float) -> None:
    top = max(rewards)
    expected = top + eta * math.log(sum(math.exp((r - top) / eta) for r in rewards) / len(rewards))
    result = float(vmr.middle_value(torch.tensor(rewards, dtype=torch.float64), eta))
    assert result == pytest.approx(expected, abs=1e-6)
    assert sum(rewards) / len(rewards) - 1e-9 <= result <= top + 1e-9


def test_middle_value_check_value_of_the_method() -> None:
    assert float(vmr.middle_value(torch.tensor([0.0, 2.0], dtype=torch.float64), 1.0)) == pytest.approx(1.434, abs=5e-4)
    assert float(vmr.middle_value(torch.tensor([1.25], dtype=torch.float64), 0.3)) == pytest.approx(1.25)


def test_the_prefix_has_the_share_of_variance_that_the_rewards_were_made_with() -> None:
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    prompts = 3 * normal(400, 1, 1)  # how prompts differ is no part of it
    assert vmr.prefix_share(prompts + 2 * normal(400, 8, 1) + normal(400, 8, 4)) == pytest.approx(0.8, abs=0.02)
    assert vmr.prefix_share(prompts + normal(400, 8, 4)) == pytest.approx(0, abs=0.03)
    assert math.isnan(vmr.prefix_share(torch.ones(2, 2, 2)))
    assert math.isnan(vmr.prefix_share(normal(2, 8, 1))) and math.isnan(vmr.prefix_share(normal(2, 1, 8)))


def test_stages_alternate_three_to_one_and_split_the_scales() -> None:
    stages = [vmr.stage_of(update, "vmr", 3).value for update in range(8)]
    assert stages == ["prefix", "prefix", "prefix", "suffix"] * 2
    assert vmr.stage_of(3, "full", 3) is vmr.Stage.FULL
    coarse = [vmr.stage_of(update, "vmr", 300, 100).value for update in range(800)]
    assert coarse == (["prefix"] * 300 + ["suffix"] * 100) * 2
    assert {vmr.stage_of(update, "vmr", 3, 0) for update in range(40)} == {vmr.Stage.PREFIX}
    assert {vmr.stage_of(update, "vmr", 0) for update in range(40)} == {vmr.Stage.SUFFIX}
    assert vmr.trained_scales(vmr.Stage.PREFIX, 12, 18) == range(12)
    assert vmr.trained_scales(vmr.Stage.SUFFIX, 12, 18) == range(12, 18)
    assert vmr.trained_scales(vmr.Stage.FULL, 0, 18) == range(18)


@pytest.mark.parametrize("split", [0, 18, 19])
def test_a_split_that_empties_a_stage_is_refused_by_name(split: int) -> None:
    with pytest.raises(ValueError, match=r"objective\.split_scale"):
        vmr.trained_scales(vmr.Stage.PREFIX, split, 18)


SHARES = {  # docs/method.md, in percent, for the 12 grids of the 256 prefix
    0.0: [0.11, 0.44, 1.0, 1.8, 2.8, 4.0, 5.4, 7.1, 11.1, 16.0, 21.8, 28.4],
    0.6: [1.75, 3.05, 4.22, 5.31, 6.35, 7.35, 8.31, 9.25, 11.05, 12.79, 14.47, 16.10],
    0.8: [3.97, 5.24, 6.17, 6.92, 7.57, 8.14, 8.66, 9.13, 9.98, 10.74, 11.42, 12.05],
    1.0: [8.33] * 12,
    1.2: [15.80, 11.97, 10.18, 9.07, 8.30, 7.71, 7.25, 6.88, 6.29, 5.85, 5.50, 5.21],
}


@pytest.mark.parametrize(("alpha", "expected"), list(SHARES.items()))
@pytest.mark.parametrize("normaliser", ["constant_total", "none"])
def test_panw_shares_reproduce_the_table(alpha: float, expected: list[float], normaliser: panw.Normaliser) -> None:
    shares = 100 * panw.shares(PREFIX_256, panw.step_weights(PREFIX_256, alpha, normaliser))
    assert shares.tolist() == pytest.approx(expected, abs=0.055 if alpha == 0 else 0.0051)


@given(st.lists(st.integers(1, 64), min_size=1, max_size=18), st.floats(0, 1.5))
def test_panw_weights_match_the_loop_for_every_normaliser(steps: list[int], alpha: float) -> None:
    factors = [1 / n**alpha for n in steps]
    total = math.fsum(k * n for k, n in zip(factors, steps, strict=True))
    expected: dict[panw.Normaliser, list[float]] = {
        "none": factors,
        "constant_total": [k * sum(steps) / total for k in factors],
    }
    for normaliser in expected:
        weights = panw.step_weights(steps, alpha, normaliser)
        assert weights.tolist() == pytest.approx(expected[normaliser], rel=1e-9)
        per_token = panw.token_weights(steps, weights).tolist()
        assert per_token == [w for w, n in zip(weights.tolist(), steps, strict=True) for _ in range(n)]
        assert panw.effective_scale(steps, weights) == pytest.approx(math.fsum(per_token) / sum(steps))
    assert panw.effective_scale(steps, panw.step_weights(steps, alpha, "constant_total")) == pytest.approx(1)


def _softmax(logits: list[float]) -> list[float]:
    top = max(logits)
    exps = [math.exp(x - top) for x in logits]
    return [e / math.fsum(exps) for e in exps]


def _case(seed: int, candidates: int = 3, steps: tuple[int, ...] = (1, 4), codes: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    n = sum(steps)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return {
        "logits": normal(candidates, n, codes),
        "reference": normal(candidates, n, codes),
        "tokens": torch.randint(codes, (candidates, n), generator=generator),
        "shift": 0.3 * normal(candidates, n),
        "advantages": normal(candidates),
        "mask": torch.rand((candidates, n), generator=generator) < 0.6,
    }


@pytest.mark.parametrize("seed", range(3))
def test_kl_entropy_and_log_probs_match_the_loop(seed: int) -> None:
    case = _case(seed)
    found = Categorical(case["logits"]).evaluate(case["tokens"], Categorical(case["reference"]))
    exact, k3 = found.kl, grpo.k3_kl(found.log_probs, found.reference_log_probs)
    entropy, log_probs = found.entropy, found.log_probs
    for i, j in itertools.product(range(3), range(5)):
        p, q = _softmax(case["logits"][i, j].tolist()), _softmax(case["reference"][i, j].tolist())
        code = int(case["tokens"][i, j])
        gap = math.log(q[code]) - math.log(p[code])
        assert float(exact[i, j]) == pytest.approx(
            math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True)), abs=1e-6
        )
        assert float(k3[i, j]) == pytest.approx(math.exp(gap) - gap - 1, abs=1e-6)
        assert float(entropy[i, j]) == pytest.approx(-math.fsum(a * math.log(a) for a in p), abs=1e-6)
        assert float(log_probs[i, j]) == pytest.approx(math.log(p[code]), abs=1e-6)


def _slow_loss(case: dict[str, Tensor], steps: tuple[int, ...], alpha: float, settings: LossSettings) -> float:
    """Loss of the whole group, candidate by candidate, grid by grid, token by token."""
    n_total, total = sum(steps), 0.0
    k_sum = math.fsum(n ** (1 - alpha) for n in steps)
    for i in range(case["logits"].shape[0]):
        position, advantage = 0, float(case["advantages"][i])
        for n in steps:
            weight = n**-alpha * n_total / k_sum
            cells = range(position, position + n)
            position += n
            gaps = {j: -float(case["shift"][i, j]) for j in cells}
            masked = [j for j in cells if bool(case["mask"][i, j])]
            grid_ratio = math.exp(math.fsum(gaps[j] for j in masked))
            for j in cells:
                p, q = _softmax(case["logits"][i, j].tolist()), _softmax(case["reference"][i, j].tolist())
                kl = math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
                ratio = math.exp(gaps[j]) if settings.ratio == "token" else grid_ratio
                clipped = min(max(ratio, 1 - settings.clip_low), 1 + settings.clip_high)
                policy = -min(ratio * advantage, clipped * advantage) if j in masked else 0.0
                policy /= len(masked) if settings.ratio == "grid" and masked else 1
                if settings.mask_kl and j not in masked:
                    kl = 0.0
                total += weight * (policy + settings.kl_beta * kl) / n_total
    return total / case["logits"].shape[0]


def _fast_loss(
    case: dict[str, Tensor], logits: Tensor, old: Tensor, steps: tuple[int, ...], alpha: float, settings: LossSettings
) -> Tensor:
    weights = panw.token_weights(steps, panw.step_weights(steps, alpha, "constant_total"))
    kl = Categorical(logits).kl(Categorical(case["reference"]))
    log_probs = Categorical(logits).log_prob(case["tokens"])
    return group_loss(token_loss(log_probs, old, case["advantages"], kl, case["mask"], weights, steps, settings).terms)


@pytest.mark.parametrize(
    ("ratio", "mask_kl", "alpha"), list(itertools.product(["token", "grid"], [False, True], [0.0, 0.8]))
)
def test_loss_matches_the_loop(ratio: str, mask_kl: bool, alpha: float) -> None:
    settings = LossSettings(
        kl_beta=0.3, clip_low=0.2, clip_high=0.1, ratio="grid" if ratio == "grid" else "token", mask_kl=mask_kl
    )
    for seed in range(3):
        case = _case(seed)
        old = Categorical(case["logits"]).log_prob(case["tokens"]) + case["shift"]
        result = float(_fast_loss(case, case["logits"], old, (1, 4), alpha, settings))
        assert result == pytest.approx(_slow_loss(case, (1, 4), alpha, settings), abs=1e-6)


def test_first_on_policy_step_has_ratio_one_no_clip_and_the_same_gradient_for_both_granularities() -> None:
    case, gradients = _case(7), []
    for ratio in ("token", "grid"):
        logits = case["logits"].clone().requires_grad_()
        log_probs = Categorical(logits).log_prob(case["tokens"])
        settings = LossSettings(kl_beta=0.0, clip_low=0.2, clip_high=0.2, ratio="grid" if ratio == "grid" else "token")
        weights = torch.ones(5, dtype=torch.float64)
        result = token_loss(
            log_probs,
            log_probs.detach(),
            case["advantages"],
            torch.zeros_like(log_probs),
            case["mask"],
            weights,
            (1, 4),
            settings,
        )
        assert bool((result.surrogate.ratio == 1).all())
        assert not bool((result.surrogate.clipped_low | result.surrogate.clipped_high).any())
        gradients.append(torch.autograd.grad(group_loss(result.terms), logits)[0])
    assert torch.allclose(gradients[0], gradients[1], atol=1e-12)
    assert float(gradients[0].abs().max()) > 0


def test_clip_flags_name_the_side_that_lost_its_gradient() -> None:
    ratios = torch.tensor([[0.7, 1.0, 1.3], [0.7, 1.0, 1.3]], dtype=torch.float64)
    result = grpo.clipped_surrogate(ratios.log(), torch.tensor([1.0, -1.0], dtype=torch.float64), 0.2, 0.2)
    assert result.clipped_high.tolist() == [[False, False, True], [False, False, False]]
    assert result.clipped_low.tolist() == [[False, False, False], [True, False, False]]
    assert result.loss.flatten().tolist() == pytest.approx([-0.7, -1.0, -1.2, 0.8, 1.0, 1.3])


def test_by_step_averages_over_candidates_and_cells() -> None:
    values = torch.tensor([[1.0, 2.0, 4.0], [3.0, 6.0, 8.0]])
    assert by_step(values, (1, 2)).tolist() == pytest.approx([2.0, 5.0])
    assert by_step(values > 3, (1, 2)).tolist() == pytest.approx([0.0, 0.75])
