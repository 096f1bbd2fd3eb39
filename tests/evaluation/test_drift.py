"""Drift of the images against the base's: which changes are alarms, and what an alarm does to a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from varl.evaluation.drift import COLOUR_DISTANCE, Drift, drifts
from varl.evaluation.estimates import Estimate
from varl.evaluation.results import Evaluation, PromptResult
from varl.trainer.evaluator import DriftError, DriftWatch
from varl.trainer.recipe.sections import DriftSettings

LIMITS = DriftSettings().limits()


def evaluation(*figures: dict[str, float]) -> Evaluation:
    """One image of each prompt with these figures of its appearance."""
    results = [
        PromptResult(
            index=index,
            prompt=f"prompt {index}",
            target_words=(),
            images=1,
            shares={"reward": (1.0, 1.0)} | {f"appearance/{name}": (value, 1.0) for name, value in found.items()},
        )
        for index, found in enumerate(figures)
    ]
    return Evaluation(tag="t", weight_version=0, seed=1, group_size=1, models={}, prompts=tuple(results), failed=())


def by_name(found: list[Drift]) -> dict[str, Drift]:
    return {drift.name.removeprefix("appearance/"): drift for drift in found}


def test_a_change_beyond_its_limit_is_an_alarm() -> None:
    base, now = evaluation({"dark": 0.1}, {"dark": 0.2}), evaluation({"dark": 0.5}, {"dark": 0.7})
    found = by_name(drifts(base, now, LIMITS))["dark"]
    assert found.base == pytest.approx(0.15)
    assert found.change.value == pytest.approx(0.45)
    assert found.beyond
    assert found.words() == "dark +0.45 from the base's 0.15, limit 0.1"


def test_a_change_within_its_limit_or_its_error_is_none() -> None:
    assert not Drift("appearance/dark", 0.1, Estimate(0.05, 0.001), 0.1).beyond
    assert not Drift("appearance/dark", 0.1, Estimate(0.3, 0.2), 0.1).beyond
    assert not Drift("appearance/dark", 0.1, Estimate(0.3, float("nan")), 0.1).beyond
    assert not Drift("appearance/new", 0.1, Estimate(9.0, 0.0), None).beyond
    assert Drift("appearance/dark", 0.1, Estimate(-0.3, 0.1), 0.1).beyond


GREY = {"lightness": 50.0, "a": 0.0, "b": 0.0}


def test_colours_that_move_apart_are_far_and_not_shifted() -> None:
    found = by_name(drifts(evaluation(GREY, GREY), evaluation(GREY | {"a": 30.0}, GREY | {"a": -30.0}), LIMITS))
    assert found.keys() == {"colour_shift", "colour_distance"}  # the axes themselves are not shown
    assert found["colour_distance"].change.value == pytest.approx(30)
    assert found["colour_shift"].change.value == 0
    assert not any(drift.beyond for drift in found.values())  # as after drawing again without any training


def test_colours_that_move_together_are_an_alarm() -> None:
    moved = evaluation(GREY | {"a": -16.0, "b": 12.0}, GREY | {"a": -8.0, "b": 6.0})
    found = by_name(drifts(evaluation(GREY, GREY), moved, LIMITS))["colour_shift"]
    assert (found.change.value, found.change.error) == pytest.approx((15, 5))
    assert found.beyond


def test_the_distance_has_a_limit_where_a_recipe_gives_it_one() -> None:
    limits = DriftSettings(colour_distance=25.0).limits()
    found = drifts(evaluation(GREY, GREY), evaluation(GREY | {"a": 30.0}, GREY | {"a": -30.0}), limits)
    assert [drift.name for drift in found if drift.beyond] == [COLOUR_DISTANCE]


def test_a_figure_that_one_side_lacks_is_left_out() -> None:
    base, now = evaluation({"dark": 0.1, "text_contrast": 0.5}), evaluation({"dark": 0.1})
    assert by_name(drifts(base, now, LIMITS)).keys() == {"dark"}


DARK = evaluation({"dark": 0.9}, {"dark": 0.8})
BASE = evaluation({"dark": 0.1}, {"dark": 0.1})


def watch(path: Path, **settings: object) -> DriftWatch:
    return DriftWatch(path / "evaluations" / "base.json", DriftSettings.model_validate(settings))


def test_an_alarm_is_a_metric_and_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = watch(tmp_path).add(0, BASE, {"eval/reward": 1.0})
    assert first == {"eval/reward": 1.0, "eval/drift/dark": 0.0, "eval/drift_alarms": 0.0}
    metrics = watch(tmp_path).add(8, DARK, {})  # another process: the base's evaluation is on the disk
    assert metrics == {"eval/drift/dark": pytest.approx(0.75), "eval/drift_alarms": 1.0}
    assert "update 8: drift: dark +0.75 from the base's 0.1, limit 0.1" in caplog.text


def test_an_alarm_stops_the_run_where_the_recipe_says_so(tmp_path: Path) -> None:
    watch(tmp_path).add(0, BASE, {})
    with pytest.raises(DriftError, match=r"^evaluation.drift: dark \+0.75") as caught:
        watch(tmp_path, action="stop").add(8, DARK, {"eval/reward": 2.0})
    assert caught.value.metrics["eval/reward"] == 2.0
    assert caught.value.metrics["eval/drift_alarms"] == 1.0


def test_off_and_a_run_without_a_base_compare_nothing(tmp_path: Path) -> None:
    assert watch(tmp_path).add(8, DARK, {"eval/reward": 1.0}) == {"eval/reward": 1.0}
    assert watch(tmp_path, action="off").add(0, DARK, {}) == {}
    assert not (tmp_path / "evaluations").exists()
