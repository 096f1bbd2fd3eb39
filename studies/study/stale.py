"""Whether a finished run belongs to the study as it stands now, since a result is found by its folder alone."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

from varl.studies.study.plan import Job, Study, images_by_update
from varl.studies.study.results import RunResult
from varl.trainer.recipe.changes import RecipeChangedError, decisive, differences
from varl.trainer.recipe.config import Recipe

RATE, IMAGES, PROMPTS = "optimizer.lr", "study.images", "study.prompts"


def settings_of(study: Study, job: Job, recipe: Recipe) -> dict[str, Any]:
    """What decides a run's figures, by dotted name: its recipe's settings, its scored images, its held-out prompts.

    A file or folder counts by its name alone, since results are copied from one machine to another.
    """
    settings = {key: Path(value).name if _is_place(key) else value for key, value in decisive(recipe).items()}
    images = next(islice(images_by_update(recipe), recipe.run.updates - 1, None))
    return settings | {IMAGES: images, PROMPTS: None if job.tuning else study.prompts}


def require_current(result: RunResult, study: Study, job: Job, recipe: Recipe) -> None:
    """Raise RecipeChangedError, naming what differs, where the result is that of another study or an older one.

    Of a result that does not hold its settings, kept before results had them, learning rate and images are compared.
    """
    now = settings_of(study, job, recipe)
    before = {RATE: result.learning_rate, IMAGES: result.images}
    if result.settings is None:
        now = {key: now[key] for key in before}
    else:
        before = _defaults(now) | result.settings | before
    if changed := differences(before, now):
        raise RecipeChangedError(
            f"{recipe.run.dir / recipe.run.name} holds a finished run with other settings; move it away, or give the "
            "study another name. It differs in:\n  " + "\n  ".join(changed)
        )


def _defaults(now: dict[str, Any]) -> dict[str, Any]:
    """Settings that a result lacks because they are newer than it had their defaults; rewards have none."""
    plain = decisive(Recipe.model_validate({}))
    return {key: plain[key] for key in now.keys() & plain.keys() if not key.startswith("rollout.rewards.")}


def _is_place(key: str) -> bool:
    return key.startswith(("model.dir", "prompts.")) or key.endswith(".serve")
