"""Where the files are that a recipe names: beside it, else in the working directory, else among what varl brings."""

from __future__ import annotations

from pathlib import Path

from varl.launch.resources import find
from varl.trainer.recipe.sections import ModelSettings, PromptSettings, RewardSettings, RolloutSettings


def locate(path: Path, folder: Path) -> Path:
    """``path`` as it is found from the working directory.

    Beside the recipe in ``folder``, else as varl.launch.resources.find has it.
    """
    beside = folder / path
    elsewhere = not path.is_absolute() and folder.resolve() != Path.cwd()
    return beside.resolve() if elsewhere and beside.exists() else find(path)


def locate_model(model: ModelSettings, folder: Path) -> ModelSettings:
    """The base model's folder, found."""
    return model.model_copy(update={"dir": locate(model.dir, folder)})


def locate_prompts(prompts: PromptSettings, folder: Path) -> PromptSettings:
    """Both prompt files, found."""
    return prompts.model_copy(
        update={"train": locate(prompts.train, folder), "held_out": locate(prompts.held_out, folder)}
    )


def locate_rewards(rollout: RolloutSettings, folder: Path) -> RolloutSettings:
    """The files of rewards of one's own, found."""
    return rollout.model_copy(update={"rewards": tuple(_locate_reward(reward, folder) for reward in rollout.rewards)})


def _locate_reward(reward: RewardSettings, folder: Path) -> RewardSettings:
    file, name = reward.file, reward.serve.rpartition(":")[2]
    return reward if file is None else reward.model_copy(update={"serve": f"{locate(file, folder)}:{name}"})
