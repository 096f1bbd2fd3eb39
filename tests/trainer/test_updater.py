"""One update: gradients, what is measured of them, guards, anchors."""

from __future__ import annotations

import math
from statistics import fmean

import pytest
import torch

from tests.support.updater_rig import random_batch, random_policy, same_weights, updater_of, weights_of
from varl.policy.base import SamplingParams
from varl.trainer.recipe.sections import GuardSettings, ObjectiveSettings, OptimizerSettings
from varl.trainer.step.batch import GroupBatch
from varl.trainer.step.gradients import GradientProbe, cosine_with_rest
from varl.trainer.step.update import UpdateOutcome, Updater


@pytest.mark.parametrize("stage", [range(3), range(3, 5)])
def test_the_number_of_candidates_in_a_pass_does_not_change_the_gradient(stage: range) -> None:
    norms = []
    for size in (0, 2):
        model = random_policy()
        updater = updater_of(model, candidates_per_pass=size)
        batches = [random_batch(model, [0.1, 0.9, 0.4, 0.3, 0.8], stage, seed) for seed in range(2)]
        outcome, metrics = updater.update(batches, 0, by_scale=True)
        assert outcome is UpdateOutcome.STEPPED
        norms.append(metrics)
    by_scale = [name for name in norms[0] if "/scale_" in name and name.startswith("grad_")]
    assert len(by_scale) == 2 * 2  # norm and cosine, a scale a group
    for name in ("grad_norm", "loss", "kl", "grad_signal", "grad_noise", *by_scale):
        assert norms[0][name] == pytest.approx(norms[1][name], rel=1e-3, abs=1e-6), name


def test_gradients_by_scale_add_up_to_the_whole() -> None:
    model = random_policy()
    _, metrics = updater_of(model, grad_clip=0).update([random_batch(model, [0.0, 1.0], range(1))], 0, by_scale=True)
    assert metrics["grad_norm/scale_1"] == pytest.approx(metrics["grad_norm"], rel=1e-5)
    assert metrics["grad_cosine/scale_1"] == 0  # there is no other scale
    assert not metrics.keys() & {"grad_signal", "grad_noise"}  # one group tells no noise


def test_noise_is_what_parts_the_groups_and_signal_what_they_share() -> None:
    weights = torch.zeros(3)
    rng = torch.Generator().manual_seed(0)
    mean, found = torch.tensor([0.5, -0.2, 0.1]), list[dict[str, float]]()
    for _ in range(2000):
        weights.grad, probe = torch.zeros(3), GradientProbe([weights], range(1), 4, 0)
        for _ in range(4):
            weights.grad += (mean + torch.randn(3, generator=rng)) / 4
            probe.add_group()
        found.append(probe.metrics())
    assert fmean(one["grad_noise"] for one in found) == pytest.approx(3 / 4, rel=0.05)
    assert fmean(one["grad_signal"] for one in found) == pytest.approx(float(mean.square().sum()), rel=0.1)


def test_scales_that_pull_apart_have_a_negative_cosine() -> None:
    one, rest = torch.tensor([1.0, 0.0]), torch.tensor([-2.0, 1.0])
    whole = one + rest
    found = cosine_with_rest(float(one @ one), float(one @ whole), float(whole @ whole))
    assert found == pytest.approx(-2 / 5**0.5)
    assert cosine_with_rest(1.0, 1.0, 1.0) == cosine_with_rest(0.0, 0.0, 1.0) == 0


@pytest.mark.parametrize("size", [0, 2])
def test_figures_by_scale_are_those_of_each_scales_own_gradient(size: int) -> None:
    """One scale a group: the same groups as often as there are scales measure all, as separate losses would."""
    model, stage = random_policy(), range(3)
    updater, batches = (
        updater_of(model, grad_clip=0, candidates_per_pass=size),
        [random_batch(model, [0.1, 0.9, 0.4])] * 3,
    )
    parameters, gradients = list(model.module.parameters()), list[torch.Tensor]()
    loss, _ = updater._token_loss(batches[0], slice(0, 3))
    for part in loss.terms.split_with_sizes(list(batches[0].steps), -1):
        found = torch.autograd.grad(part.sum() / 3, parameters, retain_graph=True, allow_unused=True)
        gradients.append(torch.cat([one.flatten() for one in map(_zeros_for_none, found, parameters)]))
    _, metrics = updater.update(batches, 0, by_scale=True)
    for scale, own in zip(stage, gradients, strict=True):
        rest = torch.stack(gradients).sum(0) - own
        assert metrics[f"grad_norm/scale_{scale + 1}"] == pytest.approx(float(own.norm()), rel=1e-4)
        cosine = float(own @ rest / (own.norm() * rest.norm()))
        assert metrics[f"grad_cosine/scale_{scale + 1}"] == pytest.approx(cosine, abs=1e-3)


def _zeros_for_none(gradient: torch.Tensor | None, parameter: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(parameter) if gradient is None else gradient


def test_measuring_changes_no_weight() -> None:
    models = [random_policy(), random_policy()]
    for model, by_scale in zip(models, (True, False), strict=True):
        batches = [random_batch(model, [0.1, 0.9, 0.4], seed=seed) for seed in range(2)]
        updater_of(model).update(batches, 0, by_scale)
    assert same_weights(*map(weights_of, models))


def test_groups_without_preference_are_skipped_or_kept() -> None:
    for setting, expected in (("skip", UpdateOutcome.NO_PREFERENCE), ("keep", UpdateOutcome.STEPPED)):
        model = random_policy()
        objective = ObjectiveSettings.model_validate({"zero_std": setting, "kl_beta": 0.1})
        updater = Updater(model, random_policy(), objective, OptimizerSettings(lr=1e-2, weight_decay=0))
        outcome, metrics = updater.update([random_batch(model, [0.5, 0.5])], 0, by_scale=False)
        assert outcome is expected and metrics["zero_std_ratio"] == 1.0


def test_update_without_groups_changes_nothing() -> None:
    model = random_policy()
    before = weights_of(model)
    assert updater_of(model).update([], 0, by_scale=False) == (UpdateOutcome.NO_GROUPS, {})
    assert same_weights(before, weights_of(model))


def test_a_loss_that_is_not_finite_never_reaches_the_weights_or_the_optimiser() -> None:
    model = random_policy()
    updater, before, transformer = updater_of(model), weights_of(model), model.module
    batches = [random_batch(model, [0.0, 1.0]), random_batch(model, [0.0, 1.0], seed=1)]
    broken = transformer.norm.register_forward_hook(lambda module, arguments, out: out * math.nan)
    outcome, metrics = updater.update(batches, 0, by_scale=False)
    broken.remove()
    assert outcome is UpdateOutcome.NON_FINITE_LOSS and metrics["guard/non_finite"] == 1.0
    assert same_weights(before, weights_of(model)) and not updater.optimizer.state
    outcome, _ = updater.update(batches, 1, by_scale=False)  # and the next update is unharmed
    assert outcome is UpdateOutcome.STEPPED and not same_weights(before, weights_of(model))


def test_a_gradient_that_is_not_finite_never_reaches_the_weights() -> None:
    model = random_policy()
    updater, before = updater_of(model), weights_of(model)
    parameter = next(model.module.parameters())
    handle = parameter.register_hook(lambda gradient: gradient * math.nan)  # type: ignore[no-untyped-call]
    outcome, metrics = updater.update([random_batch(model, [0.0, 1.0])], 0, by_scale=False)
    handle.remove()
    assert outcome is UpdateOutcome.NON_FINITE_GRADIENT and math.isnan(metrics["grad_norm"])
    assert same_weights(before, weights_of(model))


def test_reported_log_probs_make_the_ratio_and_the_clip() -> None:
    model = random_policy()
    batch = random_batch(model, [0.0, 1.0])
    stale = GroupBatch(**{**vars(batch), "reported": batch.reported - 1.0})  # every ratio is e
    for setting, clipped in (("recomputed", 0.0), ("reported", 0.5)):
        objective = ObjectiveSettings.model_validate({"old_log_probs": setting})
        guards = GuardSettings(first_ratio="off")
        _, metrics = Updater(random_policy(), random_policy(), objective, OptimizerSettings(), guards).update(
            [stale], 0, by_scale=False
        )
        assert metrics["ratio_mean"] == pytest.approx(math.e, rel=1e-4)
        assert metrics["clip_ratio/high"] == clipped


@pytest.mark.parametrize(
    "sampling", [None, SamplingParams(temperature=1.8, top_k=5, top_p=0.9, cfg=2.0)], ids=["plain", "sampled"]
)
@pytest.mark.parametrize("stage", [range(3), range(3, 5)], ids=["prefix", "suffix"])
def test_what_the_sampler_reports_makes_the_first_ratio_one(sampling: SamplingParams | None, stage: range) -> None:
    model, params = random_policy(), sampling or SamplingParams(temperature=1.8)
    _, sampled = model.sample(
        model.prefill("a prompt", params.cfg > 0),
        stage.stop,
        [1, 2],
        params,
        "plain" if sampling is None else "sampled",
    )
    batch = random_batch(model, [0.0, 1.0], stage)
    batch = GroupBatch(
        **vars(batch)
        | {"tokens": sampled.tokens, "reported": sampled.log_probs[:, -sum(batch.steps) :], "sampling": sampling}
    )
    outcome, metrics = updater_of(model).update([batch], 0, by_scale=False)
    assert outcome is UpdateOutcome.STEPPED and metrics["ratio_max_deviation"] < 1e-4
    assert abs(metrics["kl"]) < 1e-6  # the reference has the same weights


def test_the_previous_anchor_is_the_weights_before_the_last_step() -> None:
    model, reference = random_policy(), random_policy()
    updater = Updater(model, reference, ObjectiveSettings(kl_anchor="previous"), OptimizerSettings(lr=1e-2))
    for update in range(2):
        before = weights_of(model)
        updater.update([random_batch(model, [0.0, 1.0])], update, by_scale=False)
        assert same_weights(before, weights_of(reference)) and not same_weights(before, weights_of(model))
