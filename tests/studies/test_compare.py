"""Two runs side by side, from files as runs leave them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from varl.cli.compare import main
from varl.evaluation.results import Evaluation, PromptResult
from varl.evaluation.samplers import parse_sampler
from varl.policy.base import SamplingParams
from varl.studies.compare import compare
from varl.studies.report.readings import save_evaluation
from varl.studies.samplers import SamplerReading, changes_of
from varl.trainer.recipe.config import Recipe
from varl.trainer.recipe.describe import to_toml


def evaluation(tag: str, *hits: int, seed: int = 1) -> Evaluation:
    results = [
        PromptResult(
            index=index, prompt=f"'{index}'", target_words=("a",), images=2, shares={"word_accuracy": (hit, 2)}
        )
        for index, hit in enumerate(hits)
    ]
    return Evaluation(tag=tag, weight_version=9, seed=seed, group_size=2, models={}, prompts=tuple(results), failed=())


def run(folder: Path, evaluations: list[Evaluation], **objective: object) -> Path:
    folder.mkdir()
    recipe = Recipe.model_validate({"run": {"name": folder.name, "updates": 9}, "objective": objective})
    (folder / "config.toml").write_text(to_toml(recipe))
    for one in evaluations:
        save_evaluation(folder, one)
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    one = run(tmp_path / "one", [evaluation("after", 0, 1, 1), evaluation("after-greedy", 1, 1, 1)], alpha=0.0)
    other = run(tmp_path / "other", [evaluation("after", 1, 2, 2), evaluation("after-greedy", 2, 1, 1)], alpha=0.6)
    return one, other


def test_settings_and_paired_figures_are_named(runs: tuple[Path, Path]) -> None:
    text = compare(*runs)
    assert "objective.alpha: 0.0 -> 0.6" in text and "run.name" not in text
    own, greedy = text.split("\n\n")[2:4]
    assert own.splitlines() == ["own sampler", "  Word Accuracy     0.333 ->    0.833  +0.500 ± 0.000"]
    assert greedy.splitlines()[0] == "greedy"
    assert "0.500 ->    0.667  +0.167 ± " in greedy


def test_weights_of_one_evaluation_are_compared_with_the_first_sampler_by_sampler() -> None:
    plain, greedy = (parse_sampler(text, SamplingParams()) for text in ("T=1", "greedy"))
    found = [
        SamplerReading("base", plain, evaluation("a", 0, 1)),
        SamplerReading("base", greedy, evaluation("b", 1, 1)),
        SamplerReading("x.safetensors", plain, evaluation("c", 1, 2)),
        SamplerReading("x.safetensors", greedy, evaluation("d", 1, 1)),
    ]
    changes = changes_of(found)
    assert [(one.weights, one.first, one.sampler) for one in changes] == [
        ("x.safetensors", "base", plain),
        ("x.safetensors", "base", greedy),
    ]
    assert [one.difference.changes["word_accuracy"].value for one in changes] == [0.5, 0.0]
    assert changes_of(found[:2]) == []


def test_runs_that_differ_in_nothing_say_so(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(runs[0]), str(runs[0])]) == 0
    assert "settings that differ:\n  none\n" in capsys.readouterr().out


def test_other_prompts_or_no_run_is_an_error(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = run(tmp_path / "elsewhere", [evaluation("after", 1, 1, 1, seed=2)])
    assert main([str(runs[0]), str(elsewhere)]) == 1
    assert "differ in seed" in capsys.readouterr().err
    assert main([str(runs[0]), str(tmp_path / "nothing")]) == 1
    assert "config.toml" in capsys.readouterr().err
    assert main([str(runs[0]), str(run(tmp_path / "young", []))]) == 1
    assert "no reading in common" in capsys.readouterr().err


def test_the_command_needs_two_runs() -> None:
    code = "import sys; from varl.cli import main; sys.exit(main(['compare', 'one']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "RUN" in done.stderr
