"""Recipes: precedence, refusals by name, the committed files, the dry run."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError
from pydantic_settings import SettingsError

from tests.support.paths import PYTHONPATH, ROOT
from varl.studies import demo
from varl.trainer import __main__ as trainer
from varl.trainer.local_services import _rewards
from varl.trainer.recipe.config import Recipe, load_recipe, parse_command
from varl.trainer.recipe.describe import describe, to_toml
from varl.trainer.recipe.sections import RewardSettings, Section

RECIPES = sorted((ROOT / "recipes").glob("*.toml"))


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(
        '[run]\nname = "trial"\nseed = 3\n[rollout.sampling]\ntop_k = 2\n'
        '[[rollout.rewards]]\nname = "ocr"\nweight = 2.0\n'
    )
    return path


def test_flags_win_over_environment_over_file_over_defaults(recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VARL_TRAINER_RUN__SEED", "5")
    monkeypatch.setenv("VARL_TRAINER_RUN__UPDATES", "7")
    recipe = load_recipe(
        recipe_file, ["--run.updates", "9", "--optimizer.lr", "3e-4", "--rollout.sampling.top_p", "0.5"]
    )
    assert (recipe.run.name, recipe.run.seed, recipe.run.updates) == ("trial", 5, 9)
    assert (recipe.rollout.sampling.top_k, recipe.rollout.sampling.top_p, recipe.optimizer.lr) == (2, 0.5, 3e-4)
    assert recipe.rollout.rewards[0].weight == 2.0
    assert recipe.objective == Recipe().objective


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("[optimizer]\nlearning_rate = 1.0\n", "optimizer.learning_rate"),
        ("[optimiser]\nlr = 1.0\n", "optimiser"),
        ("[optimizer]\ndecay_from = 9\ndecay_until = 9\n", "decay_from"),
        ("[objective]\nclip_low = 1.0\n", "objective.clip_low"),
        ("[rollout]\ngroup_size = 1\n", "rollout.group_size"),
        ('[[rollout.rewards]]\nname = "ocr"\n[[rollout.rewards]]\nname = "ocr"\n', "rollout.rewards"),
        ('[run]\nname = "../elsewhere"\n', "run.name"),
        ('[run]\nname = "a\\n"\n', "run.name"),
        ('[run]\nname = "a\\rb"\n', "run.name"),
        ('[run]\nname = "a:b"\n', "run.name"),
        (f'[run]\nname = "{"a" * 300}"\n', "run.name"),
        ("[run]\nupdates = 1000000000\n", "run.updates"),
        (f"[run]\nseed = {2**63}\n", "run.seed"),
        ("[run]\nthreads = 1000000\n", "run.threads"),
        ("[optimizer]\nlr = inf\n", "optimizer.lr"),
        ("[optimizer]\nweight_decay = inf\n", "optimizer.weight_decay"),
        ("[optimizer]\nbetas = [0.9, nan]\n", "optimizer.betas.1"),
        ("[rollout]\ngroup_timeout_s = inf\n", "rollout.group_timeout_s"),
        ("[rollout]\ngroup_timeout_s = 1e300\n", "rollout.group_timeout_s"),
        ("[rollout]\ngroup_size = 1000000000\n", "rollout.group_size"),
        ("[rollout]\ncontinuations = 65\n", "rollout.continuations"),
        ("[rollout]\nprompts_per_update = 1000000000\n", "rollout.prompts_per_update"),
        ('[[rollout.rewards]]\nname = "ocr"\nweight = inf\n', "rollout.rewards.0.weight"),
        ("[rollout.sampling]\ntemperature = inf\n", "rollout.sampling.temperature"),
        ("[checkpoint]\ndisk_patience_s = inf\n", "checkpoint.disk_patience_s"),
        ("[metrics]\nsamples_per_prompt = 100000\n", "metrics.samples_per_prompt"),
        ("[evaluation]\nimages_per_prompt = 100000\n", "evaluation.images_per_prompt"),
        ("[evaluation.drift]\ndark = inf\n", "evaluation.drift.dark"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(tmp_path: Path, text: str, name: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(ValidationError) as caught:
        load_recipe(path)
    places = [".".join(map(str, problem["loc"])) + problem["msg"] for problem in caught.value.errors()]
    assert any(name in place for place in places)


def test_an_unknown_flag_is_refused_with_the_one_it_resembles(recipe_file: Path) -> None:
    with pytest.raises(SettingsError, match=r"lr_gain_factor=1; did you mean --optimizer\.gain_lr_factor\?"):
        parse_command([str(recipe_file), "--optimizer.lr_gain_factor=1"])


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_committed_recipes_load_and_read_back_from_their_own_toml(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    copy = tmp_path / "copy.toml"
    copy.write_text(to_toml(recipe), encoding="utf-8")
    assert load_recipe(copy) == recipe
    assert recipe.run.name == path.stem


def test_the_recipes_are_there() -> None:
    assert {"tiny_ocr", "tiny_demo", "vanilla", "nextflow_7b_cvtg2k", "nextflow_7b_hpsv3"} <= {
        path.stem for path in RECIPES
    }


@pytest.mark.parametrize("name", ["nextflow_7b_cvtg2k", "nextflow_7b_hpsv3"])
def test_paper_recipes_have_the_paper_s_numbers(name: str) -> None:
    recipe = load_recipe(ROOT / "recipes" / f"{name}.toml")
    sampling = recipe.rollout.sampling
    assert (sampling.cfg, sampling.top_k, sampling.top_p) == (5.0, 2, 0.9)
    assert (
        recipe.rollout.prompts_per_update,
        recipe.rollout.group_size,
        recipe.rollout.continuations,
        recipe.run.updates,
    ) == (
        16,
        16,
        2,
        1200,
    )
    assert (recipe.objective.split_scale, recipe.objective.eta, recipe.objective.prefix_per_suffix) == (12, 1.0, 3)
    assert (recipe.optimizer.betas, recipe.optimizer.weight_decay) == ((0.9, 0.95), 0.05)
    text = describe(recipe)
    assert "900 prefix updates of 512 images" in text and "300 suffix updates of 256 images" in text


def test_the_text_recipe_pins_its_reader_and_the_preference_recipe_masks_nothing() -> None:
    text, preference = (load_recipe(ROOT / "recipes" / f"nextflow_7b_{name}.toml") for name in ("cvtg2k", "hpsv3"))
    (command,) = _rewards(text, 2).values()
    assert command[command.index("--model") + 1] == "pp-ocrv5-mobile"
    assert text.objective.mask_propagation == "chained"
    assert not _rewards(preference, 2) and preference.objective.mask_propagation == "off"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_no_recipe_chooses_its_checkpoint_by_a_test_set(path: Path) -> None:
    assert not any(name in load_recipe(path).prompts.held_out.stem for name in ("cvtg", "hpdv3", "test"))


def test_alternation_may_be_coarse_or_leave_one_stage_out() -> None:
    path = ROOT / "recipes" / "nextflow_7b_cvtg2k.toml"
    turns = ["--objective.prefix_per_suffix", "300", "--objective.suffix_in_a_row", "100", "--run.updates", "400"]
    coarse = describe(load_recipe(path, turns))
    assert "300 prefix updates of" in coarse and "100 suffix updates of" in coarse
    alone = describe(load_recipe(path, ["--objective.suffix_in_a_row", "0", "--objective.split_scale", "8"]))
    assert "1200 prefix updates of" in alone and "suffix updates" not in alone
    rest = describe(load_recipe(path, ["--objective.prefix_per_suffix", "0"]))
    assert "1200 suffix updates of" in rest and "prefix updates" not in rest
    with pytest.raises(ValueError, match="prefix_per_suffix and suffix_in_a_row cannot both be 0"):
        load_recipe(path, ["--objective.prefix_per_suffix", "0", "--objective.suffix_in_a_row", "0"])


def test_flags_of_a_service_that_runs_elsewhere_are_refused() -> None:
    with pytest.raises(ValueError, match="arguments"):
        RewardSettings(name="ocr", address="ocr:50051", arguments=("--engine", "paddle"))


def test_vanilla_recipe_is_plain_grpo() -> None:
    objective = load_recipe(ROOT / "recipes" / "vanilla.toml").objective
    assert (objective.stages, objective.alpha, objective.mask_propagation) == ("full", 0.0, "off")


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str | None]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from _fields(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.description


def test_help_names_and_explains_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_command(["--help"])
    text = " ".join(capsys.readouterr().out.split()).replace("- ", "-")
    for name, description in _fields(Recipe):
        assert f"--{name} " in text
        assert description and " ".join(description.split())[:20] in text, name


def _command(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
    environment["PYTHONPATH"] = PYTHONPATH
    return subprocess.run(
        [sys.executable, "-m", "trainer", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
        check=False,
    )


def test_dry_run_prints_a_recipe_that_reads_back(recipe_file: Path) -> None:
    result = _command(str(recipe_file), "--dry-run", "--run.updates", "8")
    assert result.returncode == 0, result.stderr
    assert tomllib.loads(result.stdout)["run"]["updates"] == 8
    assert "# run trial: 8 updates" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rollout.redis_url", "redis://localhost:1"], "localhost:1"),
        ([], "REDIS_URL"),
    ],
)
def test_a_problem_is_one_line_and_status_1(recipe_file: Path, arguments: list[str], message: str) -> None:
    result = _command(str(recipe_file), *arguments, "--run.dir", str(recipe_file.parent))
    assert result.returncode == 1
    assert message in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize("start", [trainer.main, lambda arguments: demo.main(["--recipe", *arguments])])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[optimizer]\nlr = inf\n", "optimizer.lr: "),
        (b"[optimizer]\nlr = -1\n", "optimizer.lr: "),
        (b"[run\n", "is no TOML"),
        (b"\xff\xfe", "is no TOML"),
        (None, "cannot be read"),
        (b'[model]\ndir = "no-such-model"\n', "model.dir: there is no folder no-such-model"),
        (b'[prompts]\ntrain = "none.jsonl"\n', "prompts.train: there is no file none.jsonl"),
    ],
)
def test_what_no_second_attempt_mends_is_status_2(
    start: Callable[[list[str]], int],
    content: bytes | None,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    path = tmp_path / "recipe.toml"
    path.mkdir() if content is None else path.write_bytes(content)
    assert start([str(path)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model.dir", "no-such-model"], "model.dir: there is no folder no-such-model"),
        (["--model.dir", "tests"], "model.dir: tests holds no config.json"),
        (["--prompts.train", "none.jsonl"], "prompts.train: there is no file none.jsonl"),
        (["--prompts.held_out", "none.jsonl"], "prompts.held_out: there is no file none.jsonl"),
        (["--rollout.redis_ca_file", "none.pem"], "rollout.redis_ca_file: there is no file none.pem"),
    ],
)
def test_a_dry_run_misses_files_by_their_setting(
    recipe_file: Path,
    flags: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    assert trainer.main([str(recipe_file), "--dry-run", *flags]) == 2
    assert message in capsys.readouterr().err


def test_a_dry_run_misses_a_rewards_own_file(
    recipe_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    recipe_file.write_text(recipe_file.read_text() + 'serve = "none.py:Class"\n')
    assert trainer.main([str(recipe_file), "--dry-run"]) == 2
    assert "rollout.rewards.0.serve: there is no file none.py" in capsys.readouterr().err


def test_a_recipe_that_does_not_exist_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert trainer.main(["none.toml", "--dry-run"]) == 2
    assert demo.main(["--dry-run", "--recipe", "none.toml"]) == 2
    assert capsys.readouterr().err.count("recipe: there is no file none.toml") == 2


def test_the_demos_dry_run_is_the_trainers(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert (
        demo.main(
            ["--dry-run", "--recipe", str(recipe_file), "--updates", "5", "--run-dir", str(tmp_path / "runs" / "here")]
        )
        == 0
    )
    assert "# run here: 5 updates" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()
    recipe_file.write_text(recipe_file.read_text() + '[model]\ndir = "no-such-model"\n')
    assert demo.main(["--dry-run", "--recipe", str(recipe_file)]) == 2
    assert "model.dir: there is no folder no-such-model" in capsys.readouterr().err
