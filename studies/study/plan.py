"""What a study compares, read from its TOML file: arms that differ from one recipe, seeds, budget, contrasts."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from varl.evaluation.measures.chosen import require_measure
from varl.evaluation.samplers import Sampler, parse_sampler
from varl.launch.resources import find
from varl.policy.base import SamplingParams
from varl.trainer.objectives.vmr import Stage
from varl.trainer.recipe.config import Recipe, located
from varl.trainer.recipe.places import locate
from varl.trainer.recipe.sections import MOST, Count, Name, Number, Positive, Section

Images = Annotated[int, Field(ge=1, le=1000 * MOST)]
Overrides = dict[str, Any]  # tables of a recipe


class Tuning(Section):
    """How an arm's learning rate is chosen: the same values for every arm, on a seed and prompts of their own."""

    learning_rates: tuple[Positive, ...] = Field(min_length=1, description="tried for every arm")
    seed: Count = Field(description="of the training runs that are compared; none of the study's seeds")
    held_out: Path = Field(description="prompts that the choice is read on; none of the study's held-out prompts")
    images: Images | None = Field(default=None, description="scored images of such a run; None: the study's")


class Controls(Section):
    """What costs no training: the base with other samplers, and the best of several temperatures by tuning prompts."""

    samplers: tuple[str, ...] = Field(default=(), description="as in evaluation.samplers")
    temperatures: tuple[Positive, ...] = Field(default=(), description="one of them is chosen on tuning prompts")


class Arm(Section):
    """One way to train: tables of the recipe that replace those of the study's."""

    title: str = Field(default="", description="its name in the table")
    recipe: Overrides = Field(default_factory=dict, description="what differs from the study's recipe")
    learning_rate: Positive | None = Field(default=None, description="not tuned: this one")
    seeds: tuple[Count, ...] | None = Field(default=None, description="fewer than the study's, for a sweep")


class Study(Section):
    """One study."""

    name: Name
    recipe: Path = Field(description="TOML file that every arm begins with")
    seeds: tuple[Count, ...] = Field(min_length=1, description="training seeds, common to the arms")
    images: Images = Field(description="scored images of each run: every arm is given as many")
    prompts: Number = Field(default=512, description="held-out prompts that the end of a run is read on")
    measure: str = Field(default="reward", description="the figure that arms are compared by")
    samplers: tuple[str, ...] = Field(default=("greedy",), description="other samplers of the reading at the end")
    tuning: Tuning | None = None
    controls: Controls = Controls()
    arms: dict[Name, Arm] = Field(min_length=1)
    contrasts: tuple[tuple[Name, Name], ...] = Field(default=(), description="planned: first minus second arm")

    @model_validator(mode="after")
    def _parts_fit(self) -> Study:
        for name in {name for pair in self.contrasts for name in pair} - self.arms.keys():
            raise ValueError(f"contrasts: there is no arm {name!r}")
        if self.tuning and self.tuning.seed in self.seeds:
            raise ValueError(f"tuning.seed: {self.tuning.seed} is one of the study's seeds")
        if self.controls.temperatures and not self.tuning:
            raise ValueError("controls.temperatures: one is chosen on tuning prompts, and there is no tuning")
        for name, arm in self.arms.items():
            if strangers := set(arm.seeds or ()) - set(self.seeds):
                raise ValueError(f"arms.{name}.seeds: {', '.join(map(str, sorted(strangers)))} not among the study's")
        for text in (*self.samplers, *self.controls.samplers):
            parse_sampler(text, SamplingParams())
        return self


@dataclass(frozen=True)
class Job:
    """One training run of a study: an arm at a learning rate and a seed."""

    arm: str
    learning_rate: float
    seed: int
    tuning: bool

    @property
    def name(self) -> str:
        """Its folder below the arm's."""
        return f"tune-{self.learning_rate:g}" if self.tuning else f"seed-{self.seed}"


def load_study(path: Path) -> Study:
    """Read a study and check every arm's recipe.

    Raises:
        OSError: a file cannot be read.
        ValueError: a table or a value is wrong (pydantic.ValidationError names it), or an arm makes no recipe.
    """
    file = find(path)
    study = _located(Study(**tomllib.loads(file.read_text(encoding="utf-8"))), file.parent)
    for name in study.arms:
        try:
            job = Job(name, study.arms[name].learning_rate or 1e-5, study.seeds[0], tuning=False)
            require_measure(study.measure, arm_recipe(study, job, Path()).rollout.evaluated())
        except ValueError as error:
            raise ValueError(f"arms.{name}: {error}") from error
    return study


def _located(study: Study, folder: Path) -> Study:
    """The study with its files found, beside its own first."""
    tuning = study.tuning and study.tuning.model_copy(update={"held_out": locate(study.tuning.held_out, folder)})
    return study.model_copy(update={"recipe": locate(study.recipe, folder), "tuning": tuning})


def arm_recipe(study: Study, job: Job, folder: Path) -> Recipe:
    """The recipe of one run, with as many updates as its share of images pays for."""
    table = merged(tomllib.loads(study.recipe.read_text(encoding="utf-8")), study.arms[job.arm].recipe)
    table = merged(
        table,
        {
            "run": {"name": job.name, "dir": str(folder / job.arm), "seed": job.seed},
            "optimizer": {"lr": job.learning_rate},
        },
    )
    if job.tuning and study.tuning:
        table = merged(table, {"prompts": {"held_out": str(study.tuning.held_out)}})
    recipe = located(Recipe.model_validate(table), study.recipe.parent)
    images = (study.tuning.images if job.tuning and study.tuning else None) or study.images
    return recipe.model_copy(update={"run": recipe.run.model_copy(update={"updates": updates_within(recipe, images)})})


def merged(table: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``table`` with ``changes``: tables are merged key by key, everything else is replaced."""
    result = dict(table)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def images_by_update(recipe: Recipe) -> Iterator[int]:
    """Images scored up to and with each update, without end."""
    total, update = 0, 0
    while True:
        stage = recipe.objective.stage(update)
        copies = recipe.rollout.continuations if stage is Stage.PREFIX else 1
        total += copies * recipe.rollout.prompts_per_update * recipe.rollout.group_size
        update += 1
        yield total


def updates_within(recipe: Recipe, images: int) -> int:
    """The most updates that score no more than ``images``; raises ValueError where not even one does."""
    for update, scored in enumerate(images_by_update(recipe)):
        if scored > images:
            if not update:
                raise ValueError(f"one update scores {scored} images, more than the budget of {images}")
            return update
    raise AssertionError  # the iterator has no end


def tuning_jobs(study: Study) -> list[Job]:
    """A run for every learning rate of every arm whose rate is tuned."""
    if study.tuning is None:
        return []
    return [
        Job(name, rate, study.tuning.seed, tuning=True)
        for name, arm in study.arms.items()
        if arm.learning_rate is None
        for rate in study.tuning.learning_rates
    ]


def main_jobs(study: Study, rates: Mapping[str, float]) -> list[Job]:
    """A run for every seed of every arm, seed by seed, so that a study that is cut off has comparable arms."""
    return [
        Job(name, rates[name], seed, tuning=False)
        for seed in study.seeds
        for name, arm in study.arms.items()
        if arm.seeds is None or seed in arm.seeds
    ]


def samplers_of(study: Study, default: SamplingParams) -> list[Sampler]:
    """The other samplers of a reading."""
    return [parse_sampler(text, default) for text in study.samplers]
