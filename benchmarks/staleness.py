"""Seconds an update with and without overlap of rollout and update, on the tiny recipe.

``python benchmarks/staleness.py``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support.trainer_rig import column
from varl.policy.base import layout_of
from varl.trainer.evaluator import evaluator
from varl.trainer.local_services import local_services
from varl.trainer.loop import train
from varl.trainer.recipe.config import load_recipe
from varl.trainer.setup import load_policies, open_queue

UPDATES, WARM_UP = 12, 4


def seconds_an_update(directory: Path, staleness: int) -> float:
    """Mean seconds of an update after the first ones, evaluations and sample grids off."""
    flags = {
        "run.dir": directory, "run.name": f"staleness-{staleness}", "run.updates": UPDATES, "run.threads": 1,
        "rollout.max_staleness": staleness, "rollout.prompts_per_update": 8, "metrics.samples_every": 0,
        "metrics.diagnostics_every": 0, "evaluation.every": 0,
    }  # fmt: skip
    recipe = load_recipe(
        "recipes/tiny_demo.toml", [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    )
    with local_services(recipe) as services, open_queue(recipe, services.redis_url) as queue:
        trained, reference = load_policies(recipe)
        run = train(
            recipe, trained, reference, queue, resume=False, evaluate=evaluator(recipe, queue, layout_of(trained))
        )
    return fmean(
        column(run, "timing/total")[WARM_UP:]
    )  # prefix and suffix updates in equal parts: they differ severalfold


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        found = {staleness: seconds_an_update(Path(directory), staleness) for staleness in (0, 1, 2)}
    for staleness, seconds in found.items():
        print(
            f"max_staleness {staleness}: {seconds:.2f} s an update, "
            f"{found[0] / seconds:.2f} times as fast as without overlap"
        )


if __name__ == "__main__":
    main()
