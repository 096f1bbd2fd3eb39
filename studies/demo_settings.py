"""What ``varl demo`` is told, and the recipe that follows from it."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, CliImplicitFlag, SettingsConfigDict

from varl.trainer.evaluator import MOST_PROMPTS
from varl.trainer.recipe.config import Recipe, load_recipe
from varl.trainer.recipe.sections import Minutes, Number, Seed


class DemoSettings(BaseSettings):
    """Trains by a recipe with everything it needs on this machine, and shows what that changed on held-out prompts."""

    model_config = SettingsConfigDict(
        env_prefix="VARL_DEMO_",
        extra="forbid",
        frozen=True,
        cli_prog_name="python -m varl.studies.demo",
        cli_kebab_case=True,
        cli_hide_none_type=True,
    )

    recipe: Path = Field(default=Path("recipes/tiny_demo.toml"), description="TOML file of the trainer's settings.")
    run_dir: Path = Field(
        default=Path("runs/demo"), description="Where everything is left; an earlier run there is moved aside."
    )
    seed: Seed | None = Field(
        default=None, description="Seed of the training run; default: the recipe's. The evaluations' seed stays."
    )
    prompts: Number | None = Field(
        default=None,
        description=f"Held-out prompts of both evaluations; default: all of the recipe's, up to {MOST_PROMPTS}.",
    )
    pictures: Number = Field(default=12, description="Prompts that the report shows before and after.")
    minutes: Minutes | None = Field(
        default=None, description="Train for fewer updates where the recipe's would take longer than this."
    )
    updates: Number | None = Field(default=None, description="Number of updates; default: the recipe's.")
    local_services: CliImplicitFlag[bool] = Field(
        default=True,
        description="Start Redis, the reward services and a worker here; "
        "off: use those that serve the Redis of REDIS_URL.",
    )
    resume: CliImplicitFlag[bool] = Field(
        default=False, description="Go on with an unfinished run in run-dir, and leave a finished one as it is."
    )
    dry_run: CliImplicitFlag[bool] = Field(
        default=False, description="Print the resolved recipe and what would run, then stop."
    )


def demo_recipe(settings: DemoSettings) -> Recipe:
    """The recipe with what the command line says of the run: its directory, seed and length."""
    given = {
        "dir": settings.run_dir.parent,
        "name": settings.run_dir.name,
        "seed": settings.seed,
        "updates": settings.updates,
    }
    flags = [(f"--run.{name}", str(value)) for name, value in given.items() if value is not None]
    return load_recipe(settings.recipe, [part for flag in flags for part in flag])
