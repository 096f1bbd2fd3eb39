"""A recipe in words: as TOML that reads back as the same recipe, and what a run by it would do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from varl.trainer.objectives.vmr import Stage
from varl.trainer.recipe.config import Recipe
from varl.trainer.recipe.sections import RewardSettings


def to_toml(recipe: Recipe) -> str:
    """The resolved recipe, every setting written out."""
    return "\n".join(_table(name, section) for name, section in recipe.model_dump(mode="json").items())


def _table(name: str, section: Mapping[str, Any]) -> str:
    """A TOML table, its sub-tables and its arrays of tables.

    JSON spells strings, numbers, booleans and their lists as TOML does.

    TOML has no null: a setting without a value is left out.
    """
    plain = {
        key: value
        for key, value in section.items()
        if not (value is None or isinstance(value, dict) or _is_tables(value))
    }
    text = f"[{name}]\n" + "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in plain.items())
    for key, value in section.items():
        if isinstance(value, dict):
            text += "\n" + _table(f"{name}.{key}", value)
        elif _is_tables(value):
            text += "".join("\n[" + _table(f"{name}.{key}", entry).replace("]\n", "]]\n", 1) for entry in value)
    return text


def _is_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def describe(recipe: Recipe) -> str:
    """What would run: how many updates of which stage, how many images, where it all goes."""
    rollout, objective = recipe.rollout, recipe.objective
    stages = [objective.stage(update) for update in range(recipe.run.updates)]
    groups = rollout.prompts_per_update * rollout.group_size
    lines = [
        f"run {recipe.run.name}: "
        f"{recipe.run.updates} updates into {recipe.run.dir / recipe.run.name}, model {recipe.model.dir}"
    ]
    for stage in Stage:
        images = groups * (rollout.continuations if stage is Stage.PREFIX else 1)
        if stage in stages:
            lines.append(
                f"  {stages.count(stage)} {stage.value} updates of {images} images each, "
                f"{stages.count(stage) * images} in all"
            )
    lines.append(
        f"  groups: {rollout.prompts_per_update} prompts x {rollout.group_size} "
        f"candidates an update from {recipe.prompts.train}"
    )
    lines.append(
        f"  rewards: {', '.join(f'{reward.weight:g} {reward.name}{_where(reward)}' for reward in rollout.rewards)}"
    )
    lines.append(
        f"  PANW alpha {objective.alpha:g}, masks {objective.mask_propagation}, "
        f"KL {objective.kl_beta:g} ({objective.kl_estimator})"
    )
    lora = recipe.model.lora
    if lora.rank:
        targets = ", ".join(lora.targets) or "all linear layers of the blocks"
        lines.append(f"  adapters of rank {lora.rank}, alpha {lora.alpha:g}, on {targets}; the base is the reference")
    return "\n".join(lines)


def _where(reward: RewardSettings) -> str:
    if reward.serve:
        return f" (of {reward.serve})"
    return f" (at {reward.address})" if reward.address else ""
