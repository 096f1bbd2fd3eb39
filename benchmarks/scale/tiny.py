"""A real worker on the tiny recipe with the real OCR service, beside a fake worker of the same speed.

The fake one sleeps for as long as the real one was measured to generate.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator

from benchmarks.scale import simulation
from benchmarks.scale.measured import line
from benchmarks.shared import Row
from varl.policy.base import layout_of
from varl.policy.nextflow import load
from varl.trainer.local_services import local_services
from varl.trainer.recipe.config import Recipe, load_recipe
from varl.trainer.rollouts.jobs import PublishedWeights, training_jobs
from varl.trajectories.collect import Patience, collect
from varl.trajectories.prompt_files import load_prompts
from varl.trajectories.queue import RunQueue, connect
from varl.v1 import trajectory_pb2

RECIPE = simulation.ROOT / "recipes" / "tiny_demo.toml"
STAGES = {0: "prefix", 1: "suffix"}  # the recipe's stages take turns from its first update on


def measure(url: str) -> list[Row]:
    """Both stages, an update's groups each; the first update of either warms the services up."""
    with tempfile.TemporaryDirectory() as directory:
        recipe = load_recipe(RECIPE, ["--run.dir", directory])
        with local_services(recipe) as services:
            queue = RunQueue(connect(services.redis_url), recipe.run.name, "trainer")
            real = {
                name: [_timed(recipe, queue, update + 2 * turn) for turn in (0, 1)][1]
                for update, name in STAGES.items()
            }
    return [row for name, (wall, groups) in real.items() for row in _rows(url, name, wall, groups)]


def _timed(recipe: Recipe, queue: RunQueue, update: int) -> tuple[float, list[trajectory_pb2.Group]]:
    layout = layout_of(load(recipe.model.dir))
    weights = PublishedWeights(0, recipe.model.dir / "policy.safetensors")
    jobs = training_jobs(recipe, update, load_prompts(recipe.prompts.train), weights)
    start = time.perf_counter()
    collected = collect(queue, jobs, layout, Patience(timeout_s=120, max_attempts=1))
    queue.acknowledge(collected.entry_ids)
    if len(collected.groups) != len(jobs):
        raise RuntimeError(f"{len(collected.groups)} of {len(jobs)} groups came back: {collected.failures}")
    return time.perf_counter() - start, collected.groups


def _rows(url: str, name: str, wall: float, groups: list[trajectory_pb2.Group]) -> Iterator[Row]:
    generate = sum(group.generate_seconds for group in groups) / len(groups)
    score = sum(group.score_seconds for group in groups) / len(groups)
    load = simulation.Load(name, round(generate, 3), 1)
    (fake,) = simulation.updates(url, load, len(groups), 2)
    yield line("tiny", name, generate, "s generating a group", 1)
    yield line("tiny", name, score, "s from first image sent to last score", 1)
    yield line("tiny", name, len(groups) / wall, "groups/s, real worker", 1)
    yield line("tiny", name, float(fake["value"]), "groups/s, fake worker", 1)
