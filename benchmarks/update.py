"""Seconds per update of the tiny recipe, split into generate, score and update.

They are measured in a short run through the real services.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.shared import Row, report
from varl.launch.supervisor import sigterm_as_exit
from varl.trainer.disk.metrics_log import METRICS_FILE
from varl.trainer.local_services import local_services
from varl.trainer.loop import train
from varl.trainer.objectives.vmr import Stage
from varl.trainer.recipe.config import Recipe, load_recipe
from varl.trainer.setup import load_policies, open_queue

RECIPE = Path("recipes/tiny_demo.toml")
WARM_UP = 1  # updates left out: the first one also pays for what every process does once
Line = dict[str, Any]


def main() -> None:
    """Run a few updates and leave the result."""
    parser = argparse.ArgumentParser(prog="python benchmarks/update.py", description=__doc__)
    parser.add_argument(
        "--updates",
        type=int,
        default=5,
        help=f"updates, the first {WARM_UP} of them not counted (default: %(default)s)",
    )
    updates = parser.parse_args().updates
    if updates <= WARM_UP:
        parser.error(f"--updates must be over {WARM_UP}")
    with TemporaryDirectory() as folder, sigterm_as_exit():
        recipe = short_recipe(Path(folder), updates)
        lines = run(recipe)
    report("update", sizes(recipe), rows(recipe, lines), recipe.run.device)


def short_recipe(folder: Path, updates: int) -> Recipe:
    """The recipe with ``updates`` updates and nothing beside them: no samples, no evaluation, no diagnostics."""
    flags = {
        "run.dir": folder, "run.name": "benchmark", "run.updates": updates, "checkpoint.every": updates,
        "metrics.samples_every": 0, "metrics.diagnostics_every": 0, "evaluation.every": 0,
    }  # fmt: skip
    return load_recipe(RECIPE, [text for name, value in flags.items() for text in (f"--{name}", str(value))])


def run(recipe: Recipe) -> list[Line]:
    """Train by the recipe on services of its own; the metrics of its updates that count."""
    with local_services(recipe, print) as services, open_queue(recipe, services.redis_url) as queue:
        trained, reference = load_policies(recipe)
        directory = train(recipe, trained, reference, queue, resume=False)
    lines = [json.loads(text) for text in (directory / METRICS_FILE).read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if WARM_UP <= line["update"] < recipe.run.updates]


def rows(recipe: Recipe, lines: Sequence[Line]) -> list[Row]:
    """A row for each stage that the updates had, means over its updates."""
    by_stage: dict[Stage, list[Line]] = {}
    for line in lines:
        if line["groups/dropped"] or "grad_norm" not in line:
            raise SystemExit(f"update {line['update']} lost groups or made no step, so its time says nothing")
        stage = recipe.objective.stage(line["update"])
        by_stage.setdefault(stage, []).append(line)
    return [row(recipe, stage, found) for stage, found in by_stage.items()]


def row(recipe: Recipe, stage: Stage, lines: Sequence[Line]) -> Row:
    """Mean seconds; generate and score are the worker's own and overlap inside of rollout."""
    copies = recipe.rollout.continuations if stage is Stage.PREFIX else 1
    seconds = {
        f"{name} s": fmean(line[f"timing/{name}"] for line in lines)
        for name in ("generate", "score", "rollout", "update", "total")
    }
    images = recipe.rollout.prompts_per_update * recipe.rollout.group_size * copies
    return {
        "stage": stage.value,
        "updates": len(lines),
        "images": images,
        **seconds,
        "images / s": images / seconds["total s"],
    }


def sizes(recipe: Recipe) -> Row:
    """What decides the amount of work."""
    rollout, run = recipe.rollout, recipe.run
    return {
        "recipe": RECIPE.name,
        "model": str(recipe.model.dir),
        "prompts": rollout.prompts_per_update,
        "group size": rollout.group_size,
        "continuations": rollout.continuations,
        "trainer threads": run.threads,
    }


if __name__ == "__main__":
    main()
