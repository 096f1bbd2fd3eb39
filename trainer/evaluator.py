"""The evaluations that a recipe asks for: always the same held-out prompts and seeds."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from varl.evaluation.drift import drifts
from varl.evaluation.estimates import Estimate
from varl.evaluation.evaluate import EvalSettings, evaluate
from varl.evaluation.measures.appearance import BY_NAME
from varl.evaluation.results import Evaluation
from varl.policy.base import Layout
from varl.trainer.disk.atomic import write_durably
from varl.trainer.recipe.config import Recipe
from varl.trainer.recipe.prompts import recipe_prompts
from varl.trainer.recipe.sections import DriftSettings
from varl.trainer.rollouts.jobs import PublishedWeights
from varl.trainer.step.guards import Alarm, GuardError
from varl.trajectories.collect import Patience
from varl.trajectories.prompts import PromptSpec
from varl.trajectories.queue import RunQueue

logger = logging.getLogger("trainer")
MOST_PROMPTS = 256


def held_out_prompts(recipe: Recipe, count: int | None) -> list[PromptSpec]:
    """The first ``count`` held-out prompts; None: all, up to MOST_PROMPTS.

    Raises:
        ValueError: the file has fewer than ``count``.
    """
    prompts = recipe_prompts(recipe, recipe.prompts.held_out)
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
        rewards=recipe.rollout.evaluated(),
        patience=Patience(recipe.rollout.group_timeout_s, recipe.rollout.max_attempts),
        pictures=pictures,
    )


def evaluator(recipe: Recipe, queue: RunQueue, layout: Layout) -> Callable[[PublishedWeights], dict[str, float]]:
    """A function from weights to their metrics on the first held-out prompts.

    The loop calls it every ``evaluation.every`` updates. The first of them is the base's, by which drift is measured.

    Raises:
        ValueError: the held-out file has fewer prompts than ``evaluation.prompts``.
    """
    settings = eval_settings(recipe, layout)
    prompts = held_out_prompts(recipe, recipe.evaluation.prompts) if recipe.evaluation.every else []
    drift = DriftWatch(recipe.run.dir / recipe.run.name / "evaluations" / "base.json", recipe.evaluation.drift)

    def metrics(weights: PublishedWeights) -> dict[str, float]:
        found = evaluate(queue, prompts, settings, weights.address, weights.version, "train", lambda done, total: None)
        figures = {name: value for measure, one in found.estimates().items() for name, value in _metrics(measure, one)}
        return drift.add(weights.version, found, figures | {"eval/failures": float(len(found.failed))})

    return metrics


class DriftError(GuardError):
    """The images have drifted too far from the base's; ``metrics`` are those of the evaluation that found it."""

    def __init__(self, detail: str, metrics: dict[str, float]) -> None:
        super().__init__(Alarm("drift", detail))
        self.metrics = metrics

    def __str__(self) -> str:
        return f"evaluation.drift: {self.alarm.detail}"


class DriftWatch:
    """Compares evaluations with the base's, which it keeps at ``path`` so that a resumed run has it."""

    def __init__(self, path: Path, settings: DriftSettings) -> None:
        self._path, self._settings = path, settings

    def add(self, version: int, found: Evaluation, metrics: dict[str, float]) -> dict[str, float]:
        """``metrics`` with the drift of an evaluation of weights ``version``; version 0 is the base.

        Raises:
            DriftError: a figure is beyond its limit and the setting is "stop"; its metrics are those returned.
        """
        if self._settings.action == "off":
            return metrics
        if version == 0:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(self._path, found.model_dump_json())
        if not self._path.exists():  # a run that an older version of varl began
            return metrics
        base = Evaluation.model_validate_json(self._path.read_bytes())
        figures = drifts(base, found, self._settings.limits())
        alarms = [figure for figure in figures if figure.beyond]
        for alarm in alarms:
            logger.warning("update %d: drift: %s", version, alarm.words())
        metrics |= {f"eval/drift/{figure.name.removeprefix(BY_NAME)}": figure.change.value for figure in figures}
        metrics["eval/drift_alarms"] = float(len(alarms))
        if alarms and self._settings.action == "stop":
            raise DriftError("; ".join(alarm.words() for alarm in alarms), metrics)
        return metrics


def _metrics(measure: str, found: Estimate) -> list[tuple[str, float]]:
    return [(f"eval/{measure}", found.value), (f"eval/{measure}_se", found.error)]
