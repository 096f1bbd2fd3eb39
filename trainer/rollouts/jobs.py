"""What the trainer asks of the rollout workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from varl.trainer.objectives.vmr import Stage
from varl.trainer.recipe.config import Recipe
from varl.trajectories.job_checks import SCHEMA
from varl.trajectories.prompts import PromptSpec, draw_prompts
from varl.trajectories.sampling import KINDS, sampling_message
from varl.v1 import rollout_pb2

STAGES = {
    Stage.FULL: rollout_pb2.STAGE_FULL,
    Stage.PREFIX: rollout_pb2.STAGE_PREFIX,
    Stage.SUFFIX: rollout_pb2.STAGE_SUFFIX,
}
TRAIN, SAMPLES, REPLACEMENTS = 0, 1, 2  # keep the seeds of the purposes apart


@dataclass(frozen=True)
class PublishedWeights:
    """A weight file and the manifest by which workers find it.

    The version is the number of updates that it has been through.
    """

    version: int
    path: Path
    manifest: str = ""  # path or URL; empty: workers read the file itself

    @property
    def address(self) -> str:
        """What stands in a job."""
        return self.manifest or str(self.path.resolve())


def group_seed(run_seed: int, purpose: int, update: int, index: int, *more: int) -> int:
    """A 64-bit seed of a group; workers derive those of its candidates and continuations from it."""
    return int(np.random.SeedSequence([run_seed, purpose, update, index, *more]).generate_state(1, np.uint64)[0])


def training_jobs(
    recipe: Recipe, update: int, prompts: Sequence[PromptSpec], weights: PublishedWeights
) -> list[rollout_pb2.RolloutJob]:
    """The groups of one update, all of one stage."""
    stage = recipe.objective.stage(update)
    drawn = draw_prompts(prompts, recipe.run.seed, update, recipe.rollout.prompts_per_update)
    jobs = _jobs(recipe, "train", update, drawn, weights)
    for index, job in enumerate(jobs):
        job.seed = group_seed(recipe.run.seed, TRAIN, update, index)
        job.stage = STAGES[stage]
        job.split_scale = 0 if stage is Stage.FULL else recipe.objective.split_scale
        job.group_size = recipe.rollout.group_size
        job.continuations = recipe.rollout.continuations if stage is Stage.PREFIX else 1
    return jobs


def replacement_job(
    recipe: Recipe, prompts: Sequence[PromptSpec], failed: rollout_pb2.RolloutJob, count: int
) -> rollout_pb2.RolloutJob | None:
    """The ``count``-th job (from 1) in the place of one of an update that failed for good.

    Another prompt, another seed: a prompt that has failed in this place is not taken again, and None is returned where
    no other is left. Both depend on the run's seed, the update, the group and the count alone, so that a resumed run
    replaces as the unbroken one did. Prompts that the update does not have anyway are taken first.
    """
    chosen = _replacement(recipe, prompts, failed.update, failed.group, count)
    if chosen is None:
        return None
    job = rollout_pb2.RolloutJob()
    job.CopyFrom(failed)
    job.job_id, job.attempt, job.prompt = f"train/{failed.update}/{failed.group}/{count}", 0, chosen.prompt
    job.seed = group_seed(recipe.run.seed, REPLACEMENTS, failed.update, failed.group, count)
    job.target_words[:] = chosen.target_words
    job.ClearField("metadata")
    job.MergeFrom(rollout_pb2.RolloutJob(metadata=chosen.metadata_message()))
    return job


def _replacement(
    recipe: Recipe, prompts: Sequence[PromptSpec], update: int, group: int, count: int
) -> PromptSpec | None:
    """The prompt that comes ``count``-th in the place of a group's, after those before it have failed there."""
    sampled = draw_prompts(prompts, recipe.run.seed, update, recipe.rollout.prompts_per_update)
    in_update, tried = {spec.prompt for spec in sampled}, {sampled[group].prompt}
    chosen: PromptSpec | None = None
    for number in range(1, count + 1):
        left = [spec for spec in prompts if spec.prompt not in tried]
        pool = [spec for spec in left if spec.prompt not in in_update] or left
        if not pool:
            return None
        chosen = pool[group_seed(recipe.run.seed, REPLACEMENTS, update, group, number) % len(pool)]
        tried.add(chosen.prompt)
    return chosen


def sample_jobs(
    recipe: Recipe, update: int, prompts: Sequence[PromptSpec], weights: PublishedWeights
) -> list[rollout_pb2.RolloutJob]:
    """Whole images with their pixels for a sample grid; the seeds are those of every other grid of the run."""
    jobs = _jobs(recipe, "samples", update, prompts, weights)
    for index, job in enumerate(jobs):
        job.seed = group_seed(recipe.run.seed, SAMPLES, 0, index)
        job.stage = rollout_pb2.STAGE_FULL
        job.group_size = recipe.metrics.samples_per_prompt
        job.continuations = 1
        job.want_images = True
    return jobs


def _jobs(
    recipe: Recipe, purpose: str, update: int, prompts: Sequence[PromptSpec], weights: PublishedWeights
) -> list[rollout_pb2.RolloutJob]:
    """What all jobs have in common; stage, sizes and seed are left to the caller."""
    return [
        rollout_pb2.RolloutJob(
            run_id=recipe.run.name,
            job_id=f"{purpose}/{update}/{index}",
            update=update,
            group=index,
            prompt=spec.prompt,
            target_words=spec.target_words,
            metadata=spec.metadata_message(),
            weight_version=weights.version,
            weight_path=weights.address,
            sampling=sampling_message(recipe.rollout.sampling.params()),
            log_probs=KINDS[recipe.objective.log_probs],
            rewards=[reward.name for reward in recipe.rollout.rewards if reward.required],
            optional_rewards=[reward.name for reward in recipe.rollout.rewards if not reward.required],
            schema=SCHEMA,
        )
        for index, spec in enumerate(prompts)
    ]
