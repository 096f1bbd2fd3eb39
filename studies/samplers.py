"""One evaluation for several weights and samplers: what a gain is worth depends on how both sides are sampled."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from varl.evaluation.evaluate import evaluate
from varl.evaluation.results import Difference, Evaluation, difference
from varl.evaluation.samplers import Sampler
from varl.policy.base import layout_of
from varl.studies.stages import progress_bar
from varl.trainer.evaluator import eval_settings, held_out_prompts
from varl.trainer.local_services import local_services
from varl.trainer.recipe.config import Recipe
from varl.trainer.setup import load_policies, open_queue

BASE = "base"  # stands for the recipe's own model


@dataclass(frozen=True)
class SamplerReading:
    """One evaluation: of these weights ("base" or a file's path), sampled so."""

    weights: str
    sampler: Sampler
    evaluation: Evaluation


@dataclass(frozen=True)
class SamplerChange:
    """What weights changed against the first ones of a call, sampled alike and paired by prompt."""

    weights: str
    first: str
    sampler: Sampler
    difference: Difference


def changes_of(found: Sequence[SamplerReading]) -> list[SamplerChange]:
    """The change of all weights but the first, for each sampler."""
    first = {one.sampler: one for one in found if one.weights == found[0].weights}
    return [
        SamplerChange(
            one.weights,
            found[0].weights,
            one.sampler,
            difference(first[one.sampler].evaluation, one.evaluation),
        )
        for one in found
        if one.weights != found[0].weights
    ]


def evaluate_samplers(
    recipe: Recipe, weights: Sequence[str], samplers: Sequence[Sampler], prompts: int, say: Callable[[str], None]
) -> list[SamplerReading]:
    """Evaluate all weights with all samplers on the recipe's first held-out prompts.

    The services are started once for all of them.

    weights: "base", or paths of safetensors files that fit the recipe's model. What the services leave is removed at
    the end.

    Raises:
        what ``local_services`` and ``evaluate`` raise.
    """
    specs, found = held_out_prompts(recipe, prompts), []
    with tempfile.TemporaryDirectory(prefix="varl-evaluate-") as directory:
        away = recipe.model_copy(update={"run": recipe.run.model_copy(update={"dir": Path(directory)})})
        with local_services(away, say) as services, open_queue(away, services.redis_url) as queue:
            settings = eval_settings(away, layout_of(load_policies(away)[0]))
            pairs = [(path, sampler) for path in weights for sampler in samplers]
            for number, (path, sampler) in enumerate(pairs):
                say(f"[{number + 1}/{len(pairs)}] {path}, {sampler.name}")
                file = recipe.model.dir / "policy.safetensors" if path == BASE else Path(path)
                with progress_bar(len(specs), "prompt") as progress:
                    version = weights.index(path)  # the worker keeps what it has loaded by this number and the path
                    sampled = replace(settings, sampling=sampler.params)
                    evaluation = evaluate(queue, specs, sampled, str(file), version, f"sampler-{number}", progress)
                found.append(SamplerReading(path, sampler, evaluation))
    return found
