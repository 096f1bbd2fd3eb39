"""Valid jobs and trajectories for tests; keyword arguments replace fields."""

from __future__ import annotations

from typing import Any

from varl.policy.base import Layout
from varl.trajectories.job_checks import SCHEMA, continuations_of, optimised_scales
from varl.trajectories.tokens import pack
from varl.v1 import rollout_pb2, trajectory_pb2

BITS = 16
GRIDS = ((1, 1), (2, 2), (3, 4))

LAYOUT = Layout(GRIDS, 64, 64, BITS, 0)


def make_job(run_id: str = "run", **fields: Any) -> rollout_pb2.RolloutJob:  # noqa: ANN401
    defaults: dict[str, Any] = {
        "job_id": "train/1/0",
        "update": 1,
        "prompt": "a red sign that says 'BREAD'",
        "target_words": ["BREAD"],
        "stage": rollout_pb2.STAGE_FULL,
        "group_size": 2,
        "continuations": 1,
        "seed": 7,
        "sampling": rollout_pb2.Sampling(temperature=1.0, top_p=1.0),
        "rewards": ["ocr"],
        "schema": SCHEMA,
        "log_probs": rollout_pb2.LOG_PROBS_PLAIN,
    }
    return rollout_pb2.RolloutJob(run_id=run_id, **(defaults | fields))


def make_group(job: rollout_pb2.RolloutJob, grids: tuple[tuple[int, int], ...] = GRIDS) -> trajectory_pb2.Group:
    counts = [height * width for height, width in grids]
    tokens = sum(counts[scale] for scale in optimised_scales(job, len(grids)))
    shared = sum(counts[: job.split_scale]) if job.stage == rollout_pb2.STAGE_SUFFIX else 0
    return trajectory_pb2.Group(
        job=job,
        grids=[trajectory_pb2.Grid(height=height, width=width) for height, width in grids],
        bits_per_site=BITS,
        prefix_tokens=pack(range(shared), BITS),
        candidates=[make_candidate(job, tokens) for _ in range(job.group_size)],
        image_height=64,
        image_width=64,
    )


def make_candidate(job: rollout_pb2.RolloutJob, tokens: int) -> trajectory_pb2.Candidate:
    scored = [
        trajectory_pb2.Continuation(rewards=dict.fromkeys([*job.rewards, *job.optional_rewards], 0.5))
        for _ in range(continuations_of(job))
    ]
    return trajectory_pb2.Candidate(tokens=pack(range(tokens), BITS), log_probs=[-0.5] * tokens, continuations=scored)


def make_trajectory(job: rollout_pb2.RolloutJob) -> trajectory_pb2.Trajectory:
    return trajectory_pb2.Trajectory(group=make_group(job))
