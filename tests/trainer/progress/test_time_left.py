"""The time that is left, on made and on recorded sequences of what updates, evaluations and checkpoints took."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from tests.support.paths import ROOT
from varl.trainer.disk.metrics_log import METRICS_FILE, read_rows
from varl.trainer.progress.time_left import (
    CHECKPOINT,
    IMAGE_S,
    Part,
    Timed,
    TimeLeft,
    evaluation_part,
    expected_seconds,
    in_words,
    parts_of,
    recorded_parts,
    timed_parts,
    training_parts,
    update_part,
)
from varl.trainer.recipe.changes import read_resolved
from varl.trainer.recipe.config import Recipe

ENOUGH = 0.3  # of the true time left
RECORDED = ROOT / "docs" / "results" / "tiny_ocr"
PREFIX, SUFFIX, EVALUATION = Part("prefix", 256.0), Part("suffix", 243.0), Part("evaluation", 64.0)
COSTS = {"prefix": 14.0, "suffix": 6.0, "evaluation": 20.0, "checkpoint": 0.5}


def made(updates: int, noise: float = 0.0, seed: int = 0) -> list[list[Timed]]:
    """Updates of three prefix turns and one suffix turn, an evaluation every ten and a checkpoint every seven."""
    chance = random.Random(seed)
    found = []
    for update in range(updates):
        parts = [EVALUATION] * (update % 10 == 0) + [SUFFIX if update % 4 == 3 else PREFIX]
        parts += [CHECKPOINT] * (update % 7 == 6)
        found.append([(part, COSTS[part.kind] * chance.lognormvariate(0.0, noise)) for part in parts])
    return found


def slower(run: Sequence[Sequence[Timed]], factor: float) -> list[list[Timed]]:
    return [[(part, seconds * factor) for part, seconds in update] for update in run]


def errors(run: Sequence[Sequence[Timed]], first: int = 4, last: int = 3) -> list[float]:
    """The relative error of the time left after each update from ``first`` on, while ``last`` or more are to come."""
    found = []
    for count in range(first, len(run) - last + 1):
        done = [part for update in run[:count] for part in update]
        rest = [part for update in run[count:] for part in update]
        found.append(expected_seconds(done, [part for part, _ in rest]) / sum(took for _, took in rest) - 1)
    return found


def worst(found: Sequence[float]) -> float:
    return max(map(abs, found))


def test_stages_that_alternate_are_told_apart_exactly() -> None:
    assert worst(errors(made(40))) < 0.01  # a checkpoint was not yet seen
    assert worst(errors(made(40), first=7)) < 1e-9


@pytest.mark.parametrize("seed", range(5))
def test_a_machine_with_other_work_is_within_thirty_percent(seed: int) -> None:
    assert worst(errors(made(60, noise=0.2, seed=seed), last=8)) < ENOUGH


@pytest.mark.parametrize("factor", [2.0, 0.5])
@pytest.mark.parametrize("seed", range(5))
def test_a_machine_that_changes_half_way_is_known_four_updates_later(factor: float, seed: int) -> None:
    run = made(60, noise=0.05, seed=seed)
    changed = [*run[:30], *slower(run[30:], factor)]
    assert worst(errors(changed, first=35)) < ENOUGH


def test_an_evaluation_seen_on_the_idle_machine_is_expected_to_be_slower_on_the_busy_one() -> None:
    run = [*made(5), *slower(made(20)[11:20], 2.0)]  # no evaluation since it became slower
    assert expected_seconds([part for update in run for part in update], [EVALUATION]) > 1.6 * COSTS["evaluation"]


def test_what_is_set_up_with_the_first_update_is_not_expected_again() -> None:
    (evaluation, (part, seconds)), *rest = made(40)
    assert worst(errors([[evaluation, (part, 5 * seconds)], *rest])) < ENOUGH


def test_one_update_that_waited_for_a_fault_hardly_counts() -> None:
    run = made(40)
    run[20] = [(run[20][-1][0], 600.0)]
    assert worst(errors(run, first=21)) < ENOUGH


def test_checkpoints_say_little_of_the_machine() -> None:
    done = [part for update in made(20) for part in update]
    steady = expected_seconds(done, [PREFIX])
    assert expected_seconds([*done, (CHECKPOINT, 2.0)], [PREFIX]) < 1.02 * steady


@pytest.mark.parametrize("start", [40, 80, 120, 160])
def test_a_recorded_run_is_within_thirty_percent_from_its_fourth_update(start: int) -> None:
    assert worst(errors(recorded(start, start + 40))) < ENOUGH


def test_a_recorded_run_on_a_machine_that_swaps_now_and_then_mostly_is() -> None:
    found = [error for start in range(0, 300, 40) for error in errors(recorded(start, min(start + 40, 300)))]
    assert sum(abs(error) < ENOUGH for error in found) / len(found) > 0.85


def recorded(first: int, last: int) -> list[list[Timed]]:
    """Updates of the run whose metrics are kept in docs/, as if a run had begun with the first of them."""
    recipe, rows = read_resolved(RECORDED / "config.toml"), read_rows(RECORDED / METRICS_FILE)
    return [timed_parts(recipe, number, rows[number], rows[number]["timing/total"]) for number in range(first, last)]


def test_what_was_never_seen_costs_what_the_others_do_for_an_image() -> None:
    assert expected_seconds([], [Part("prefix", 100.0)]) == pytest.approx(100 * IMAGE_S)
    assert expected_seconds([(evaluation_part(10, 2), 5.0)], [Part("prefix", 100.0)]) == pytest.approx(25.0)


def test_the_parts_of_a_run_are_those_that_its_recipe_asks_for() -> None:
    recipe = Recipe.model_validate(
        {
            "run": {"updates": 6},
            "rollout": {"prompts_per_update": 2, "group_size": 4, "continuations": 2},
            "objective": {"prefix_per_suffix": 1},
            "checkpoint": {"every": 4},
            "metrics": {"diagnostics_every": 3, "samples_every": 0},
            "evaluation": {"every": 5, "prompts": 8, "images_per_prompt": 2},
        }
    )
    kinds = [[part.kind for part in parts_of(recipe, update)] for update in range(6)]
    assert kinds == [
        ["evaluation", "measured prefix"],
        ["suffix"],
        ["prefix"],
        ["measured suffix", "checkpoint"],
        ["prefix"],
        ["evaluation", "suffix", "checkpoint"],
    ]
    assert update_part(recipe, 2).size == 16.0  # every candidate is finished twice
    assert [part.kind for part in training_parts(recipe, 4)] == ["prefix", *kinds[5], "evaluation"]


def test_an_update_is_what_its_evaluation_left_of_the_time() -> None:
    recipe = Recipe.model_validate({"evaluation": {"every": 2}})
    row = {"update": 2, "timing/evaluation": 5.0, "timing/total": 12.0}
    assert [(part.kind, took) for part, took in recorded_parts(recipe, [row], 3)] == [
        ("evaluation", 5.0),
        ("prefix", 7.0),
    ]
    assert recorded_parts(recipe, [row, {"update": 3}], 2) == []


def test_what_comes_after_the_training_counts() -> None:
    left = TimeLeft(later=[EVALUATION], fixed_s=10.0)
    left.record([(EVALUATION, 20.0), (CHECKPOINT, 0.0)])
    assert left.seconds([]) == 30.0
    assert left.seconds([EVALUATION]) == 50.0


def test_spans_are_said_in_their_own_unit() -> None:
    assert [in_words(seconds) for seconds in (45, 600, 9000)] == ["45 s", "10 min", "2.5 h"]
