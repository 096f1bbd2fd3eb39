"""The evaluations that a recipe asks for: always the same held-out prompts and seeds."""

from __future__ import annotations

from collections.abc import Callable

from varl.evaluation.evaluate import EvalSettings, evaluate
from varl.policy.base import Layout
from varl.trainer.recipe.config import Recipe
from varl.trainer.rollouts.jobs import PublishedWeights
from varl.trajectories.collect import Patience
from varl.trajectories.prompts import PromptSpec, load_prompts
from varl.trajectories.queue import RunQueue


def held_out_prompts(recipe: Recipe, count: int) -> list[PromptSpec]:
    """The first ``count`` held-out prompts.

    Raises:
        ValueError: the file has fewer.
    """
    prompts = load_prompts(recipe.prompts.held_out)
    if len(prompts) < count:
        raise ValueError(f"{count} held-out prompts are asked for, but {recipe.prompts.held_out} has {len(prompts)}")
    return prompts[:count]


def eval_settings(recipe: Recipe, layout: Layout, pictures: int = 0) -> EvalSettings:
    """Settings of every evaluation of a run; ``layout`` is the policy's, ``pictures`` the prompts whose first image is kept."""
    return EvalSettings(
        run_id=recipe.run.name,
        layout=layout,
        seed=recipe.evaluation.seed,
        group_size=recipe.evaluation.images_per_prompt,
        sampling=recipe.evaluation.sampling.params(),
        # What was read is wanted of every evaluation, also where nothing is trained towards it. A reward that may be absent is in none:
        # two evaluations must not differ in what they are made of.
        rewards={"ocr": 0.0} | {reward.name: reward.weight for reward in recipe.rollout.rewards if reward.required},
        patience=Patience(recipe.rollout.group_timeout_s, recipe.rollout.max_attempts),
        pictures=pictures,
    )


def evaluator(recipe: Recipe, queue: RunQueue, layout: Layout) -> Callable[[PublishedWeights], dict[str, float]]:
    """A function from weights to their metrics on the first held-out prompts, for the loop to call every ``evaluation.every`` updates.

    Raises:
        ValueError: the held-out file has fewer prompts than ``evaluation.prompts``.
    """
    settings = eval_settings(recipe, layout)
    prompts = held_out_prompts(recipe, recipe.evaluation.prompts) if recipe.evaluation.every else []

    def metrics(weights: PublishedWeights) -> dict[str, float]:
        found = evaluate(queue, prompts, settings, weights.address, weights.version, "train", lambda done, total: None)
        accuracy, ned = found.word_accuracy(), found.ned()
        return {
            "eval/word_accuracy": accuracy.value,
            "eval/word_accuracy_se": accuracy.error,
            "eval/ned": ned.value,
            "eval/ned_se": ned.error,
            "eval/reward": found.reward().value,
            **{f"eval/reward/{name}": value for name, value in found.rewards().items()},
            "eval/failures": float(len(found.failed)),
        }

    return metrics
