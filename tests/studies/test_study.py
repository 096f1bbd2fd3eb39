"""A study from its file to its page: what is run, what it goes on with, and what it says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import PYTHONPATH, ROOT
from tests.support.trainer_rig import make_model
from varl.cli import main
from varl.launch.machine import describe_machine
from varl.studies.study.gradients import noise_table, scale_means, scale_shares, signal_to_noise
from varl.studies.study.pace import Pace
from varl.studies.study.plan import (
    Job,
    Study,
    arm_recipe,
    images_by_update,
    load_study,
    main_jobs,
    merged,
    tuning_jobs,
    updates_within,
)
from varl.studies.study.results import Point, RunResult, at_seconds, row_of
from varl.studies.study.run import chosen_rates
from varl.trainer.recipe.dry_run import check_files

Here = Callable[..., subprocess.CompletedProcess[str]]
STUDY = """
name = "small"
recipe = "recipe.toml"
seeds = [0]
images = 24
prompts = 3
measure = "reward/brightness"
samplers = ["greedy"]
contrasts = [["fast", "slow"]]
[arms.slow]
learning_rate = 1e-7
[arms.fast]
title = "a fast one"
learning_rate = 1e-3
[arms.broken]
learning_rate = 1e-5
recipe.prompts.held_out = "none.jsonl"
"""
RECIPE = """
[run]
threads = 1
[model]
dir = "model"
[prompts]
train = "prompts.jsonl"
held_out = "held_out.jsonl"
[rollout]
prompts_per_update = 2
group_size = 4
group_timeout_s = 20
[[rollout.rewards]]
name = "brightness"
serve = "brightness.py:Brightness"
[objective]
stages = "full"
mask_propagation = "off"
[optimizer]
gain_lr_factor = 1000
[metrics]
samples_every = 0
diagnostics_every = 1
[evaluation]
every = 1
prompts = 3
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("brightness.py", "prompts.jsonl", "held_out.jsonl"):
        shutil.copy(ROOT / "examples" / name, tmp_path)
    make_model(tmp_path / "model")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    (tmp_path / "study.toml").write_text(STUDY)
    return tmp_path


def varl_study(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from varl.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "study", "study.toml", "--dir", "out", *flags]
    environment = os.environ | {"PYTHONPATH": PYTHONPATH, "REDIS_URL": ""}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def study_here(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    """``varl study`` in this process, which has PyTorch already: for what trains nothing."""
    monkeypatch.chdir(folder)

    def run(*flags: str) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        try:
            status = main(["study", "study.toml", "--dir", "out", *flags])
        except SystemExit as refused:  # by the parser of flags
            assert isinstance(refused.code, int)
            status = refused.code
        return subprocess.CompletedProcess(flags, status, *capsys.readouterr())

    return run


def test_a_study_from_nothing_to_its_page_and_again(folder: Path, study_here: Here) -> None:
    first = varl_study(folder)
    assert first.returncode == 1  # for the broken arm
    out = folder / "out" / "small"
    record = json.loads((out / "study.json").read_text())
    assert [(run["arm"], run["seed"], run["images"]) for run in record["runs"]] == [("slow", 0, 24), ("fast", 0, 24)]
    slow, fast = record["runs"]
    assert slow["reward_brightness"] != fast["reward_brightness"]
    assert {"reward_brightness_greedy", "seconds", "learning_rate"} <= slow.keys()
    assert "none.jsonl" in record["failures"]["broken/seed-0"]
    assert record["controls"].keys() == {"T=1", "greedy"}
    assert slow["reward_brightness"] == pytest.approx(record["controls"]["T=1"]["reward/brightness"], abs=0.01)
    (contrast,) = record["contrasts"]
    assert contrast["difference"]["value"] == pytest.approx(fast["reward_brightness"] - slow["reward_brightness"])
    assert contrast["p"] is None  # a single seed
    text = (out / "study.md").read_text()
    assert "| a fast one | 1 | 0.001 |" in text and "a fast one − slow" in text and "## Missing" in text
    assert text in first.stdout
    assert "<svg" in (out / "study.svg").read_text()

    again = study_here("--only", "slow", "--only", "fast")
    assert again.returncode == 0 and "gRPC" not in again.stderr, again.stderr  # nothing was started
    assert json.loads((out / "study.json").read_text())["runs"] == record["runs"]

    so_far = study_here("--so-far")
    assert so_far.returncode == 0 and not so_far.stderr, so_far.stderr  # the broken arm was not tried again
    assert "Arms: 2 of 3. Seeds: 1." in so_far.stdout
    assert json.loads((out / "study.json").read_text())["runs"] == record["runs"]

    paced = varl_study(folder, "--pace", "2", "--only", "slow", "--only", "fast")
    assert paced.returncode == 0, paced.stderr
    assert "round 2 of 2: fast" in paced.stderr and "timed side by side" in paced.stdout
    seconds = json.loads((out / "study.json").read_text())["seconds_an_image"]
    assert {arm: len(rounds) for arm, rounds in seconds.items()} == {"slow": 2, "fast": 2}
    assert min(map(min, seconds.values())) > 0
    assert "timed side by side" in study_here("--so-far").stdout


def test_runs_are_timed_alike_once_every_arm_has_a_pace() -> None:
    machine = describe_machine("cpu")
    runs = [result("a", 0, 0.5), result("b", 0, 0.7)]
    pace = Pace(seconds_an_image={"a": (1.0, 2.0, 9.0), "b": (0.5,)}, machine=machine)
    first, second = pace.retimed(runs)
    assert (first.seconds, second.seconds) == (2.0 * runs[0].images, 0.5 * runs[1].images)
    assert [point.seconds for point in first.curve] == [2.0 * point.images for point in runs[0].curve]
    assert first.figures == runs[0].figures
    assert Pace(seconds_an_image={"a": (1.0,)}, machine=machine).retimed(runs) == runs


def test_a_study_that_has_not_begun_has_no_page(folder: Path, study_here: Here) -> None:
    result = study_here("--so-far")
    assert result.returncode == 2 and "no run of it is finished" in result.stderr
    assert not (folder / "out").exists()


def test_dry_run_says_what_would_run(folder: Path, study_here: Here) -> None:
    result = study_here("--dry-run")
    assert result.returncode == 0, result.stderr
    assert "slow/seed-0: 3 updates" in result.stdout and "3 runs" in result.stdout
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[arms.slow]", "[arms.slow]\nrecipe.objective.stages = 'half'", "arms.slow: "),
        ("images = 24", "images = 7", "one update scores 8 images, more than the budget of 7"),
        ('["fast", "slow"]', '["fast", "medium"]', "there is no arm 'medium'"),
        ('"greedy"', '"greedily"', "greedily"),
        ("seeds = [0]", "seeds = []", "seeds"),
        ("name =", "nome =", "nome"),
    ],
)
def test_a_wrong_study_is_refused_by_its_field(folder: Path, old: str, new: str, message: str) -> None:
    (folder / "study.toml").write_text(STUDY.replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        load_study(folder / "study.toml")


@pytest.mark.parametrize("name", ["method", "sweeps"])
def test_the_studies_of_the_repository_are_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    study = load_study(Path("recipes/studies") / f"{name}.toml")
    jobs = [*tuning_jobs(study), *main_jobs(study, dict.fromkeys(study.arms, 1e-5))]
    for recipe in {job.arm: arm_recipe(study, job, Path("out")) for job in jobs}.values():
        check_files(recipe)
        scored = list(islice(images_by_update(recipe), recipe.run.updates))[-1]
        assert study.images - 1024 < scored <= study.images


def plan(**fields: Any) -> Study:  # noqa: ANN401
    defaults: dict[str, Any] = {
        "name": "s",
        "recipe": ROOT / "recipes" / "tiny_demo.toml",
        "seeds": (0, 1),
        "images": 6912,
        "arms": {"a": {}, "b": {"learning_rate": 1e-5, "seeds": [1]}},
        "measure": "word_accuracy",
        "tuning": {"learning_rates": [1e-6, 1e-5], "seed": 9, "held_out": "tune.jsonl", "images": 1024},
    }
    return Study.model_validate(defaults | fields)


def test_each_arm_is_given_as_many_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    plain = {"recipe": {"objective": {"stages": "full"}}}
    study = plan(arms={"full": {}, "grpo": plain, "k1": {"recipe": {"rollout": {"continuations": 1}}}})
    updates = {name: arm_recipe(study, Job(name, 1e-5, 0, False), Path("out")).run.updates for name in study.arms}
    assert updates == {"full": 36, "grpo": 54, "k1": 54}
    with pytest.raises(ValueError, match="more than the budget"):
        updates_within(arm_recipe(study, Job("full", 1e-5, 0, False), Path("out")), 100)


def test_a_recipe_of_an_arm_differs_in_what_the_study_says_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    study = plan(arms={"a": {"recipe": {"objective": {"alpha": 0.0}}}, "b": {}})
    one, other = (arm_recipe(study, Job(name, 1e-5, 3, False), Path("out")) for name in ("a", "b"))
    assert one.objective == other.objective.model_copy(update={"alpha": 0.0})
    assert (one.optimizer, one.rollout, one.run.seed) == (other.optimizer, other.rollout, 3)
    tuned = arm_recipe(study, Job("a", 1e-6, 9, True), Path("out"))
    assert (tuned.prompts.held_out, tuned.optimizer.lr, tuned.run.name) == (Path("tune.jsonl"), 1e-6, "tune-1e-06")


def test_seeds_are_run_one_after_the_other_over_all_arms() -> None:
    study = plan()
    assert [(job.arm, job.seed) for job in main_jobs(study, {"a": 1e-6, "b": 1e-5})] == [("a", 0), ("a", 1), ("b", 1)]
    assert [(job.arm, job.name) for job in tuning_jobs(study)] == [("a", "tune-1e-06"), ("a", "tune-1e-05")]


def result(arm: str, seed: int, value: float, rate: float = 1e-5, **fields: Any) -> RunResult:  # noqa: ANN401
    defaults: dict[str, Any] = {
        "tuning": False, "images": 100, "seconds": 60.0, "curve": (),
        "figures": {"T=1": {"word_accuracy": value, "reward/ocr": 1.0}, "greedy": {"word_accuracy": value + 0.1}},
    }  # fmt: skip
    return RunResult(arm=arm, seed=seed, learning_rate=rate, **(defaults | fields))


def test_an_arm_gets_the_rate_that_reads_best_on_its_own_prompts() -> None:
    tuning = [result("a", 9, 0.5, 1e-6, tuning=True), result("a", 9, 0.6, 1e-5, tuning=True)]
    assert chosen_rates(plan(), tuning) == {"a": 1e-5, "b": 1e-5}
    assert chosen_rates(plan(), tuning[:1]) == {"a": 1e-6, "b": 1e-5}
    assert chosen_rates(plan(), []) == {"b": 1e-5}


def point(update: int, seconds: float, **metrics: float) -> Point:
    return Point(update=update, images=10 * update, seconds=seconds, metrics=metrics)


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


def test_tables_are_merged_and_all_else_is_replaced() -> None:
    assert merged({"a": {"b": 1, "c": [1]}, "d": 2}, {"a": {"c": [2]}, "d": {"e": 3}}) == {
        "a": {"b": 1, "c": [2]}, "d": {"e": 3}
    }  # fmt: skip
