"""The files that docs/containers.md and k8s/README.md print for a run of one's own: taken by what reads them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml

from tests.support.k8s_rig import find, kubectl
from tests.support.paths import ROOT
from varl.services.reward.settings import RewardSettings
from varl.services.serving.settings import parse_settings
from varl.trainer.recipe.config import load_recipe


def block(page: str, language: str, contains: str) -> str:
    text = (ROOT / page).read_text(encoding="utf-8")
    found: str
    (found,) = [one for one in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL) if contains in one]
    return found


def test_the_service_of_an_own_reward_is_told_what_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = yaml.safe_load(block("docs/containers.md", "yaml", "brightness"))["services"]
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert own["brightness"]["image"] == compose["services"]["gateway"]["image"]
    assert set(own["brightness"]["networks"]) <= compose["networks"].keys()
    assert own["rollout"]["environment"].keys() <= compose["services"]["rollout"]["environment"].keys()
    place, *flags = own["brightness"]["command"]
    shutil.copy(ROOT / "examples" / "brightness.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert parse_settings(RewardSettings, [place.removeprefix("/own/"), *flags]).grpc_port == 50051


def test_trainer_and_workers_see_the_same_files() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    mounts = [volume for name in ("trainer", "rollout") for volume in services[name]["volumes"] if "/own" in volume]
    assert mounts == ["${OWN:-./examples}:/own:ro"] * 2
    base = services["rollout"]["environment"]["VARL_ROLLOUT_MODEL_DIR"]
    assert base == f"${{MODEL_DIR:-/app/{load_recipe(ROOT / 'recipes/tiny_both.toml').model.dir}}}"


def test_the_printed_recipe_finds_what_lies_beside_it(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path, dirs_exist_ok=True)
    shutil.copytree(ROOT / "checkpoints" / "tiny_signs", tmp_path / "model")
    (tmp_path / "recipe.toml").write_text(block("docs/containers.md", "toml", "held_out"))
    recipe = load_recipe(tmp_path / "recipe.toml")
    assert (recipe.model.dir, recipe.prompts.train) == (tmp_path / "model", tmp_path / "prompts.jsonl")


def test_the_printed_overlay_changes_recipe_model_and_images() -> None:
    folder = ROOT / "build" / "own-overlay"  # kubectl refuses resources that are not below the overlay or beside it
    folder.mkdir(parents=True, exist_ok=True)
    text = block("k8s/README.md", "yaml", "my-rollout").replace("../k8s/base", "../../k8s/base")
    (folder / "kustomization.yaml").write_text(text)
    objects = list(yaml.safe_load_all(kubectl("kustomize", str(folder))))
    config, base = find(objects, "ConfigMap", "varl")["data"], yaml.safe_load_all(kubectl("kustomize", "k8s/base"))
    assert config.keys() == find(list(base), "ConfigMap", "varl")["data"].keys()
    assert (config["run-id"], config["recipe"]) == ("mine", "/own/recipe.toml")
    (worker,) = find(objects, "Deployment", "rollout")["spec"]["template"]["spec"]["containers"]
    assert worker["image"] == "registry.example/my-rollout:1"
    (model,) = [entry["value"] for entry in worker["env"] if entry["name"] == "VARL_ROLLOUT_MODEL_DIR"]
    assert model == "/own/model" and len(worker["env"]) > 5
