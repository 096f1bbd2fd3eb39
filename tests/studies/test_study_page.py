"""What a study says of results that it has: rates chosen, arms compared, curves, scales, machines."""

from __future__ import annotations

import pytest

from tests.support.study_rig import plan, point, result
from varl.launch.machine import describe_machine
from varl.studies.study.drift import SHIFT, drift_table
from varl.studies.study.gradients import noise_table, prefix_table, scale_means, scale_shares, signal_to_noise
from varl.studies.study.pace import Pace
from varl.studies.study.results import at_seconds, row_of
from varl.studies.study.run import Findings, chosen_rates
from varl.studies.study.summary import arms_table, measures_table, trained_on


def test_runs_are_timed_alike_once_every_arm_has_a_pace() -> None:
    machine = describe_machine("cpu")
    runs = [result("a", 0, 0.5), result("b", 0, 0.7)]
    pace = Pace(seconds_an_image={"a": (1.0, 2.0, 9.0), "b": (0.5,)}, machine=machine)
    first, second = pace.retimed(runs)
    assert (first.seconds, second.seconds) == (2.0 * runs[0].images, 0.5 * runs[1].images)
    assert [point.seconds for point in first.curve] == [2.0 * point.images for point in runs[0].curve]
    assert first.figures == runs[0].figures
    assert Pace(seconds_an_image={"a": (1.0,)}, machine=machine).retimed(runs) == runs


def test_an_arm_gets_the_rate_that_reads_best_on_its_own_prompts() -> None:
    tuning = [result("a", 9, 0.5, 1e-6, tuning=True), result("a", 9, 0.6, 1e-5, tuning=True)]
    assert chosen_rates(plan(), tuning) == {"a": 1e-5, "b": 1e-5}
    assert chosen_rates(plan(), tuning[:1]) == {"a": 1e-6, "b": 1e-5}
    assert chosen_rates(plan(), []) == {"b": 1e-5}


def test_a_figure_at_a_time_lies_between_the_evaluations_around_it() -> None:
    curve = (point(0, 0.0, **{"eval/word_accuracy": 0.2}), point(1, 20.0, **{"eval/word_accuracy": 0.4}))
    run = result("a", 0, 0.8, curve=curve)
    assert at_seconds(run, "word_accuracy", 10.0) == pytest.approx(0.3)
    assert at_seconds(run, "word_accuracy", 40.0) == pytest.approx(0.6)
    assert at_seconds(run, "word_accuracy", 60.0) == pytest.approx(0.8)
    assert at_seconds(run, "word_accuracy", 61.0) is None


def test_a_row_names_figures_of_other_samplers_behind() -> None:
    row = row_of(result("a", 0, 0.5))
    assert (row["word_accuracy"], row["word_accuracy_greedy"], row["reward_ocr"]) == (0.5, 0.6, 1.0)


def test_measures_beside_the_studys_own_are_means_over_seeds() -> None:
    more = {"T=1": {"word_accuracy": 0.5, "ned": 0.9, "appearance/dark": 0.1}}
    runs = [result("b", 0, 0.5), result("b", 1, 0.7), result("a", 0, 0.5, figures=more)]
    assert measures_table(plan(), runs).splitlines() == [
        "| arm | reward/ocr | ned |",
        "| --- | --- | --- |",
        "| a | – | 0.900 |",
        "| b | 1.000 ± 0.000 | – |",
    ]
    assert measures_table(plan(measure="ned"), [result("a", 0, 0.5, figures={"T=1": {"ned": 0.5}})]) == ""


def test_shares_by_scale_are_of_the_updates_that_trained_the_scale() -> None:
    metrics = {"kl/scale_1": 1.0, "kl/scale_2": 2.0}, {"kl/scale_3": 3.0}
    run = result("a", 0, 0.5, curve=tuple(point(u, 0.0, **one) for u, one in enumerate(metrics)))
    assert scale_shares([run], "kl/scale_") == pytest.approx([1 / 6, 2 / 6, 3 / 6])
    assert scale_shares([run], "grad_norm/scale_") == []
    assert scale_means([run], "kl/scale_") == [1.0, 2.0, 3.0]


def test_signal_over_noise_is_of_sums_and_by_stage() -> None:
    prefix = {"grad_norm/scale_1": 1.0, "grad_norm/scale_2": 1.0}
    metrics = (
        prefix | {"grad_signal": 3.0, "grad_noise": 1.0},
        prefix | {"grad_signal": -1.0, "grad_noise": 3.0},
        {"grad_norm/scale_3": 1.0, "grad_signal": 5.0, "grad_noise": 10.0},
        {"kl": 0.0},
    )
    run = result("a", 0, 0.5, curve=tuple(point(u, 0.0, **one) for u, one in enumerate(metrics)))
    assert signal_to_noise(run.curve[:2]) == pytest.approx(0.5)
    assert noise_table([run]).splitlines()[2:] == ["| a | 1 to 2 | 2 | 0.50 |", "| a | 3 to 3 | 1 | 0.50 |"]
    assert noise_table([result("a", 0, 0.5)]) == ""


def test_what_the_prefix_decides_is_a_mean_over_an_arms_prefix_updates() -> None:
    curve = (point(0, 0.0, prefix_share=0.1), point(1, 0.0), point(2, 0.0, prefix_share=0.4))
    runs = [result("vmr", 0, 0.5, curve=curve), result("vmr", 1, 0.5, curve=curve[:1]), result("grpo", 0, 0.5)]
    assert prefix_table(runs).splitlines()[2:] == ["| vmr | 3 | 0.20 |"]
    assert prefix_table(runs[2:]) == ""


def test_every_arm_is_set_against_the_first_at_the_seeds_that_both_have() -> None:
    values = {("a", 0): 0.5, ("a", 1): 0.6, ("b", 1): 0.8, ("b", 2): 0.1}
    runs = [result(arm, seed, value, machine=describe_machine("cpu")) for (arm, seed), value in values.items()]
    study = plan(samplers=[], arms={"none": {}, "a": {}, "b": {"title": "other"}})
    first, second = arms_table(study, Findings(runs=runs)).splitlines()[2:]
    assert first.split(" | ")[:5] == ["| a", "2", "1e-05", "0.550 ± 0.635", "–"]
    assert second.split(" | ")[:5] == ["| other", "2", "1e-05", "0.450 ± 4.447", "+0.200"]


def test_the_page_says_what_trained_the_runs() -> None:
    here = describe_machine("cpu")
    other = here.model_copy(update={"cpu": "another", "cores": 64})
    runs = [result("a", seed, 0.5, machine=machine) for seed, machine in enumerate((other, None, other))]
    named = "64 cores of another, cpu"
    assert trained_on(runs[::2]) == f"Trained on {named}"
    assert trained_on([]) == "No run is finished"
    assert trained_on(runs) == (
        f"Trained on {named} (2 of the runs); a machine that the results do not name (1 of the runs)"
    )


def test_drift_is_that_of_the_last_evaluation() -> None:
    first, second = ({"eval/drift/dark": dark, SHIFT: 9.0, "eval/drift_alarms": 0.0} for dark in (0.1, 0.2))
    curve = (point(0, 0.0, **first), point(1, 0.0, **second), point(2, 0.0))
    later = (point(0, 0.0, **{"eval/drift/dark": 0.4, SHIFT: 9.0, "eval/drift_alarms": 1.0}),)
    runs = [result("a", 0, 0.5, curve=curve), result("a", 1, 0.5, curve=later), result("b", 0, 0.5)]
    head, _, *rows = drift_table(runs).splitlines()
    assert head == "| arm | dark | colour shift | alarms |"
    assert rows == ["| a | +0.300 | +9.000 | 0.5 |", "| b | – | – | – |"]
    assert drift_table(runs[2:]) == ""


def test_the_shift_of_an_older_run_is_that_of_its_mean_colour_and_its_alarms_are_left_out() -> None:
    colours = [dict(zip(("lightness", "a", "b"), lab, strict=True)) for lab in ((50.0, 0.0, 0.0), (53.0, 4.0, 0.0))]
    curve = [
        point(update, 0.0, **{f"eval/appearance/{axis}": value for axis, value in colour.items()},
              **{"eval/drift/dark": 0.0, "eval/drift_alarms": 1.0})
        for update, colour in enumerate(colours)
    ]  # fmt: skip
    head, _, row = drift_table([result("a", 0, 0.5, curve=tuple(curve))]).splitlines()
    assert head == "| arm | dark | colour shift | alarms |" and row == "| a | +0.000 | +5.000 | – |"
