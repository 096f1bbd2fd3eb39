"""What a run by a recipe would do and take, and whether the files that it names are there; nothing is started."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from varl.launch.resources import MissingFilesError
from varl.launch.rewards import SYNTHETIC_NOTE
from varl.trainer.disk.wandb_run import NOT_INSTALLED, is_installed
from varl.trainer.recipe.config import Recipe
from varl.trainer.recipe.describe import describe, to_toml
from varl.trainer.recipe.sections import ModelSettings, PromptSettings
from varl.trainer.recipe.size.table import describe_size


def dry_run(recipe: Recipe) -> str:
    """The resolved recipe as TOML and, as comments, what would run.

    Raises MissingFilesError where a file that it names is absent.
    """
    check_files(recipe)
    notes = SYNTHETIC_NOTE if any(reward.is_synthetic for reward in recipe.rollout.rewards) else ""
    return to_toml(recipe) + "\n" + as_comments(describe(recipe)) + as_comments(notes)


def dry_run_with_sizes(recipe: Recipe, device_bytes: int | None, ranks: int = 1) -> str:
    """``dry_run`` and what the run takes, which is found in seconds by running the model without values.

    device_bytes: memory of the device that the trainer and a rollout worker have to fit, each alone. ranks: over how
    many such devices torchrun spreads the trainer.

    Raises:
        MissingFilesError: a file that it names is absent.
        varl.trainer.recipe.size.fit.DeviceMemoryError: it does not fit the device.
        ValueError: the model's config.json or the prompts do not fit.
    """
    return dry_run(recipe) + as_comments(describe_size(recipe, device_bytes, ranks))


def as_comments(text: str) -> str:
    """The lines as comments of a TOML file."""
    return "".join(f"# {line}\n" for line in text.splitlines())


def check_files(recipe: Recipe) -> None:
    """Look for the model's folder with its config.json, the prompt files, the rewards' own code and the credentials.

    And, where the recipe wants it, for the package wandb.

    Raises:
        MissingFilesError: one of them is absent.
    """
    problems = [
        *_model(recipe.model),
        *_prompts(recipe.prompts),
        *(line for name, path in _named(recipe) for line in _file(name, path)),
    ]
    if recipe.metrics.wandb and not is_installed():
        problems.append(NOT_INSTALLED)
    if problems:
        raise MissingFilesError("\n".join(problems))


def _model(model: ModelSettings) -> Iterator[str]:
    folder = model.dir
    if not folder.is_dir():
        yield f"model.dir: there is no folder {folder}"
    elif not model.plugin and not (folder / "config.json").is_file():
        yield f"model.dir: {folder} holds no config.json, so it is no model"


def _prompts(prompts: PromptSettings) -> Iterator[str]:
    for name, path in (("train", prompts.train), ("held_out", prompts.held_out)):
        if not path.is_dir():
            yield from _file(f"prompts.{name}", path)


def _named(recipe: Recipe) -> Iterator[tuple[str, Path]]:
    """Every other file that the recipe names, by its setting."""
    for index, reward in enumerate(recipe.rollout.rewards):
        if reward.file is not None:
            yield f"rollout.rewards.{index}.serve", reward.file
    for name in ("redis_password_file", "redis_ca_file", "redis_cert_file", "redis_key_file"):
        path: Path | None = getattr(recipe.rollout, name)
        if path is not None:
            yield f"rollout.{name}", path


def _file(name: str, path: Path) -> Iterator[str]:
    if not path.is_file():
        yield f"{name}: there is no file {path}"
