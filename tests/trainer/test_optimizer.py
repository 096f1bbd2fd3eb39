"""The optimiser's rates, groups and moments, and the average of the weights."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
import torch

from tests.support.updater_rig import random_batch, random_policy, same_weights, updater_of, weights_of
from varl.launch.supervisor import sigterm_as_exit
from varl.trainer.checkpoints.checkpoint import Progress, load_checkpoint, save_checkpoint
from varl.trainer.recipe.sections import OptimizerSettings
from varl.trainer.step import ema
from varl.trainer.step.ema import WeightAverage
from varl.trainer.step.optimizer import build_optimizer
from varl.trainer.step.update import UpdateOutcome, learning_rate


def test_learning_rate_warms_up_linearly() -> None:
    rates = OptimizerSettings(lr=1e-5, warmup_updates=4, warmup_from=1e-6)
    assert [learning_rate(rates, update) for update in (0, 2, 4, 9)] == pytest.approx([1e-6, 5.5e-6, 1e-5, 1e-5])
    assert learning_rate(OptimizerSettings(lr=1e-5), 0) == 1e-5


def test_learning_rate_falls_linearly_to_zero() -> None:
    rates = OptimizerSettings(lr=1e-5, warmup_updates=2, decay_from=10, decay_until=20)
    assert [learning_rate(rates, update) for update in (2, 10, 15, 19, 20, 30)] == pytest.approx(
        [1e-5, 1e-5, 5e-6, 1e-6, 0, 0]
    )


def test_gains_and_the_rest_step_with_rates_of_their_own() -> None:
    model = random_policy()
    before = {name: value.detach().clone() for name, value in model.module.named_parameters()}
    updater = updater_of(model, gain_lr_factor=4.0, weight_decay=0.0, warmup_updates=2, warmup_from=2e-3)
    gains = {
        id(weight)
        for part in model.module.modules()
        if isinstance(part, torch.nn.RMSNorm)
        for weight in part.parameters()
    }
    others = {id(weight) for weight in model.module.parameters()} - gains
    assert [{id(weight) for weight in group["params"]} for group in updater.optimizer.param_groups] == [others, gains]
    outcome, metrics = updater.update([random_batch(model, [0.0, 1.0])], 0, by_scale=False)
    assert outcome is UpdateOutcome.STEPPED and metrics["lr"] == 2e-3
    assert [group["lr"] for group in updater.optimizer.param_groups] == [2e-3, 8e-3]
    moved: dict[bool, float] = {
        True: 0.0,
        False: 0.0,
    }  # AdamW's first step is the rate itself wherever the gradient is well above eps
    for name, value in model.module.named_parameters():
        largest = float((value.detach() - before[name]).abs().max())
        moved[id(value) in gains] = max(moved[id(value) in gains], largest)
    assert moved == {True: pytest.approx(8e-3, rel=1e-3), False: pytest.approx(2e-3, rel=1e-3)}


def test_a_gain_factor_of_one_steps_as_one_group_would() -> None:
    rates = OptimizerSettings(lr=1e-2)
    policy, plain = random_policy(), random_policy().module
    grouped = policy.module
    optimizers = (
        build_optimizer(policy.parameter_groups(), rates),
        torch.optim.AdamW(plain.parameters(), rates.lr, rates.betas, rates.eps, rates.weight_decay),
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        for one, other in zip(grouped.parameters(), plain.parameters(), strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert same_weights(list(grouped.parameters()), list(plain.parameters()))
    assert not same_weights(list(grouped.parameters()), list(random_policy().module.parameters()))


def test_moments_in_bfloat16_take_half_the_room_and_step_nearly_alike(tmp_path: Path) -> None:
    models = [random_policy() for _ in range(3)]
    wide, small, again = (updater_of(models[0]), *(updater_of(model, "bfloat16") for model in models[1:]))
    for update in range(3):
        for one, model in zip((wide, small), models, strict=False):
            one.update([random_batch(model, [0.0, 1.0, 0.5], seed=update)], update, by_scale=False)
    moments = [[state["exp_avg"].nbytes for state in one.optimizer.state.values()] for one in (wide, small)]
    assert moments[0] == [2 * each for each in moments[1]]
    full, rounded = (torch.cat([w.flatten() for w in weights_of(model)]) - _start() for model in models[:2])
    assert 0 < float((full - rounded).norm()) < 0.02 * float(full.norm())
    load_checkpoint(save_checkpoint(tmp_path, Progress(3, 0), small, None, keep=1), again, None)
    assert [state["exp_avg_sq"].dtype for state in again.optimizer.state.values()] == [torch.bfloat16] * len(moments[0])
    for one, model in ((small, models[1]), (again, models[2])):
        one.update([random_batch(model, [0.0, 1.0, 0.5], seed=3)], 3, by_scale=False)
    assert same_weights(weights_of(models[1]), weights_of(models[2]))


def test_moments_that_would_never_move_are_refused() -> None:
    with pytest.raises(ValueError, match=r"state_dtype: bfloat16 rounds away .* betas \(0.9, 0.999\)"):
        OptimizerSettings(state_dtype="bfloat16", betas=(0.9, 0.999))


def test_a_resumed_run_steps_by_the_settings_that_it_is_given(tmp_path: Path) -> None:
    before, after = updater_of(random_policy()), random_policy()
    before.update([random_batch(random_policy(), [0.0, 1.0])], 0, by_scale=False)
    path = save_checkpoint(tmp_path, Progress(1, 0), before, None, keep=1)
    changed = updater_of(after, weight_decay=0.0, eps=1e-4, gain_lr_factor=50.0)
    load_checkpoint(path, changed, None)
    assert [(group["weight_decay"], group["eps"]) for group in changed.optimizer.param_groups] == [(0.0, 1e-4)] * 2
    assert [group["lr_factor"] for group in changed.optimizer.param_groups] == [1.0, 50.0]
    assert len(changed.optimizer.state) == len(before.optimizer.state)


def test_a_checkpoint_of_other_trained_parameters_is_refused_by_the_setting(tmp_path: Path) -> None:
    whole, part = updater_of(random_policy()), random_policy()
    whole.update([random_batch(random_policy(), [0.0, 1.0])], 0, by_scale=False)
    path = save_checkpoint(tmp_path, Progress(1, 0), whole, None, keep=1)
    for parameter in part.parameter_groups().others:
        parameter.requires_grad_(False)
    with pytest.raises(ValueError, match=r"model\.trainable"):
        load_checkpoint(path, updater_of(part), None)


def _start() -> torch.Tensor:
    return torch.cat([value.flatten() for value in weights_of(random_policy())])


def test_average_follows_the_formula_and_can_be_applied_for_a_while() -> None:
    model = random_policy()
    average, first = WeightAverage(model.module, 0.75), weights_of(model)
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.add_(1.0)
    average.update()
    changed = weights_of(model)
    with average.applied():
        for own, start, now in zip(weights_of(model), first, changed, strict=True):
            assert torch.allclose(own, 0.75 * start + 0.25 * now, atol=1e-6)
    assert same_weights(changed, weights_of(model))


def test_an_average_of_bfloat16_weights_moves_and_outlives_its_use() -> None:
    module = torch.nn.Linear(8, 8).to(torch.bfloat16)
    average, start = WeightAverage(module, 0.99), module.weight.detach().clone()
    with torch.no_grad():
        module.weight.add_(0.1)
    for _ in range(1000):
        average.update()
    own, moved = module.weight.detach().clone(), average.weights["weight"].clone()
    assert torch.allclose(moved, own.float(), atol=1e-3) and not torch.equal(own, start)
    with average.applied():
        assert torch.equal(module.weight, moved.to(torch.bfloat16))
    assert torch.equal(module.weight, own) and torch.equal(average.weights["weight"], moved)


@pytest.mark.parametrize("at", [1, 2])
def test_a_stop_while_averages_change_places_leaves_the_weights(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_policy()
    average, exchanges, real = WeightAverage(model.module, 0.75), count(1), ema._weights
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.add_(1.0)
    own, averages = weights_of(model), {name: value.clone() for name, value in average.weights.items()}

    def told_after_one(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
        first, *rest = real(module)
        yield first
        if next(exchanges) == at:
            signal.raise_signal(signal.SIGTERM)
        yield from rest

    monkeypatch.setattr(ema, "_weights", told_after_one)
    with sigterm_as_exit(), pytest.raises(SystemExit), average.applied():
        pass
    assert same_weights(own, weights_of(model))
    assert all(torch.equal(value, averages[name]) for name, value in average.weights.items())
