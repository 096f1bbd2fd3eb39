"""The recipe: everything that decides a run.

It is read from TOML, the environment (VARL_TRAINER_*) and flags; a later one wins.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import AliasChoices, ByteSize, Field, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    CliImplicitFlag,
    CliPositionalArg,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from varl.evaluation.measures.chosen import require_measure
from varl.launch.program import parse
from varl.launch.resources import MissingFilesError, find
from varl.trainer.recipe.places import locate_model, locate_prompts, locate_rewards
from varl.trainer.recipe.sections import (
    MOST_SMALL_DECAY,
    CheckpointSettings,
    EvaluationSettings,
    GuardSettings,
    MetricsSettings,
    ModelSettings,
    ObjectiveSettings,
    OptimizerSettings,
    ParallelSettings,
    PromptSettings,
    RolloutSettings,
    RunSettings,
)

EVALUATED = "eval/"  # before a measure's name in the metrics of a run


class BadRecipeError(ValueError):
    """A recipe's file cannot be read, or is no TOML; no second attempt will mend that."""


class Recipe(BaseSettings):
    """Settings of one run."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix="VARL_TRAINER_", env_nested_delimiter="__"
    )

    run: RunSettings = RunSettings()
    model: ModelSettings = ModelSettings()
    prompts: PromptSettings = PromptSettings()
    rollout: RolloutSettings = RolloutSettings()
    objective: ObjectiveSettings = ObjectiveSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    parallel: ParallelSettings = ParallelSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    guards: GuardSettings = GuardSettings()
    metrics: MetricsSettings = MetricsSettings()
    evaluation: EvaluationSettings = EvaluationSettings()

    @model_validator(mode="after")
    def _rewards_are_distinct(self) -> Recipe:
        names = [reward.name for reward in self.rollout.rewards]
        if len(set(names)) != len(names):
            raise ValueError(f"rollout.rewards names a reward twice: {names}")
        if not any(reward.required for reward in self.rollout.rewards):
            raise ValueError("rollout.rewards must have one that is required")
        return self

    @model_validator(mode="after")
    def _the_best_is_by_a_measure(self) -> Recipe:
        if best := self.checkpoint.best:
            try:
                require_measure(best.removeprefix(EVALUATED), self.rollout.evaluated())
            except ValueError as error:
                raise ValueError(f"checkpoint.best: {error}") from error
            if not best.startswith(EVALUATED):
                raise ValueError(f"checkpoint.best: {best!r} is a metric of evaluations as {EVALUATED}{best}")
        return self

    @model_validator(mode="after")
    def _moments_of_small_weights_move(self) -> Recipe:
        if self.model.dtype == "bfloat16" and not self.model.lora.rank and max(self.optimizer.betas) > MOST_SMALL_DECAY:
            raise ValueError(
                f"optimizer.betas: with model.dtype bfloat16 moments are in bfloat16, which rounds away what a step "
                f"changes at {self.optimizer.betas}; {MOST_SMALL_DECAY} is the most"
            )
        return self

    @model_validator(mode="after")
    def _the_base_is_the_reference_of_adapters(self) -> Recipe:
        if self.model.lora.rank and self.objective.kl_anchor != "initial":
            raise ValueError(
                "objective.kl_anchor: with model.lora.rank the reference is the base, so set it to initial"
            )
        return self


class _RecipeFile(PydanticBaseSettingsSource):
    """The TOML file that the command line names, below flags and environment."""

    def __call__(self) -> dict[str, Any]:
        path = self.current_state.get("recipe")
        if not path:
            return {}
        try:
            return tomllib.loads(find(path).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise MissingFilesError(f"recipe: there is no file {path}") from error
        except OSError as error:
            raise BadRecipeError(f"recipe: {path} cannot be read: {error}") from error
        except ValueError as error:  # neither UTF-8 nor TOML
            raise BadRecipeError(f"recipe: {path} is no TOML: {error}") from error

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Unused: the file is read whole."""
        return None, field_name, False


class Command(Recipe):
    """Trains a next-scale policy with GRPO, VMR, PANW and MP by a recipe, on running rollout workers and rewards."""

    model_config = SettingsConfigDict(cli_prog_name="python -m varl.trainer", cli_kebab_case=False, cli_avoid_json=True)

    recipe: CliPositionalArg[Path] = Field(description="TOML file of settings; flags override it")
    resume: Literal["auto", "never"] = Field(
        default="never",
        description="auto, or the bare flag: go on from the newest whole checkpoint, if any; "
        "never: refuse a run directory in use",
    )
    resume_changed: CliImplicitFlag[bool] = Field(
        default=False,
        validation_alias=AliasChoices("resume-changed", "resume_changed"),
        description="with --resume: go on although recipe, base model or prompts have changed since; "
        "the results then depend on when",
    )
    local_services: CliImplicitFlag[bool] = Field(
        default=False,
        validation_alias=AliasChoices("local-services", "local_services"),
        description="start the recipe's reward services, a rollout worker and, unless one is given, "
        "Redis on this machine for the run",
    )
    dry_run: CliImplicitFlag[bool] = Field(
        default=False,
        validation_alias=AliasChoices("dry-run", "dry_run"),
        description="print the resolved recipe, what would run and what memory, FLOPs and bytes it takes, then stop",
    )
    device_memory: ByteSize | None = Field(
        default=None,
        validation_alias=AliasChoices("device-memory", "device_memory"),
        description="with --dry-run: refuse what does not fit a device of this memory, such as 80GB or 24GiB, "
        "and name the settings to change",
    )
    ranks: int = Field(
        default=1,
        ge=1,
        le=10_000,
        description="with --dry-run: over how many devices torchrun will spread the trainer; its memory is then that "
        "of each",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags (put first by pydantic-settings), environment, recipe file."""
        return init_settings, env_settings, _RecipeFile(settings_cls)

    def settings(self) -> Recipe:
        """The recipe alone, without the flags of the command, its files found (``varl.trainer.recipe.places``)."""
        fields = {name: getattr(self, name) for name in Recipe.model_fields}
        return located(Recipe.model_construct(**fields), find(self.recipe).parent)


def located(recipe: Recipe, folder: Path) -> Recipe:
    """A recipe that was read in ``folder``, its files found (``varl.trainer.recipe.places``)."""
    return recipe.model_copy(
        update={
            "model": locate_model(recipe.model, folder),
            "prompts": locate_prompts(recipe.prompts, folder),
            "rollout": locate_rewards(recipe.rollout, folder),
        }
    )


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe; ``overrides`` are flags as on the command line, such as ["--optimizer.lr", "1e-4"].

    Raises:
        pydantic.ValidationError: an unknown key or a value out of range, by its dotted name.
        varl.launch.resources.MissingFilesError: there is no such recipe.
        BadRecipeError: it cannot be read, or is not TOML.
    """
    return parse_command([str(path), *overrides]).settings()


def parse_command(arguments: Sequence[str]) -> Command:
    """Command and recipe from command-line arguments.

    Raises as ``load_recipe`` does, and pydantic_settings.SettingsError: a bad flag.
    """
    return parse(Command, _with_resume_value(arguments))


def _with_resume_value(arguments: Sequence[str]) -> list[str]:
    """A bare --resume means --resume auto, wherever it stands."""
    bare = [
        argument == "--resume" and (not following or following[0] not in ("auto", "never"))
        for argument, following in ((argument, arguments[index + 1 :]) for index, argument in enumerate(arguments))
    ]
    return [
        part
        for argument, alone in zip(arguments, bare, strict=True)
        for part in ([argument, "auto"] if alone else [argument])
    ]
