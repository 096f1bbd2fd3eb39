"""The figures of a recipe in words, for --dry-run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from varl.policy.load import BLANK, architecture
from varl.trainer.objectives.vmr import Stage
from varl.trainer.recipe.config import Recipe
from varl.trainer.recipe.prompts import recipe_prompts
from varl.trainer.recipe.size.fit import check_fits
from varl.trainer.recipe.size.ranks import memory_of_trainer, trainer_name
from varl.trainer.recipe.size.size import (
    Memory,
    longest,
    measure_parameters,
    rows_of,
    stages_of,
    update_size,
    worker_memory,
)
from varl.trainer.recipe.size.units import amount, size_of
from varl.trajectories.prompts import PromptSpec


def describe_size(recipe: Recipe, device_bytes: int | None = None, ranks: int = 1) -> str:
    """Parameters, memory by part, and what an update of each stage takes; lines without an end.

    device_bytes: memory of the device that the worker and the trainer have to fit, each alone. ranks: over how many
    such devices torchrun spreads the trainer.

    Raises:
        varl.trainer.recipe.size.fit.DeviceMemoryError: one of them does not fit.
        ValueError: config.json or the prompts do not fit.
        OSError: they cannot be read.
    """
    if recipe.model.plugin or architecture(recipe.model.dir) not in BLANK:
        return "sizes: not known of a model that another package loads"
    prompts = recipe_prompts(recipe, recipe.prompts.train)
    if device_bytes is not None:
        check_fits(recipe, longest(prompts), device_bytes, ranks)
    return "\n".join(_lines(recipe, prompts, ranks))


def _lines(recipe: Recipe, prompts: Sequence[PromptSpec], ranks: int) -> Iterator[str]:
    counted, prompt = measure_parameters(recipe), longest(prompts)
    yield (
        f"parameters: {counted.all:,}, {counted.trained:,} of them trained; "
        f"{counted.frozen:,} more in the frozen tokenizer, which is float32"
    )
    yield f"memory of a rollout worker: {_parts(worker_memory(recipe, prompt))}"
    memory = _parts(memory_of_trainer(recipe, prompt, ranks))
    yield f"memory of {trainer_name(ranks)}, {rows_of(recipe)} candidates a pass: {memory}"
    yield from (_update(recipe, stage, prompts) for stage in stages_of(recipe))


def _update(recipe: Recipe, stage: Stage, prompts: Sequence[PromptSpec]) -> str:
    size = update_size(recipe, stage, prompts)
    return (
        f"a {stage.value} update: {size.tokens:,} trained tokens; "
        f"{amount(size.rollout_flops)}FLOP of rollouts, {amount(size.trainer_flops)}FLOP of training; "
        f"{size_of(size.message_bytes)} of messages without regions"
    )


def _parts(memory: Memory) -> str:
    listed = " + ".join(f"{name} {size_of(size)}" for name, size in memory.items() if size)
    return f"{size_of(sum(memory.values()))} = {listed}"
