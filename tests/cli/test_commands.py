"""The command line itself: overview, help of every command, typos, absent packages, and the names in usage lines."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import PYTHONPATH, ROOT
from varl import cli
from varl.cli.commands import COMMANDS, SERVICES, Entry
from varl.cli.parser import Parser
from varl.launch.program import did_you_mean, explain_flags

REWARDS = ("ocr", "hpsv3", "judge", "examples/brightness.py:Brightness", "varl.services.judge.reward:Judge")
HEAVY = ("torch", "paddleocr", "fastapi", "redis", "transformers")


def test_the_overview_lists_all_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from varl.cli import main; s = main(['--help']); "
        f"sys.exit(s or any(m in sys.modules for m in {HEAVY}))"
    )
    environment = os.environ | {"PYTHONPATH": PYTHONPATH}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(f"  {name} " in done.stdout for name in (*COMMANDS, "serve"))


@pytest.mark.parametrize(
    "command", [*([name] for name in COMMANDS), *(["serve", name] for name in REWARDS)], ids=" ".join
)
def test_each_command_has_help_under_its_own_name(
    command: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main([*command, "--help"])
    assert ended.value.code in (0, None)
    text = capsys.readouterr().out
    assert text.startswith(f"usage: varl {' '.join(command)} ")


def test_help_says_a_default_where_it_tells_something(capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser("varl.cli.some", "Does something.")
    parser.add_argument("--number", type=int, default=0, help="of things")
    parser.add_argument("--file", help="that is read")
    parser.add_argument("--again", action="append", default=[], help="may be given again")
    parser.add_argument("--quiet", action="store_true", help="no lines")
    parser.print_help()
    text = capsys.readouterr().out
    assert "of things (default: 0)" in text and text.count("(default: ") == 1


def test_score_needs_httpx_alone() -> None:
    code = f"import sys, varl.cli.score; sys.exit(any(m in sys.modules for m in {HEAVY}))"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": PYTHONPATH}, check=False)
    assert done.returncode == 0


def test_serve_lists_its_rewards(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in SERVICES)
    assert (cli.main([]), cli.main(["serve"])) == (2, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "varl: there is no command 'trian'; did you mean train?"),
        (["xyzzy"], "varl: there is no command 'xyzzy'; varl --help lists them"),
        (["serve", "orc"], "varl serve: there is no reward 'orc'; did you mean ocr?"),
        (["serve", "ocr", "--max-sampels", "3"], "--max-sampels 3; did you mean --max-samples?"),
        (["demo", "--uptades", "3"], "varl demo: unrecognized arguments: --uptades 3; did you mean --updates?"),
        (["train", "recipes/tiny_demo.toml", "--optimizer.rl", "1"], "did you mean --optimizer.lr?"),
        (["generate", "x", "--guidence", "1"], "did you mean --guidance?"),
        (["generate", "x", "--temperature", "-1"], "--temperature: must be above 0, got -1"),
        (["generate", "x", "--top-p", "2"], "--top-p: must be above 0 and at most 1, got 2"),
        (["evaluate", "--sampler", "hot"], "--sampler: 'hot': want greedy, or T="),
        (["evaluate", "--images-per-prompt", "100000"], "images_per_prompt"),
        (["evaluate", "--weights", "none.safetensors"], "--weights: there is no file none.safetensors"),
        (["evaluate", "--recipe", "none.toml"], "--recipe: recipe: there is no file none.toml"),
        (["score", "none.png", "--prompt", "x"], "there is no file none.png"),
        (
            ["score", "README.md", "--prompt", "x", "--reward", "orc"],
            "--reward: 'orc' is neither ocr nor hpsv3 nor PATH.py:Class nor package.module:Class",
        ),
        (
            ["score", "README.md", "--prompt", "x", "--reward", "varl.services.clip.rewards:ClipSkore"],
            "--reward: 'varl.services.clip.rewards:ClipSkore': there is no ClipSkore in ",
        ),
    ],
)
def test_a_mistake_is_explained_with_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    try:
        status: int | str | None = cli.main(arguments)
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    assert message in capsys.readouterr().err


def test_an_absent_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(SERVICES, "ocr", Entry("no_such_package.ocr", "ocr", "a module that is not installed"))
    assert cli.main(["serve", "ocr"]) == 1
    assert (
        "varl serve ocr needs: pip install 'varl[ocr]' (there is no module no_such_package here)"
        in capsys.readouterr().err
    )


def test_a_fault_of_ours_is_not_taken_for_an_absent_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "train", Entry("varl.no_such_module", "trainer", "a module that we forgot"))
    with pytest.raises(ModuleNotFoundError):
        cli.main(["train"])


@pytest.mark.parametrize(
    "module", ["services.ocr", "varl.services.ocr", "trainer", "varl.trainer", "varl.studies.demo"]
)
def test_a_module_run_by_python_says_so(module: str) -> None:
    environment = os.environ | {"PYTHONPATH": PYTHONPATH}
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: python -m {module} ")


def test_hints() -> None:
    assert did_you_mean("tempature", ["temperature", "seed"]) == "; did you mean temperature?"
    assert did_you_mean("qqqq", ["temperature", "seed"]) == ""
    assert (
        explain_flags("the following arguments are required: PROMPT", ["--seed"])
        == "the following arguments are required: PROMPT"
    )
