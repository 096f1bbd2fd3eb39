"""Memory of each process of a trainer that torchrun spreads over several devices (varl.trainer.parallel.mesh)."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from varl.policy.base import Shardable, ShardUnits
from varl.policy.load import load_blank, torch_dtype
from varl.trainer.recipe.config import Recipe
from varl.trainer.recipe.size.size import Memory, measure_parameters, trainer_memory
from varl.trainer.recipe.trained import choose_trained

ADDED = 4  # bytes a gradient while it is added over processes, which is done in float32


def trainer_name(ranks: int) -> str:
    """What has the memory: the trainer, or each of its ranks."""
    return "the trainer" if ranks == 1 else f"each of {ranks} ranks of the trainer"


def memory_of_trainer(recipe: Recipe, prompt: str, ranks: int) -> Memory:
    """Bytes of the trainer by part: of one process alone, or of each rank that torchrun starts."""
    by_torchrun = ranks > 1 or recipe.parallel.compute_dtype != "same"
    return rank_memory(recipe, prompt, ranks) if by_torchrun else trainer_memory(recipe, prompt)


def rank_memory(recipe: Recipe, prompt: str, ranks: int) -> Memory:
    """Bytes of each rank by part, in the stage that takes most.

    Spread evenly are the weights of policy and reference, gradients, moments and averages. Gathered at once are what
    lies outside of the blocks, of both models, and two blocks, the one at work and the next one; a gradient is whole,
    once more in float32, until it is added up. Before anything is spread, each rank loads both models whole.
    """
    alone, number = trainer_memory(recipe, prompt), _compute_bytes(recipe)
    models = 2 if alone["reference"] else 1
    frozen = 4 * measure_parameters(recipe).frozen
    spread = ("adapters", "gradients", "AdamW", "average")
    outside, block, gradient = _units(recipe)
    found = {
        "weights": -(-(alone["weights"] - frozen) // ranks),
        "reference": -(-(alone["reference"] - (models - 1) * frozen) // ranks),
        **{name: -(-alone[name] // ranks) for name in spread},
        "tokenizers": models * frozen,
        "gathered": number * (models * outside + 2 * block),
        "gradients to be added up": (number + ADDED) * gradient,
        "activations": trainer_memory(_computed(recipe), prompt)["activations"],
    }
    passing = sum(found[name] for name in ("gathered", "gradients to be added up", "activations"))
    found["a step, beyond a pass"] = max(0, alone["AdamW"] // 2 // ranks - passing)
    loaded = alone["weights"] + alone["adapters"] + alone["reference"]
    return found | {"loading, beyond all that": max(0, loaded - sum(found.values()))}


def _units(recipe: Recipe) -> tuple[int, int, int]:
    """Numbers of parameters: outside of the blocks, of the largest block, and the most trained ones of either."""
    policy = load_blank(recipe.model.dir, recipe.model.dtype)
    choose_trained(policy, recipe.model)
    units = policy.shard_units() if isinstance(policy, Shardable) else ShardUnits([])
    inside = {one for block in units.blocks for one in block.parameters()}
    outside = [one for one in policy.module.parameters() if one not in inside]
    blocks = [list(block.parameters()) for block in units.blocks]
    trained = max(_count(one for one in unit if one.requires_grad) for unit in (outside, *blocks))
    return _count(outside), max(map(_count, blocks), default=0), trained


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(one.numel() for one in parameters)


def _compute_bytes(recipe: Recipe) -> int:
    return torch_dtype(_computed(recipe).model.dtype).itemsize


def _computed(recipe: Recipe) -> Recipe:
    """The recipe with weights of the type in which it computes."""
    dtype = recipe.model.dtype if recipe.parallel.compute_dtype == "same" else recipe.parallel.compute_dtype
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"dtype": dtype})})
