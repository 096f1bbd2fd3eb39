"""What makes a job valid, and what its stage means for the group that answers it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from varl.trajectories.problems import Problem, Reason
from varl.v1 import rollout_pb2

MAX_GROUP_SIZE = 1024
MAX_CONTINUATIONS = 64
MAX_METADATA_BYTES = 16 * 2**10
RUN_ID = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"  # it stands in keys of Redis, paths and log lines
MAX_RUN_ID_CHARS = 200
SCHEMA = 2  # raised whenever an older reader would misread a message


def run_id_problem(run_id: str) -> str | None:
    """What is wrong with a run's id, or None."""
    if len(run_id) <= MAX_RUN_ID_CHARS and re.fullmatch(RUN_ID.strip("^$"), run_id):
        return None
    return (
        f"run_id must be 1..{MAX_RUN_ID_CHARS} letters, digits, dots, hyphens and underscores, the first a letter or "
        f"digit, got {run_id[: 2 * MAX_RUN_ID_CHARS]!r}"
    )


def continuations_of(job: rollout_pb2.RolloutJob) -> int:
    """Return K, images per candidate, 1 except in STAGE_PREFIX."""
    return job.continuations if job.stage == rollout_pb2.STAGE_PREFIX else 1


def optimised_scales(job: rollout_pb2.RolloutJob, scales: int) -> range:
    """Return the indices (from 0) of the scales whose tokens a candidate carries, of ``scales`` in all.

    The actions trained.
    """
    if job.stage == rollout_pb2.STAGE_PREFIX:
        return range(job.split_scale)
    return range(job.split_scale if job.stage == rollout_pb2.STAGE_SUFFIX else 0, scales)


def job_problems(job: rollout_pb2.RolloutJob) -> Iterator[Problem]:
    """The problems of a job, a foreign schema first: nothing else can be relied on then."""
    if job.schema != SCHEMA:
        yield Problem(Reason.SCHEMA, f"schema must be {SCHEMA}, got {job.schema}: another version of varl wrote this")
    yield from (Problem(Reason.JOB, detail) for detail in _details(job))


def _details(job: rollout_pb2.RolloutJob) -> Iterator[str]:
    problem = run_id_problem(job.run_id)
    if problem:
        yield problem
    for field in ("job_id", "prompt"):
        if not getattr(job, field):
            yield f"{field} must not be empty"
    if not 1 <= job.group_size <= MAX_GROUP_SIZE:
        yield f"group_size must be in 1..{MAX_GROUP_SIZE}, got {job.group_size}"
    names = [*job.rewards, *job.optional_rewards]
    if not job.rewards or len(set(names)) != len(names) or not all(names):
        yield f"rewards must be one or more names, all different and other than optional_rewards, got {names}"
    if job.log_probs not in (rollout_pb2.LOG_PROBS_PLAIN, rollout_pb2.LOG_PROBS_SAMPLED):
        yield f"log_probs must be plain or sampled, got {job.log_probs}"
    if job.metadata.ByteSize() > MAX_METADATA_BYTES:
        yield f"metadata must be at most {MAX_METADATA_BYTES} bytes, got {job.metadata.ByteSize()}"
    yield from _stage_details(job)


def _stage_details(job: rollout_pb2.RolloutJob) -> Iterator[str]:
    if job.stage not in (rollout_pb2.STAGE_FULL, rollout_pb2.STAGE_PREFIX, rollout_pb2.STAGE_SUFFIX):
        yield f"stage must be full, prefix or suffix, got {job.stage}"
    elif job.stage == rollout_pb2.STAGE_FULL and job.split_scale:
        yield f"split_scale must be 0 in STAGE_FULL, got {job.split_scale}"
    elif job.stage != rollout_pb2.STAGE_FULL and not job.split_scale:
        yield "split_scale must be at least 1 in STAGE_PREFIX and STAGE_SUFFIX"
    most = MAX_CONTINUATIONS if job.stage == rollout_pb2.STAGE_PREFIX else 1
    if not 1 <= job.continuations <= most:
        yield f"continuations must be in 1..{most}, got {job.continuations}"
