"""The figures of a recipe: parameters, memory of worker and trainer by part, and what an update takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch

from varl.policy.base import cells, layout_of
from varl.policy.load import BlankPolicy, load_blank, torch_dtype
from varl.trainer.objectives.vmr import Stage
from varl.trainer.recipe.config import Recipe
from varl.trainer.recipe.sections import ModelSettings
from varl.trainer.recipe.size.messages import update_bytes
from varl.trainer.recipe.size.passes import DECODE_BATCH, SAMPLE_BATCH, decoding, drawing, teaching
from varl.trainer.recipe.trained import choose_trained
from varl.trajectories.prompts import PromptSpec

Memory = dict[str, int]  # bytes by part


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters: of the transformer, of what is trained, and of the frozen part, which is float32.

    What is trained is a part of the transformer, or adapters beside it.
    """

    all: int
    trained: int
    frozen: int


@dataclass(frozen=True)
class UpdateSize:
    """One update of a stage.

    tokens: sites whose tokens are trained. rollout_flops: sampling and decoding. trainer_flops: forward passes of
    policy and reference, and backward. message_bytes: of jobs and trajectories.
    """

    tokens: int
    rollout_flops: int
    trainer_flops: int
    message_bytes: int


def measure_parameters(recipe: Recipe) -> Parameters:
    """Count the parameters of the model folder's config.json, and those of the adapters that a recipe trains."""
    return _counted(recipe.model)


@cache
def _counted(model: ModelSettings) -> Parameters:
    policy = load_blank(model.dir, model.dtype)
    own = list(policy.module.parameters())
    choose_trained(policy, model)
    trained = [one for one in policy.module.parameters() if one.requires_grad]
    return Parameters(_count(own), _count(trained), _count(list(policy.tokenizer.parameters())))


def stages_of(recipe: Recipe) -> list[Stage]:
    """The stages that updates of the recipe have."""
    return recipe.objective.stages_within(recipe.run.updates)


def sequences_of(recipe: Recipe, stage: Stage, sample_batch: int = SAMPLE_BATCH) -> int:
    """Sequences of a group that a worker samples together."""
    copies = recipe.rollout.continuations if stage is Stage.PREFIX else 1
    return min(recipe.rollout.group_size, max(1, sample_batch // copies)) * copies


def rows_of(recipe: Recipe) -> int:
    """Candidates of one pass of the trainer."""
    group = recipe.rollout.group_size
    return min(recipe.optimizer.candidates_per_pass or group, group)


def worker_memory(recipe: Recipe, prompt: str, sample_batch: int = SAMPLE_BATCH) -> Memory:
    """Bytes of a rollout worker by part, in the stage that takes most.

    The cache lives while images are decoded, so that the larger of sampling and decoding comes on top of it.
    """
    policy, found = load_blank(recipe.model.dir, recipe.model.dtype), list[Memory]()
    adapters = 4 * measure_parameters(recipe).trained if recipe.model.lora.rank else 0
    pixels = decoding(policy, DECODE_BATCH).working
    for stage in stages_of(recipe):
        drawn = drawing(recipe, stage, prompt, sequences_of(recipe, stage, sample_batch))
        found.append({"keys and values of a group": drawn.cache, "sampling or decoding": max(drawn.working, pixels)})
    most = max(found, key=_total)
    return {"weights": _weights(policy, recipe), "adapters": adapters, **most}


def trainer_memory(recipe: Recipe, prompt: str) -> Memory:
    """Bytes of the trainer by part, in the stage that takes most."""
    policy, adapted = load_blank(recipe.model.dir, recipe.model.dtype), bool(recipe.model.lora.rank)
    number = 4 if adapted else torch_dtype(recipe.model.dtype).itemsize  # adapters are float32
    moment = min(number, 2) if recipe.optimizer.state_dtype == "bfloat16" else number
    count, weights = measure_parameters(recipe).trained, _weights(policy, recipe)
    activations = max(teaching(recipe, stage, prompt, rows_of(recipe)).activations for stage in stages_of(recipe))
    return {
        "weights": weights,
        "adapters": adapted * count * number,
        "reference": 0 if adapted else weights,  # adapters off, the base is the reference
        "gradients": count * number,
        "AdamW": 2 * count * moment,
        "average": 4 * count if recipe.optimizer.ema_decay else 0,
        "activations": activations,
        "a step, beyond activations": max(0, count * moment - activations),  # AdamW's roots, of all parameters at once
    }


def update_size(recipe: Recipe, stage: Stage, prompts: Sequence[PromptSpec]) -> UpdateSize:
    """What one update of a stage takes, all groups together, each with the longest prompt."""
    policy, prompt = load_blank(recipe.model.dir, recipe.model.dtype), longest(prompts)
    groups, group = recipe.rollout.prompts_per_update, recipe.rollout.group_size
    counts, split = cells(policy.grids), recipe.objective.split_scale
    sites = {Stage.FULL: counts, Stage.PREFIX: counts[:split], Stage.SUFFIX: counts[split:]}[stage]
    copies, sequences = recipe.rollout.continuations if stage is Stage.PREFIX else 1, sequences_of(recipe, stage)
    sampled = drawing(recipe, stage, prompt, sequences).flops * group * copies // sequences
    decoded = decoding(policy, 1).flops * group * copies
    first = next(update for update in range(recipe.run.updates) if recipe.objective.stage(update) is stage)
    return UpdateSize(
        tokens=groups * group * sum(sites),
        rollout_flops=groups * (sampled + decoded),
        trainer_flops=groups * _teaching_flops(recipe, stage, prompt),
        message_bytes=update_bytes(recipe, first, prompts, layout_of(policy)),
    )


def longest(prompts: Sequence[PromptSpec]) -> str:
    """The prompt with the most bytes."""
    return max((spec.prompt for spec in prompts), key=lambda prompt: len(prompt.encode()))


def _teaching_flops(recipe: Recipe, stage: Stage, prompt: str) -> int:
    whole, rest = divmod(recipe.rollout.group_size, rows_of(recipe))
    found = whole * teaching(recipe, stage, prompt, rows_of(recipe)).flops
    return found + (teaching(recipe, stage, prompt, rest).flops if rest else 0)


def _total(memory: Memory) -> int:
    return sum(memory.values())


def _weights(policy: BlankPolicy, recipe: Recipe) -> int:
    number = torch_dtype(recipe.model.dtype).itemsize
    return number * _count(list(policy.module.parameters())) + 4 * _count(list(policy.tokenizer.parameters()))


def _count(parameters: Sequence[torch.nn.Parameter]) -> int:
    return sum(one.numel() for one in parameters)
