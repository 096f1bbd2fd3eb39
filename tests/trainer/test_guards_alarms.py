"""The guards: each sees what it is for, stops, skips or lets pass as set, and is counted."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import varl.policy.nextflow
from varl.policy.nextflow import NextFlowPolicy
from varl.trainer.recipe.sections import GuardSettings, ObjectiveSettings, OptimizerSettings
from varl.trainer.step.batch import GroupBatch
from varl.trainer.step.guards import (
    Alarm,
    GuardError,
    Watch,
    duplicate_share,
    duplicates,
    exploding,
    first_ratio,
    non_finite,
    ratio_deviation,
    zero_spread,
)
from varl.trainer.step.update import UpdateOutcome, Updater


@given(st.lists(st.floats(width=32), min_size=1, max_size=6))
def test_non_finite_counts_what_is_not_a_number(values: list[float]) -> None:
    bad = sum(not math.isfinite(value) for value in values)
    alarm = non_finite("rewards", torch.tensor(values))
    assert (alarm is None) == (bad == 0)
    assert alarm is None or f"{bad} of {len(values)}" in alarm.detail


def test_duplicates_are_candidates_that_repeat_an_earlier_one() -> None:
    tokens = torch.tensor([[1, 2], [1, 3], [1, 2], [1, 2]])
    assert duplicate_share(tokens) == 0.5
    assert duplicates(tokens, 0.5) is None and duplicates(tokens, 0.49) is not None


def test_ratios_norms_and_spread_have_their_limits() -> None:
    assert first_ratio(0.1, 0.1) is None and first_ratio(0.11, 0.1) and first_ratio(math.nan, 0.1)
    history = [1.0] * 7 + [100.0]
    assert exploding(10.0, history, 10) is None and exploding(10.1, history, 10)
    assert exploding(1e9, history[:7], 10) is None  # too few to say
    assert zero_spread(0, 0) is None and zero_spread(3, 2) is None and zero_spread(3, 3)


def test_a_quantile_of_the_ratios_leaves_rare_rounding_out_but_nothing_that_is_not_finite() -> None:
    rare = [torch.full((99,), 1.1), torch.tensor([[3.0]])]
    assert ratio_deviation(rare, 0.99) == pytest.approx(0.1) and ratio_deviation(rare, 1.0) == 2.0
    assert ratio_deviation([torch.tensor([0.25, 1.0])], 0.01) == 0.0 and ratio_deviation([], 0.99) == 0.0
    for bad in (math.nan, math.inf):
        assert first_ratio(ratio_deviation([*rare, torch.tensor([bad])], 0.5), 0.5)


def test_a_rare_ratio_far_from_one_is_refused_where_the_quantile_is_all_of_them() -> None:
    reported = GOOD.reported.clone()
    reported[0, 0] -= 1
    odd = batch([0.0, 1.0, 0.5], reported=reported)
    assert updater(ratio_quantile=0.9).update([odd], 0, by_scale=False)[0] is UpdateOutcome.STEPPED
    assert updater(ratio_quantile=1.0).update([odd], 0, by_scale=False)[0] is UpdateOutcome.FIRST_RATIO


def test_a_watch_skips_stops_or_lets_pass_as_set() -> None:
    watch = Watch({"grad_norm": "skip", "duplicates": "off", "non_finite": "stop"})
    assert watch.skips(Alarm("grad_norm", "x")) and not watch.skips(Alarm("duplicates", "x")) and not watch.skips(None)
    with pytest.raises(GuardError, match=r"guards\.non_finite: nan"):
        watch.skips(Alarm("non_finite", "nan"))
    assert watch.metrics() == {"guard/grad_norm": 1.0, "guard/non_finite": 1.0}


MODEL: NextFlowPolicy = varl.policy.nextflow.build_random(0)


def batch(values: list[float], scales: range = range(3), **changes: Any) -> GroupBatch:  # noqa: ANN401
    steps = tuple(MODEL.grids[scale][0] * MODEL.grids[scale][1] for scale in scales)
    tokens = torch.randint(32, (len(values), sum(steps)), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        reported = MODEL.distribution("a prompt", tokens, 0).log_prob(tokens)
    total = torch.tensor(values, dtype=torch.float64)
    mask = torch.ones(reported.shape, dtype=torch.bool)
    fields = GroupBatch(
        "a prompt", scales, steps, tokens, reported, mask, {"ocr": total[:, None]}, total[:, None], total
    )
    return GroupBatch(**{**vars(fields), **changes})


def updater(**guards: Any) -> Updater:  # noqa: ANN401
    one, other = varl.policy.nextflow.build_random(0), varl.policy.nextflow.build_random(0)
    return Updater(one, other, ObjectiveSettings(), OptimizerSettings(lr=1e-3), GuardSettings(**guards))


def weights(one: Updater) -> list[torch.Tensor]:
    return [value.clone() for value in one.policy.module.state_dict().values()]


GOOD = batch([0.0, 1.0, 0.5])
DRIFTED = batch([0.0, 1.0, 0.5], reported=GOOD.reported - 1)
NAN = batch([0.0, math.nan, 0.5])
WHOLE = batch([0.0, 1.0, 0.5], range(len(MODEL.grids)))
TWINS = replace(WHOLE, tokens=WHOLE.tokens[[0, 0, 0]], reported=WHOLE.reported[[0, 0, 0]])
FLAT = batch([0.5, 0.5, 0.5])


@pytest.mark.parametrize(
    ("guard", "bad", "outcome"),
    [
        ("first_ratio", DRIFTED, UpdateOutcome.FIRST_RATIO),
        ("non_finite", NAN, UpdateOutcome.NO_GROUPS),
        ("duplicates", TWINS, UpdateOutcome.NO_GROUPS),
        ("zero_spread", FLAT, UpdateOutcome.NO_PREFERENCE),
    ],
)
def test_what_a_guard_sees_never_reaches_the_weights(guard: str, bad: GroupBatch, outcome: UpdateOutcome) -> None:
    skipping, stopping = updater(), updater(**{guard: "stop"})
    before = weights(skipping)
    found, metrics = skipping.update([bad], 0, by_scale=False)
    assert (found, metrics[f"guard/{guard}"]) == (outcome, 1.0)
    with pytest.raises(GuardError) as stopped:
        stopping.update([bad], 0, by_scale=False)
    assert stopped.value.metrics[f"guard/{guard}"] == 1.0
    for one in (skipping, stopping):
        assert all(torch.equal(a, b) for a, b in zip(before, weights(one), strict=True))


def test_a_group_that_is_refused_leaves_the_others_alone() -> None:
    alone, beside = updater(), updater()
    assert (
        alone.update([GOOD], 0, by_scale=False)[0]
        is beside.update([GOOD, NAN, TWINS], 0, by_scale=False)[0]
        is UpdateOutcome.STEPPED
    )
    assert all(torch.equal(a, b) for a, b in zip(weights(alone), weights(beside), strict=True))


def test_guards_that_are_off_let_pass() -> None:
    for guard, bad in (("first_ratio", DRIFTED), ("duplicates", TWINS), ("zero_spread", FLAT)):
        outcome, metrics = updater(**{guard: "off"}).update([bad], 0, by_scale=False)
        assert outcome is UpdateOutcome.STEPPED and f"guard/{guard}" not in metrics


def test_an_exploding_gradient_is_refused_and_leaves_the_weights_as_they_were() -> None:
    one = updater()
    one.norms["0-3"] = [1e-9] * 8
    before = weights(one)
    outcome, metrics = one.update([GOOD], 0, by_scale=False)
    assert outcome is UpdateOutcome.EXPLODING_GRADIENT and metrics["guard/grad_norm"] == 1.0
    assert all(torch.equal(a, b) for a, b in zip(before, weights(one), strict=True))


def test_gradients_that_stay_large_are_accepted_in_the_end() -> None:
    one = updater(grad_norm_window=8)
    one.norms["0-3"] = [1e-9] * 8
    outcomes = [one.update([GOOD], update, by_scale=False)[0] for update in range(6)]
    assert outcomes[0] is UpdateOutcome.EXPLODING_GRADIENT and outcomes[-1] is UpdateOutcome.STEPPED


@pytest.mark.parametrize("kept", [{"zero_std": "keep"}, {}])
def test_updates_without_preference_do_not_make_later_gradients_look_large(kept: dict[str, Any]) -> None:
    guards = GuardSettings() if kept else GuardSettings(zero_spread="off")
    models = varl.policy.nextflow.build_random(0), varl.policy.nextflow.build_random(0)
    one = Updater(*models, ObjectiveSettings(**kept), OptimizerSettings(lr=1e-3), guards)
    for update in range(9):
        one.update([FLAT], update, by_scale=False)
    assert one.update([GOOD], 9, by_scale=False)[0] is UpdateOutcome.STEPPED


def test_candidates_with_one_prefix_are_not_duplicates() -> None:
    """A prefix may grow into different images, and their rewards differ."""
    prefix = replace(GOOD, tokens=GOOD.tokens[[0, 0, 0]], reported=GOOD.reported[[0, 0, 0]])
    assert updater().update([prefix], 0, by_scale=False)[0] is UpdateOutcome.STEPPED


def test_a_stale_group_is_compared_with_the_probabilities_that_drew_it() -> None:
    stale = batch([0.0, 1.0, 0.5], reported=GOOD.reported - 1, staleness=1)
    outcome, metrics = updater().update([stale], 0, by_scale=False)
    assert (
        outcome is UpdateOutcome.STEPPED and metrics["clip_ratio/high"] > 0
    )  # every ratio is e; the on-policy guard has no say here
