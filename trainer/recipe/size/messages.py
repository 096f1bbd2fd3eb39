"""Bytes of the jobs and trajectories of one update."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from varl.policy.base import Layout, cells
from varl.trainer.recipe.config import Recipe
from varl.trainer.rollouts.jobs import PublishedWeights, training_jobs
from varl.trajectories.job_checks import continuations_of, optimised_scales
from varl.trajectories.prompts import PromptSpec
from varl.trajectories.tokens import site_bytes
from varl.v1 import reward_pb2, rollout_pb2, trajectory_pb2


def update_bytes(recipe: Recipe, update: int, prompts: Sequence[PromptSpec], layout: Layout) -> int:
    """Bytes of an update's jobs and trajectories; regions, of which only a reward knows how many, come on top."""
    address = recipe.run.dir.resolve() / recipe.run.name / "weights" / f"v{update:06d}.json"
    jobs = training_jobs(recipe, update, prompts, PublishedWeights(update, Path(address), str(address)))
    return sum(job.ByteSize() + _trajectory(job, layout).ByteSize() for job in jobs)


def _trajectory(job: rollout_pb2.RolloutJob, layout: Layout) -> trajectory_pb2.Trajectory:
    """A message of the size of the real one; its values mean nothing."""
    counts = cells(layout.grids)
    trained = sum(counts[scale] for scale in optimised_scales(job, len(counts)))
    shared = sum(counts) - trained if job.stage == rollout_pb2.STAGE_SUFFIX else 0
    one_site = b"\1" * site_bytes(layout.bits_per_site)
    image = trajectory_pb2.Continuation(rewards=dict.fromkeys([*job.rewards, *job.optional_rewards], 1.0))
    candidate = trajectory_pb2.Candidate(
        tokens=one_site * trained, log_probs=[-1.0] * trained, continuations=[image] * continuations_of(job)
    )
    group = trajectory_pb2.Group(
        job=job,
        grids=[trajectory_pb2.Grid(height=height, width=width) for height, width in layout.grids],
        bits_per_site=layout.bits_per_site,
        codes=layout.codes,
        prefix_tokens=one_site * shared,
        candidates=[candidate] * job.group_size,
        models=dict.fromkeys(job.rewards, reward_pb2.Model(engine="engine", name="name", revision="revision")),
        worker="worker",
        generate_seconds=1.0,
        score_seconds=1.0,
        image_height=layout.height,
        image_width=layout.width,
    )
    return trajectory_pb2.Trajectory(group=group)
