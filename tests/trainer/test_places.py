"""Rewards and files of a recipe: where they are found, and what is started for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from varl.trainer.local_services import local_services
from varl.trainer.recipe.config import load_recipe

OWN = '[run]\ndir = "runs"\n[prompts]\ntrain = "p.jsonl"\n[[rollout.rewards]]\nname = "own"\nserve = "own.py:Own"\n'


def test_files_beside_the_recipe_come_first_then_the_working_directory_then_what_varl_brings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, home = tmp_path / "work", tmp_path / "home"
    for place in (work, home):
        place.mkdir()
        (place / "own.py").touch()
    (work / "p.jsonl").touch()
    (home / "r.toml").write_text(OWN)
    monkeypatch.chdir(work)
    recipe = load_recipe("../home/r.toml")
    assert recipe.rollout.rewards[0].serve == f"{home / 'own.py'}:Own"
    assert recipe.prompts.train == Path("p.jsonl")
    assert (recipe.model.dir / "config.json").is_file()  # checkpoints/tiny, from the outside
    monkeypatch.chdir(home)
    assert load_recipe("r.toml").rollout.rewards[0].serve == "own.py:Own"


def test_an_import_path_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(OWN.replace("own.py:Own", "my.rewards:Own"))
    assert load_recipe(tmp_path / "r.toml").rollout.rewards[0].serve == "my.rewards:Own"


@pytest.mark.parametrize("line", ['serve = "a.py:A"\naddress = "host:1"', 'serve = "a.py"', 'address = "host"'])
def test_a_reward_has_one_place(tmp_path: Path, line: str) -> None:
    (tmp_path / "r.toml").write_text(f'[[rollout.rewards]]\nname = "own"\n{line}\n')
    with pytest.raises(ValueError, match=r"rollout\.rewards"):
        load_recipe(tmp_path / "r.toml")


@pytest.mark.parametrize(
    ("line", "says"), [("", "'own' is neither ocr nor hpsv3"), ('serve = "a.py:A"', "there is no file a.py")]
)
def test_what_cannot_be_started_is_said_before_anything_is(tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / "r.toml").write_text(f'[run]\ndir = "{tmp_path}/runs"\n[[rollout.rewards]]\nname = "own"\n{line}\n')
    with pytest.raises(ValueError, match=says), local_services(load_recipe(tmp_path / "r.toml")):
        pass
    assert not (tmp_path / "runs").exists()
