"""What the demo decides before anything starts: its flags, its recipe, its stages and their times."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from varl.studies.demo import main, move_aside
from varl.studies.demo_settings import DemoSettings, demo_recipe
from varl.studies.demo_stages import AFTER, BEFORE, OTHERS, REPORT, START, TRAIN, stage_seconds, within_minutes
from varl.studies.stages import StageClock
from varl.trainer.progress.time_left import evaluation_part
from varl.trainer.recipe.config import Recipe


@pytest.mark.parametrize("flags", [["--seed", "-1"], ["--prompts", "0"], ["--nonsense", "1"], ["--minutes", "0"]])
def test_bad_flags_are_refused(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = main(flags)
    except SystemExit as left:  # how argparse says it
        status = int(left.code or 0)
    assert status == 2
    assert flags[0].lstrip("-") in capsys.readouterr().err


def test_the_command_line_decides_run_directory_and_seed(tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text("[run]\nseed = 4\nupdates = 7\n")
    plain = demo_recipe(DemoSettings(recipe=recipe, run_dir=tmp_path / "a" / "b"))
    assert (plain.run.dir, plain.run.name, plain.run.seed, plain.run.updates) == (tmp_path / "a", "b", 4, 7)
    assert demo_recipe(DemoSettings(recipe=recipe, seed=9)).run.seed == 9


def test_stages_are_expected_to_take_what_their_parts_took() -> None:
    recipe = Recipe.model_validate({"run": {"updates": 8}, "evaluation": {"samplers": ["greedy"]}})
    done = [(evaluation_part(10, 1), 5.0)]
    ten, twenty = stage_seconds(recipe, 10, done), stage_seconds(recipe, 20, done)
    assert list(ten) == [START, BEFORE, TRAIN, AFTER, OTHERS, REPORT]
    assert (ten[AFTER], twenty[AFTER], ten[OTHERS]) == (5.0, 10.0, 10.0)
    assert ten[TRAIN] == twenty[TRAIN] > 8 * recipe.rollout.prompts_per_update * recipe.rollout.group_size * 0.5


def test_updates_are_cut_to_the_time_there_is() -> None:
    recipe = Recipe.model_validate({"run": {"updates": 100}})
    assert within_minutes(recipe, expected_s=600, minutes=5).run.updates == 50
    assert within_minutes(recipe, expected_s=600, minutes=20).run.updates == 100
    assert within_minutes(recipe, expected_s=600, minutes=0.001).run.updates == 1


def test_what_lies_in_the_way_is_moved_aside_once(tmp_path: Path) -> None:
    assert move_aside(tmp_path / "run") is None
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "kept").write_text("")
    moved = move_aside(tmp_path / "run")
    assert moved is not None
    assert (moved / "kept").exists()
    assert not (tmp_path / "run").exists()


def test_stages_say_what_is_left() -> None:
    said: list[str] = []
    stages = StageClock({"a": 30, "b": 60, "c": 600}, said.append)
    with stages.stage("a"):
        pass
    stages.expect({"c": 20})
    with stages.stage("b"):
        pass
    assert said == ["\n[1/3] a (about 12 min left in all)", "\n[2/3] b (about 80 s left in all)"]
    assert stages.left() == 20
    assert list(stages.seconds) == ["a", "b"]


def test_times_count_every_attempt_at_a_run(tmp_path: Path) -> None:
    file = tmp_path / "stages.json"
    file.write_text('{"a": 100.0, "b": 50.0}')
    stages = StageClock({"a": 1, "b": 1}, lambda line: None, file)
    with stages.stage("a"):
        pass
    with pytest.raises(KeyboardInterrupt), stages.stage("b"):
        raise KeyboardInterrupt
    kept = json.loads(file.read_text())
    assert kept["a"] == stages.seconds["a"] >= 100.0 and kept["b"] >= 50.0 and stages.total() >= 150.0
    file.write_text('{"a": 10')  # cut off
    assert StageClock({"a": 1}, lambda line: None, file).total() == 0.0
