"""Every command that a page prints: taken by the real parsers, and the short ones run as they are pasted."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.docs_commands import Printed, blocks, mentioned, pages, printed, problem, unknown
from tests.support.paths import ROOT
from varl.trainer.recipe.config import load_recipe

IN_BLOCKS = [command for page in pages() for command in printed(page)]
IN_TEXT = sorted({command for page in pages() for command in mentioned(page)}, key=str)
TUTORIAL, OWN_PROMPTS, OWN_REWARD = (ROOT / "docs" / f"{name}.md" for name in ("tutorial", "own_prompts", "own_reward"))


def test_the_commands_of_the_pages_are_found() -> None:
    assert len(IN_BLOCKS) > 30 and len(IN_TEXT) > 10
    assert {"varl", "make", "python"} <= {command.words[0] for command in IN_BLOCKS}


@pytest.mark.parametrize("command", IN_BLOCKS, ids=str)
def test_the_real_parser_takes_it_and_the_files_that_it_names_are_there(
    command: Printed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "examples", tmp_path, dirs_exist_ok=True)  # the files of own_reward.md
    (tmp_path / "sign.png").touch()  # what an earlier command of the page has drawn
    monkeypatch.chdir(tmp_path)
    assert problem(command) == ""
    recipes = [word for word in command.words if word.endswith(".toml") or word.startswith("examples/")]
    files = [word.partition(".py:")[0] + ".py" if ".py:" in word else word for word in recipes]
    assert not [file for file in files if not any((ROOT / folder / file).exists() for folder in ("", "examples"))]


@pytest.mark.parametrize("command", IN_TEXT, ids=str)
def test_what_the_text_names_exists(command: Printed) -> None:
    assert unknown(command) == ""


@pytest.mark.parametrize(
    "words",
    [
        ("varl", "trian"),
        ("varl", "serve", "oc"),
        ("varl", "export", "runs/demo", "--too", "x"),
        ("varl", "train", "recipes/tiny_demo.toml", "--objective.alhpa", "1"),
        ("make", "demos"),
        ("python", "-m", "benchmarks.nothing"),
        ("python", "-m", "benchmarks.stage_cost", "--updatse", "3"),
    ],
)
def test_a_slip_of_the_pen_would_be_found(words: tuple[str, ...]) -> None:
    assert problem(Printed("none", words))


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder in which the commands find what a clone has after ``make demo``: it has base weights as the trained."""
    (tmp_path / ".venv").symlink_to(Path(sys.prefix))
    (tmp_path / "checkpoints").symlink_to(ROOT / "checkpoints")
    for name in ("examples", "recipes"):  # copies, for commands write beside them
        shutil.copytree(ROOT / name, tmp_path / name)
    weights = tmp_path / "runs" / "demo" / "weights"
    weights.mkdir(parents=True)
    (weights / "final.safetensors").symlink_to(ROOT / "checkpoints" / "tiny_signs" / "policy.safetensors")
    return tmp_path


def pasted(page: Path, beginning: str, folder: Path, more: str = "") -> str:
    """Run the block of a page that begins so, as it is printed; ``more`` is added to its last command."""
    (block,) = [block.strip() for block in blocks(page) if block.strip().startswith(beginning)]
    return run(block + more, folder)


def run(command: str, folder: Path) -> str:
    done = subprocess.run(
        ["bash", "-ec", command], cwd=folder, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_tutorials_picture_is_drawn_and_scored_by_both_rewards(clone: Path) -> None:
    assert "sign.png" in pasted(TUTORIAL, ".venv/bin/varl generate", clone)
    for beginning in (".venv/bin/varl score sign.png --reward ocr", ".venv/bin/varl score sign.png --reward examples"):
        assert re.search(r"sign\.png.*\d\.\d", pasted(TUTORIAL, beginning, clone))


@pytest.mark.parametrize(
    ("page", "beginning"),
    [(TUTORIAL, ".venv/bin/varl demo --recipe examples/brightness"), (OWN_REWARD, "varl demo --recipe brightness")],
    ids=["tutorial", "own_reward"],
)
def test_a_run_that_takes_minutes_says_what_it_would_do(
    page: Path, beginning: str, clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.prefix) / 'bin'}:/usr/bin:/bin")
    folder = clone / "examples" if page == OWN_REWARD else clone
    assert "brightness" in pasted(page, beginning, folder, " --dry-run")


def test_own_prompts_are_looked_at_as_printed(clone: Path) -> None:
    for name in ("mine", "mine_held_out"):
        (clone / f"{name}.jsonl").write_text(json.dumps({"prompt": f"a sign of {name} that says 'OPEN'"}) + "\n")
    assert "from mine.jsonl" in pasted(OWN_PROMPTS, ".venv/bin/varl train", clone)


def test_the_prompts_that_are_encoded_are_those_of_the_recipe_that_is_trained() -> None:
    commands = [command.words for command in printed(ROOT / "docs" / "infinity.md")]
    (encoded,) = [words for words in commands if words[:2] == ("varl", "encode")]
    trained = [words for words in commands if words[:2] == ("varl", "train")]
    assert trained and all("--local-services" in words for words in trained)
    for words in trained:
        prompts = load_recipe(ROOT / words[2]).prompts
        assert {str(prompts.train), str(prompts.held_out)} <= set(encoded)


@pytest.mark.parametrize(
    ("kind", "data", "content"),
    [
        ("lines", "flow_grpo/dataset/ocr/train.txt", "a sign that says 'OPEN'\n"),
        ("csv", "mine.csv", "prompt\na sign that says 'OPEN'\n"),
        ("folder", "captions/one.txt", "a sign that says 'OPEN'"),
    ],
)
def test_own_prompts_are_converted_as_printed(kind: str, data: str, content: str, clone: Path) -> None:
    (clone / data).parent.mkdir(parents=True, exist_ok=True)
    (clone / data).write_text(content)
    (line,) = [line for block in blocks(OWN_PROMPTS) for line in block.splitlines() if f"varl prompts {kind} " in line]
    run(line, clone)
    (prompt,) = map(json.loads, (clone / line.split()[-1]).read_text().splitlines())
    assert prompt["prompt"] == "a sign that says 'OPEN'"
