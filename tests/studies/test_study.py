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

import pytest

from tests.support.paths import PYTHONPATH, ROOT
from tests.support.study_rig import plan
from tests.support.trainer_rig import make_model
from varl.cli import main
from varl.launch.cores import usable_cores
from varl.launch.machine import describe_machine
from varl.studies.study.plan import (
    Job,
    arm_recipe,
    images_by_update,
    load_study,
    main_jobs,
    merged,
    tuning_jobs,
    updates_within,
)
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
    assert slow["machine"] == describe_machine("cpu").cpu
    assert "none.jsonl" in record["failures"]["broken/seed-0"]
    assert record["controls"].keys() == {"T=1", "greedy"}
    assert slow["reward_brightness"] == pytest.approx(record["controls"]["T=1"]["reward/brightness"], abs=0.01)
    (contrast,) = record["contrasts"]
    assert contrast["difference"]["value"] == pytest.approx(fast["reward_brightness"] - slow["reward_brightness"])
    assert contrast["p"] is None  # a single seed
    text = (out / "study.md").read_text()
    assert "| a fast one | 1 | 0.001 |" in text and "a fast one − slow" in text and "## Missing" in text
    assert f"Trained on {usable_cores()} cores of {slow['machine']}, cpu.\n" in text
    assert text in first.stdout
    assert "<svg" in (out / "study.svg").read_text()

    again = study_here("--only", "slow", "--only", "fast")
    assert again.returncode == 0 and "gRPC" not in again.stderr, again.stderr  # nothing was started
    assert json.loads((out / "study.json").read_text())["runs"] == record["runs"]

    study = (folder / "study.toml").read_text()
    for old, new, change in (
        ("learning_rate = 1e-3", "learning_rate = 1e-4", "optimizer.lr: 0.001 -> 0.0001"),
        ("images = 24", "images = 48", "study.images: 24 -> 48"),
        ("prompts = 3", "prompts = 2", "study.prompts: 3 -> 2"),
        ('title = "a fast one"', "recipe.objective.alpha = 1.0", "objective.alpha: 0.6 -> 1.0"),
    ):
        (folder / "study.toml").write_text(study.replace(old, new))
        changed = study_here("--so-far")
        assert changed.returncode == 1 and change in changed.stderr, changed.stderr
    (folder / "study.toml").write_text(study)

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
        ("learning_rate = 1e-7", "learning_rate = 1e-7\nseeds = [0, 7]", r"arms\.slow\.seeds: 7 not among the study's"),
        ("reward/brightness", "reward/brightnes", "no evaluation has the measure 'reward/brightnes'; it has reward, "),
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


def test_tables_are_merged_and_all_else_is_replaced() -> None:
    assert merged({"a": {"b": 1, "c": [1]}, "d": 2}, {"a": {"c": [2]}, "d": {"e": 3}}) == {
        "a": {"b": 1, "c": [2]}, "d": {"e": 3}
    }  # fmt: skip
