"""The trainer's parts one by one: prompts, jobs, batches, updates, averages, checkpoints, metrics files."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from statistics import fmean
from typing import Literal, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import varl.policy.nextflow
from tests.support.trainer_rig import METHOD, make_recipe
from tests.support.trajectory_builders import make_group, make_job
from varl.launch.supervisor import sigterm_as_exit
from varl.policy.base import SamplingParams
from varl.policy.nextflow import NextFlowPolicy
from varl.trainer.checkpoints.checkpoint import Progress, checkpoints, load_checkpoint, save_checkpoint
from varl.trainer.disk.atomic import COMPLETE
from varl.trainer.disk.metrics_log import METRICS_FILE, RunLog
from varl.trainer.recipe.sections import GuardSettings, ObjectiveSettings, OptimizerSettings
from varl.trainer.rollouts.jobs import PublishedWeights, sample_jobs, training_jobs
from varl.trainer.step import ema
from varl.trainer.step.batch import GroupBatch, to_batch
from varl.trainer.step.ema import WeightAverage
from varl.trainer.step.gradients import GradientProbe, cosine_with_rest
from varl.trainer.step.optimizer import build_optimizer
from varl.trainer.step.update import UpdateOutcome, Updater, learning_rate
from varl.trajectories.collect import failure_name
from varl.trajectories.prompt_files import load_prompts
from varl.trajectories.prompts import PromptSpec, draw_prompts
from varl.v1 import rollout_pb2, trajectory_pb2

SPECS = [PromptSpec(f"prompt {index}", (f"word{index}",)) for index in range(7)]


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 12))
def test_prompts_are_drawn_without_replacement_in_epochs(seed: int, count: int) -> None:
    sampled = [spec for update in range(14) for spec in draw_prompts(SPECS, seed, update, count)]
    for start in range(0, len(sampled) - len(SPECS) + 1, len(SPECS)):
        assert set(sampled[start : start + len(SPECS)]) == set(SPECS)


def test_prompt_order_depends_on_the_seed_and_changes_between_epochs() -> None:
    orders = {seed: [draw_prompts(SPECS, seed, epoch, 7) for epoch in range(3)] for seed in (0, 1)}
    assert orders[0] != orders[1] and orders[0][0] != orders[0][1]


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"target_words": ["x"]}',
        '{"prompt": "x", "words": []}',
        '{"prompt": "", "target_words": []}',
        '{"prompt": "x", "target_words": [""]}',
        '{"prompt": "x", "metadata": []}',
        '{"prompt": "x", "metadata": {"a": [[[[[[[[]]]]]]]]}}',
    ],
)
def test_a_bad_prompt_line_is_refused_with_its_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "x", "target_words": ["y"]}\n\n' + line + "\n")
    with pytest.raises(ValueError, match=r"prompts\.jsonl:3: "):
        load_prompts(path)
    path.write_text("\n")
    with pytest.raises(ValueError, match="no prompts"):
        load_prompts(path)


def test_a_prompt_needs_neither_words_nor_metadata_and_hands_both_to_its_jobs(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "x"}\n{"prompt": "y", "metadata": {"tone": "dark", "count": 3}}\n')
    specs = load_prompts(path)
    assert specs == [PromptSpec("x"), PromptSpec("y", (), {"tone": "dark", "count": 3})]
    recipe = make_recipe(tmp_path, "run", objective=METHOD)
    jobs = sample_jobs(recipe, 0, specs, PublishedWeights(5, tmp_path / "v5.safetensors"))
    assert [dict(job.metadata) for job in jobs] == [{}, {"tone": "dark", "count": 3.0}]


def test_jobs_have_their_stage_sizes_and_a_seed_of_their_own(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, "run", objective=METHOD)
    weights = PublishedWeights(5, tmp_path / "v5.safetensors")
    by_update = [training_jobs(recipe, update, SPECS, weights) for update in range(8)]
    prefix, suffix = by_update[0][0], by_update[3][0]
    assert (prefix.stage, prefix.split_scale, prefix.continuations) == (rollout_pb2.STAGE_PREFIX, 3, 2)
    assert (suffix.stage, suffix.split_scale, suffix.continuations) == (rollout_pb2.STAGE_SUFFIX, 3, 1)
    seeds = [job.seed for jobs in by_update for job in jobs]
    assert len(set(seeds)) == len(seeds) == 24
    assert [job.seed for job in training_jobs(recipe, 4, SPECS, weights)] == [job.seed for job in by_update[4]]
    assert [job.seed for job in sample_jobs(recipe, 0, SPECS, weights)] == [
        job.seed for job in sample_jobs(recipe, 50, SPECS, weights)
    ]


@pytest.mark.parametrize(
    ("setting", "kind"), [("plain", rollout_pb2.LOG_PROBS_PLAIN), ("sampled", rollout_pb2.LOG_PROBS_SAMPLED)]
)
def test_jobs_say_which_log_probs_are_wanted_and_batches_follow(
    tmp_path: Path, setting: str, kind: rollout_pb2.LogProbs
) -> None:
    sections = {
        "objective": METHOD | {"log_probs": setting},
        "rollout": {"sampling": {"temperature": 1.5, "cfg": 2.0, "top_k": 3}},
    }
    recipe = make_recipe(tmp_path, "run", **sections)
    job = training_jobs(recipe, 0, SPECS, PublishedWeights(5, tmp_path / "v5.safetensors"))[0]
    assert job.log_probs == kind
    sampling = to_batch(
        make_group(make_job(sampling=job.sampling, log_probs=job.log_probs)), {"ocr": 1.0}, ObjectiveSettings()
    ).sampling
    assert sampling == (None if setting == "plain" else SamplingParams(temperature=1.5, cfg=2.0, top_k=3))


def _word(*polygon: float) -> trajectory_pb2.LocatedRegion:
    return trajectory_pb2.LocatedRegion(reward="ocr", text="x", confidence=1, polygon=polygon)


def test_a_prefix_batch_has_middle_values_and_the_union_of_its_masks() -> None:
    job = make_job(stage=rollout_pb2.STAGE_PREFIX, split_scale=2, continuations=2, rewards=["ocr", "hps"])
    group = make_group(job)  # grids 1x1, 2x2, 3x4 of a 64-pixel image
    first, second = group.candidates[0].continuations
    first.rewards["ocr"], first.rewards["hps"], second.rewards["ocr"], second.rewards["hps"] = 0.0, 5.0, 2.0, 5.0
    first.regions.append(_word(1, 1, 15, 1, 15, 20, 1, 20))  # top left
    second.regions.append(_word(49, 44, 63, 44, 63, 63, 49, 63))  # bottom right
    batch = to_batch(group, {"ocr": 1.0, "hps": 0.0}, ObjectiveSettings())
    assert batch.scales == range(2) and batch.steps == (1, 4) and batch.tokens.tolist() == [[0, 1, 2, 3, 4]] * 2
    assert float(batch.values[0]) == pytest.approx(1.434, abs=5e-4) and batch.rewards["hps"][0].tolist() == [5.0, 5.0]
    assert batch.mask[0].tolist() == [True, True, False, False, True]
    assert batch.mask[1].all()  # nothing was read in the other candidate's images


def test_masks_of_an_image_that_is_not_square_lie_where_its_regions_are() -> None:
    group = make_group(make_job(), grids=((1, 1), (2, 4)))
    group.image_height, group.image_width = 32, 64
    for candidate in group.candidates:
        candidate.continuations[0].regions.append(_word(50, 18, 62, 18, 62, 30, 50, 30))  # bottom right
    assert to_batch(group, {"ocr": 1.0}, ObjectiveSettings()).mask[0].tolist() == [True] + [False] * 7 + [True]


def test_a_suffix_batch_puts_the_shared_prefix_before_every_candidate() -> None:
    job = make_job(stage=rollout_pb2.STAGE_SUFFIX, split_scale=2)
    group = make_group(job)
    batch = to_batch(group, {"ocr": 2.0}, ObjectiveSettings(mask_propagation="off"))
    assert batch.scales == range(2, 3) and batch.steps == (12,)
    assert batch.tokens.tolist() == [[*range(5), *range(12)]] * 2
    assert batch.total.tolist() == [[1.0], [1.0]] and tuple(batch.mask.shape) == tuple(batch.reported.shape) == (2, 12)


def test_rewards_of_unlike_range_are_compared_on_one_scale_and_reported_as_they_are() -> None:
    group = make_group(make_job(rewards=["ocr", "hps"]))
    for candidate, (ocr, hps) in zip(group.candidates, ((1.0, -300.0), (2.0, 500.0)), strict=True):
        candidate.continuations[0].rewards["ocr"], candidate.continuations[0].rewards["hps"] = ocr, hps
    batch = to_batch(group, {"ocr": 1.0, "hps": 0.5}, ObjectiveSettings(combination="normalised_sum"))
    assert batch.values.tolist() == pytest.approx([-1.5, 1.5], abs=1e-5)
    assert batch.total.flatten().tolist() == [-149.0, 252.0] and batch.rewards["hps"].flatten().tolist() == [
        -300.0,
        500.0,
    ]


def _policy() -> NextFlowPolicy:
    return varl.policy.nextflow.build_random(0)


def _batch(model: NextFlowPolicy, values: list[float], stage: range = range(3), seed: int = 0) -> GroupBatch:
    steps = tuple(model.grids[scale][0] * model.grids[scale][1] for scale in stage)
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(32, (len(values), sum(h * w for h, w in model.grids[: stage.stop])), generator=generator)
    with torch.no_grad():
        reported = model.distribution("a prompt", tokens, stage.start).log_prob(tokens[:, -sum(steps) :])
    total = torch.tensor(values, dtype=torch.float64)
    mask = torch.rand(reported.shape, generator=generator) < 0.5
    return GroupBatch("a prompt", stage, steps, tokens, reported, mask, {"ocr": total[:, None]}, total[:, None], total)


def _updater(model: NextFlowPolicy, state_dtype: Literal["same", "bfloat16"] = "same", **optimizer: float) -> Updater:
    settings = OptimizerSettings.model_validate({"lr": 1e-2, "state_dtype": state_dtype, **optimizer})
    return Updater(model, _policy(), ObjectiveSettings(kl_beta=0.1), settings)


def _weights(model: NextFlowPolicy) -> list[torch.Tensor]:
    return [value.clone() for value in model.module.state_dict().values()]


def _same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("stage", [range(3), range(3, 5)])
def test_the_number_of_candidates_in_a_pass_does_not_change_the_gradient(stage: range) -> None:
    norms = []
    for size in (0, 2):
        model = _policy()
        updater = _updater(model, candidates_per_pass=size)
        batches = [_batch(model, [0.1, 0.9, 0.4, 0.3, 0.8], stage, seed) for seed in range(2)]
        outcome, metrics = updater.update(batches, 0, by_scale=True)
        assert outcome is UpdateOutcome.STEPPED
        norms.append(metrics)
    by_scale = [name for name in norms[0] if "/scale_" in name and name.startswith("grad_")]
    assert len(by_scale) == 2 * 2  # norm and cosine, a scale a group
    for name in ("grad_norm", "loss", "kl", "grad_signal", "grad_noise", *by_scale):
        assert norms[0][name] == pytest.approx(norms[1][name], rel=1e-3, abs=1e-6), name


def test_gradients_by_scale_add_up_to_the_whole() -> None:
    model = _policy()
    _, metrics = _updater(model, grad_clip=0).update([_batch(model, [0.0, 1.0], range(1))], 0, by_scale=True)
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
    model, stage = _policy(), range(3)
    updater, batches = _updater(model, grad_clip=0, candidates_per_pass=size), [_batch(model, [0.1, 0.9, 0.4])] * 3
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
    models = [_policy(), _policy()]
    for model, by_scale in zip(models, (True, False), strict=True):
        batches = [_batch(model, [0.1, 0.9, 0.4], seed=seed) for seed in range(2)]
        _updater(model).update(batches, 0, by_scale)
    assert _same(*map(_weights, models))


def test_groups_without_preference_are_skipped_or_kept() -> None:
    for setting, expected in (("skip", UpdateOutcome.NO_PREFERENCE), ("keep", UpdateOutcome.STEPPED)):
        model = _policy()
        objective = ObjectiveSettings.model_validate({"zero_std": setting, "kl_beta": 0.1})
        updater = Updater(model, _policy(), objective, OptimizerSettings(lr=1e-2, weight_decay=0))
        outcome, metrics = updater.update([_batch(model, [0.5, 0.5])], 0, by_scale=False)
        assert outcome is expected and metrics["zero_std_ratio"] == 1.0


def test_update_without_groups_changes_nothing() -> None:
    model = _policy()
    before = _weights(model)
    assert _updater(model).update([], 0, by_scale=False) == (UpdateOutcome.NO_GROUPS, {})
    assert _same(before, _weights(model))


def test_a_loss_that_is_not_finite_never_reaches_the_weights_or_the_optimiser() -> None:
    model = _policy()
    updater, before, transformer = _updater(model), _weights(model), model.module
    batches = [_batch(model, [0.0, 1.0]), _batch(model, [0.0, 1.0], seed=1)]
    broken = transformer.norm.register_forward_hook(lambda module, arguments, out: out * math.nan)
    outcome, metrics = updater.update(batches, 0, by_scale=False)
    broken.remove()
    assert outcome is UpdateOutcome.NON_FINITE_LOSS and metrics["guard/non_finite"] == 1.0
    assert _same(before, _weights(model)) and not updater.optimizer.state
    outcome, _ = updater.update(batches, 1, by_scale=False)  # and the next update is unharmed
    assert outcome is UpdateOutcome.STEPPED and not _same(before, _weights(model))


def test_a_gradient_that_is_not_finite_never_reaches_the_weights() -> None:
    model = _policy()
    updater, before = _updater(model), _weights(model)
    parameter = next(model.module.parameters())
    handle = parameter.register_hook(lambda gradient: gradient * math.nan)  # type: ignore[no-untyped-call]
    outcome, metrics = updater.update([_batch(model, [0.0, 1.0])], 0, by_scale=False)
    handle.remove()
    assert outcome is UpdateOutcome.NON_FINITE_GRADIENT and math.isnan(metrics["grad_norm"])
    assert _same(before, _weights(model))


def test_reported_log_probs_make_the_ratio_and_the_clip() -> None:
    model = _policy()
    batch = _batch(model, [0.0, 1.0])
    stale = GroupBatch(**{**vars(batch), "reported": batch.reported - 1.0})  # every ratio is e
    for setting, clipped in (("recomputed", 0.0), ("reported", 0.5)):
        objective = ObjectiveSettings.model_validate({"old_log_probs": setting})
        guards = GuardSettings(first_ratio="off")
        _, metrics = Updater(_policy(), _policy(), objective, OptimizerSettings(), guards).update(
            [stale], 0, by_scale=False
        )
        assert metrics["ratio_mean"] == pytest.approx(math.e, rel=1e-4)
        assert metrics["clip_ratio/high"] == clipped


@pytest.mark.parametrize(
    "sampling", [None, SamplingParams(temperature=1.8, top_k=5, top_p=0.9, cfg=2.0)], ids=["plain", "sampled"]
)
@pytest.mark.parametrize("stage", [range(3), range(3, 5)], ids=["prefix", "suffix"])
def test_what_the_sampler_reports_makes_the_first_ratio_one(sampling: SamplingParams | None, stage: range) -> None:
    model, params = _policy(), sampling or SamplingParams(temperature=1.8)
    _, sampled = model.sample(
        model.prefill("a prompt", params.cfg > 0),
        stage.stop,
        [1, 2],
        params,
        "plain" if sampling is None else "sampled",
    )
    batch = _batch(model, [0.0, 1.0], stage)
    batch = GroupBatch(
        **vars(batch)
        | {"tokens": sampled.tokens, "reported": sampled.log_probs[:, -sum(batch.steps) :], "sampling": sampling}
    )
    outcome, metrics = _updater(model).update([batch], 0, by_scale=False)
    assert outcome is UpdateOutcome.STEPPED and metrics["ratio_max_deviation"] < 1e-4
    assert abs(metrics["kl"]) < 1e-6  # the reference has the same weights


def test_the_previous_anchor_is_the_weights_before_the_last_step() -> None:
    model, reference = _policy(), _policy()
    updater = Updater(model, reference, ObjectiveSettings(kl_anchor="previous"), OptimizerSettings(lr=1e-2))
    for update in range(2):
        before = _weights(model)
        updater.update([_batch(model, [0.0, 1.0])], update, by_scale=False)
        assert _same(before, _weights(reference)) and not _same(before, _weights(model))


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
    model = _policy()
    before = {name: value.detach().clone() for name, value in model.module.named_parameters()}
    updater = _updater(model, gain_lr_factor=4.0, weight_decay=0.0, warmup_updates=2, warmup_from=2e-3)
    gains = {
        id(weight)
        for part in model.module.modules()
        if isinstance(part, torch.nn.RMSNorm)
        for weight in part.parameters()
    }
    others = {id(weight) for weight in model.module.parameters()} - gains
    assert [{id(weight) for weight in group["params"]} for group in updater.optimizer.param_groups] == [others, gains]
    outcome, metrics = updater.update([_batch(model, [0.0, 1.0])], 0, by_scale=False)
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
    policy, plain = _policy(), _policy().module
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
    assert _same(list(grouped.parameters()), list(plain.parameters()))
    assert not _same(list(grouped.parameters()), list(_policy().module.parameters()))


def test_moments_in_bfloat16_take_half_the_room_and_step_nearly_alike(tmp_path: Path) -> None:
    models = [_policy() for _ in range(3)]
    wide, small, again = (_updater(models[0]), *(_updater(model, "bfloat16") for model in models[1:]))
    for update in range(3):
        for one, model in zip((wide, small), models, strict=False):
            one.update([_batch(model, [0.0, 1.0, 0.5], seed=update)], update, by_scale=False)
    moments = [[state["exp_avg"].nbytes for state in one.optimizer.state.values()] for one in (wide, small)]
    assert moments[0] == [2 * each for each in moments[1]]
    full, rounded = (torch.cat([w.flatten() for w in _weights(model)]) - _start() for model in models[:2])
    assert 0 < float((full - rounded).norm()) < 0.02 * float(full.norm())
    load_checkpoint(save_checkpoint(tmp_path, Progress(3, 0), small, None, keep=1), again, None)
    for one, model in ((small, models[1]), (again, models[2])):
        one.update([_batch(model, [0.0, 1.0, 0.5], seed=3)], 3, by_scale=False)
    assert _same(_weights(models[1]), _weights(models[2]))


def test_moments_that_would_never_move_are_refused() -> None:
    with pytest.raises(ValueError, match=r"state_dtype: bfloat16 rounds away .* betas \(0.9, 0.999\)"):
        OptimizerSettings(state_dtype="bfloat16", betas=(0.9, 0.999))


def _start() -> torch.Tensor:
    return torch.cat([value.flatten() for value in _weights(_policy())])


def test_average_follows_the_formula_and_can_be_applied_for_a_while() -> None:
    model = _policy()
    average, first = WeightAverage(model.module, 0.75), _weights(model)
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.add_(1.0)
    average.update()
    changed = _weights(model)
    with average.applied():
        for own, start, now in zip(_weights(model), first, changed, strict=True):
            assert torch.allclose(own, 0.75 * start + 0.25 * now, atol=1e-6)
    assert _same(changed, _weights(model))


@pytest.mark.parametrize("at", [1, 2])
def test_a_stop_while_averages_change_places_leaves_the_weights(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _policy()
    average, exchanges, real = WeightAverage(model.module, 0.75), count(1), ema._weights
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.add_(1.0)
    own, averages = _weights(model), {name: value.clone() for name, value in average.weights.items()}

    def told_after_one(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
        first, *rest = real(module)
        yield first
        if next(exchanges) == at:
            signal.raise_signal(signal.SIGTERM)
        yield from rest

    monkeypatch.setattr(ema, "_weights", told_after_one)
    with sigterm_as_exit(), pytest.raises(SystemExit), average.applied():
        pass
    assert _same(own, _weights(model))
    assert all(torch.equal(value, averages[name]) for name, value in average.weights.items())


def test_a_checkpoint_gives_everything_back(tmp_path: Path) -> None:
    model = _policy()
    updater = _updater(model)
    average = WeightAverage(model.module, 0.9)
    updater.update([_batch(model, [0.0, 1.0])], 0, by_scale=False)
    average.update()
    path = save_checkpoint(tmp_path, Progress(1, 2), updater, average, keep=2)
    again = _policy()
    restored, other = _updater(again), WeightAverage(again.module, 0.9)
    sampled = torch.rand(3)
    assert load_checkpoint(path, restored, other).progress == Progress(1, 2)
    assert torch.equal(sampled, torch.rand(3))
    assert _same(_weights(model), _weights(again)) and _same(
        list(average.weights.values()), list(other.weights.values())
    )
    for one, trained in ((updater, model), (restored, again)):
        one.update([_batch(trained, [0.0, 1.0, 0.5], seed=4)], 1, by_scale=False)
    assert _same(_weights(model), _weights(again))


def test_unfinished_checkpoints_are_not_seen_and_old_ones_go(tmp_path: Path) -> None:
    updater = _updater(_policy())
    for update in (1, 2, 3):
        save_checkpoint(tmp_path, Progress(update, 0), updater, None, keep=2)
    (tmp_path / "000003" / COMPLETE).unlink()
    assert [path.name for path in checkpoints(tmp_path)] == ["000002"]
    save_checkpoint(tmp_path, Progress(3, 0), updater, None, keep=2)
    assert [path.name for path in checkpoints(tmp_path)] == ["000002", "000003"]


def test_metrics_file_drops_what_lies_beyond_the_resumed_update_and_torn_lines(tmp_path: Path) -> None:
    with RunLog(tmp_path, 0) as log:
        for update in range(4):
            log.write(update, {"loss": math.nan if update == 1 else float(update)})
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write('{"update": 4, "lo')
    with RunLog(tmp_path, 2) as log:
        log.write(2, {"loss": 20.0})
    lines = [json.loads(line) for line in (tmp_path / METRICS_FILE).read_text().splitlines()]
    assert lines == [{"update": 0, "loss": 0.0}, {"update": 1, "loss": None}, {"update": 2, "loss": 20.0}]


def test_failure_codes_have_a_metric_name_each() -> None:
    names = [
        failure_name(cast(trajectory_pb2.FailureCode, code)) for code in trajectory_pb2.FailureCode.values() if code
    ]
    assert names == ["score_failed", "reward_unavailable", "weights_missing", "bad_job", "dead_letter"]
