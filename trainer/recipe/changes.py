"""What a run is made of, and whether a recipe that goes on with it is still the same one."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from varl.policy.lora import base_state
from varl.trainer.recipe.config import Recipe
from varl.trajectories.prompt_tables import texts_of
from varl.trajectories.weight_files import file_digest, tensors_digest

# Keys that decide where and how long a run goes and what it leaves behind, but none of its numbers.
FREE = (
    "run.dir",
    "run.updates",
    "rollout.redis",
    "rollout.group_timeout_s",
    "checkpoint.",
    "metrics.",
    "optimizer.recompute",
)


class RecipeChangedError(RuntimeError):
    """The run directory holds a run of another recipe; the message names every key that differs, with both values."""


def module_digest(module: torch.nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of a module's weights, adapters left out."""
    return tensors_digest(base_state(module))


def inputs(recipe: Recipe, reference: torch.nn.Module) -> dict[str, str]:
    """Digests of what a recipe only names.

    The base model, which is the first reference policy, the training prompts and own rewards.
    """
    rewards = {
        f"reward {reward.name}": file_digest(reward.file)
        for reward in recipe.rollout.rewards
        if reward.file is not None
    }
    return {"model": module_digest(reference), "prompts": _prompts_digest(recipe.prompts.train), **rewards}


def _prompts_digest(path: Path) -> str:
    """SHA-256 of a prompt file, or over names and contents of a folder's texts."""
    if not path.is_dir():
        return file_digest(path)
    lines = (f"{file.name} {file_digest(file)}\n" for file in texts_of(path))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def recipe_changes(config: Path, recipe: Recipe) -> list[str]:
    """Keys in which ``recipe`` differs from the one of a run directory's config.toml, as "key: old -> new".

    A key that the older file lacks had its default. Raises ValueError where the file is no recipe.
    """
    return differences(decisive(read_resolved(config)), decisive(recipe))


def read_resolved(config: Path) -> Recipe:
    """The recipe of a run directory's config.toml, without a look at the environment; raises OSError and ValueError."""
    settings = tomllib.loads(config.read_text(encoding="utf-8"))
    if settings.get("parallel", {}).pop("recompute", False):  # where runs of before optimizer.recompute have it
        settings.setdefault("optimizer", {})["recompute"] = "always"
    return Recipe.model_validate(settings)


def decisive(recipe: Recipe) -> dict[str, Any]:
    """The settings that decide a run's numbers, by dotted name."""
    return {key: value for key, value in leaves(recipe).items() if _matters(key)}


def leaves(recipe: Recipe) -> dict[str, object]:
    """Every setting by its dotted name."""
    return dict(_flat(recipe.model_dump(mode="json")))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Every key whose value differs, as "key: old -> new"; a missing one is "(absent)"."""
    keys = sorted(old.keys() | new.keys())
    return [f"{k}: {old.get(k, '(absent)')!r} -> {new.get(k, '(absent)')!r}" for k in keys if old.get(k) != new.get(k)]


def _matters(key: str) -> bool:
    return not key.startswith(FREE) and not (key.startswith("rollout.rewards.") and key.endswith(".address"))


def _flat(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    """Leaves of nested tables and lists by dotted name."""
    if isinstance(value, Mapping):
        children = value.items()
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        children = {str(index): entry for index, entry in enumerate(value)}.items()
    else:
        yield name, value
        return
    for key, child in children:
        yield from _flat(child, f"{name}.{key}" if name else str(key))
