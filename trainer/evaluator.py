"""The evaluations that a recipe asks for: always the same held-out prompts and seeds."""

from __future__ import annotations

from collections.abc import Callable

from varl.evaluation.estimates import Estimate
from varl.evaluation.evaluate import EvalSettings, evaluate
from varl.policy.base import Layout
from varl.trainer.recipe.config import Recipe
from varl.trainer.rollouts.jobs import PublishedWeights
from varl.trajectories.collect import Patience
from varl.trajectories.prompts import PromptSpec, load_prompts
from varl.trajectories.queue import RunQueue

MOST_PROMPTS = 512


def held_out_prompts(recipe: Recipe, count: int | None) -> list[PromptSpec]:
    """The first ``count`` held-out prompts; None: all, up to MOST_PROMPTS.

    Raises:
        ValueError: the file has fewer than ``count``.
    """
    prompts = load_prompts(recipe.prompts.held_out)
    if count is None:
        return prompts[:MOST_PROMPTS]
    if len(prompts) < count:
        raise ValueError(f"{count} held-out prompts are asked for, but {recipe.prompts.held_out} has {len(prompts)}")
    return prompts[:count]


def eval_settings(recipe: Recipe, layout: Layout, pictures: int = 0) -> EvalSettings:
    """Settings of every evaluation of a run.

    ``layout`` is the policy's, ``pictures`` the prompts whose first image is kept.
    """
    return EvalSettings(
        run_id=recipe.run.name,
        layout=layout,
        seed=recipe.evaluation.seed,
        group_size=recipe.evaluation.images_per_prompt,
        sampling=recipe.evaluation.sampling.params(),
        # A reward that may be absent is in no evaluation: two of them must not differ in what they are made of.
        rewards={reward.name: reward.weight for reward in recipe.rollout.rewards if reward.required},
        patience=Patience(recipe.rollout.group_timeout_s, recipe.rollout.max_attempts),
        pictures=pictures,
    )


def evaluator(recipe: Recipe, queue: RunQueue, layout: Layout) -> Callable[[PublishedWeights], dict[str, float]]:
    """A function from weights to their metrics on the first held-out prompts.

    The loop calls it every ``evaluation.every`` updates.

    Raises:
        ValueError: the held-out file has fewer prompts than ``evaluation.prompts``.
    """
    settings = eval_settings(recipe, layout)
    prompts = held_out_prompts(recipe, recipe.evaluation.prompts) if recipe.evaluation.every else []

    def metrics(weights: PublishedWeights) -> dict[str, float]:
        found = evaluate(queue, prompts, settings, weights.address, weights.version, "train", lambda done, total: None)
        figures = {name: value for measure, one in found.estimates().items() for name, value in _metrics(measure, one)}
        return figures | {"eval/failures": float(len(found.failed))}

    return metrics


def _metrics(measure: str, found: Estimate) -> list[tuple[str, float]]:
    return [(f"eval/{measure}", found.value), (f"eval/{measure}_se", found.error)]
