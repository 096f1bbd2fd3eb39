"""Rewards and files of a recipe: where they are found, and what is started for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.paths import ROOT
from varl.launch.rewards import PREFERENCE_MODEL, SYNTHETIC_NOTE
from varl.launch.supervisor import Supervisor
from varl.studies import demo
from varl.trainer import __main__ as trainer
from varl.trainer.local_services import _rewards, local_services
from varl.trainer.recipe.config import load_recipe
from varl.trainer.recipe.dry_run import dry_run

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


def test_a_reward_is_started_by_its_import_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my").mkdir()
    (tmp_path / "my" / "rewards.py").write_text((ROOT / "examples" / "brightness.py").read_text())
    (tmp_path / "r.toml").write_text(OWN.replace("own.py:Own", "my.rewards:Brightness"))
    monkeypatch.chdir(tmp_path)
    with Supervisor(tmp_path / "logs") as supervisor:
        ready = supervisor.start("own", _rewards(load_recipe("r.toml"), 1)["own"])
    assert ready["grpc_port"] > 0


MISSING = (
    ("", "name: 'own' is neither ocr nor hpsv3"),
    ('serve = "a.py:A"', "serve: 'a.py:A': there is no file a.py"),
    ('serve = "no_package.rewards:A"', "serve: 'no_package.rewards' cannot be imported: "),
    ('serve = "varl.services.clip.nothing:A"', "serve: there is no module 'varl.services.clip.nothing'"),
    ('serve = "varl.services.clip.rewards:ClipSkore"', "there is no ClipSkore in "),
    ('serve = "varl/services:A"', "is neither a file that ends in .py nor an import path"),
)


@pytest.mark.parametrize(("line", "says"), MISSING)
def test_what_cannot_be_started_is_said_before_anything_is(tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / "r.toml").write_text(f'[run]\ndir = "{tmp_path}/runs"\n[[rollout.rewards]]\nname = "own"\n{line}\n')
    with pytest.raises(ValueError, match=says), local_services(load_recipe(tmp_path / "r.toml")):
        pass
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("line", "says"), MISSING)
def test_a_dry_run_refuses_what_cannot_be_started(
    tmp_path: Path, line: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "r.toml")
    Path(path).write_text(f'[[rollout.rewards]]\nname = "own"\n{line}\n')
    for main, arguments in ((trainer.main, [path, "--local-services"]), (demo.main, ["--recipe", path])):
        assert main([*arguments, "--dry-run"]) == 2
        assert says in capsys.readouterr().err


def test_a_reward_that_another_worker_knows_may_have_any_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.toml"
    path.write_text('[[rollout.rewards]]\nname = "own"\n')
    assert demo.main(["--recipe", str(path), "--no-local-services", "--dry-run"]) == 0
    assert trainer.main([str(path), "--dry-run"]) == 0
    assert "1 own" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "synthetic"),
    [
        ("", True),
        ('arguments = ["--max-batch", "4"]', True),
        ('arguments = ["--checkpoint", "mine"]', False),
        ('arguments = ["--hub"]', False),
        ('address = "127.0.0.1:50051"', False),
    ],
)
def test_the_synthetic_preference_model_is_named(tmp_path: Path, line: str, synthetic: bool) -> None:
    (tmp_path / "r.toml").write_text(f'[[rollout.rewards]]\nname = "hpsv3"\n{line}\n')
    recipe = load_recipe(tmp_path / "r.toml")
    assert (f"# {SYNTHETIC_NOTE}" in dry_run(recipe)) is synthetic
    assert any(PREFERENCE_MODEL in command for command in _rewards(recipe, 1).values()) is synthetic


@pytest.mark.parametrize("name", ["infinity_125m_hpsv3", "infinity_125m_hpsv3_guided", "infinity_2b_hpsv3"])
def test_no_large_model_is_tuned_on_the_synthetic_preference_model(name: str) -> None:
    assert not any(reward.is_synthetic for reward in load_recipe(ROOT / f"recipes/{name}.toml").rollout.rewards)
