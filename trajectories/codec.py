"""Bytes of a job or a trajectory, checked in both directions: what passes here can be trained on without another look."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from google.protobuf.message import DecodeError, Message

from varl.v1 import rollout_pb2, trajectory_pb2

MAX_GROUP_SIZE = 1024
MAX_CONTINUATIONS = 64
MAX_MESSAGE_BYTES = 64 * 2**20
MAX_CELLS = 2**20  # of all grids of an image
MAX_IMAGE_SIZE = 2**14  # pixels
SCHEMA = 1  # raised whenever an older reader would misread a message


class CodecError(ValueError):
    """The bytes or the message are not a valid job or trajectory.

    ``message`` is what could be parsed (it names the job even where the job is invalid), None where nothing could.
    """

    def __init__(self, detail: str, message: Message | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.message = message


def encode_job(job: rollout_pb2.RolloutJob) -> bytes:
    """Return the bytes of a valid job; equal jobs give equal bytes. Raises CodecError naming the field."""
    _require(job, _job_problems(job))
    return job.SerializeToString(deterministic=True)


def decode_job(data: bytes) -> rollout_pb2.RolloutJob:
    """Parse and check a job.

    Raises CodecError: not a RolloutJob, or a field out of range (the detail names it).
    """
    job = rollout_pb2.RolloutJob()
    _parse(job, data)
    _require(job, _job_problems(job))
    return job


def encode_trajectory(trajectory: trajectory_pb2.Trajectory) -> bytes:
    """Return the bytes of a valid trajectory. Raises CodecError as decode_trajectory does."""
    _require(trajectory, _trajectory_problems(trajectory))
    return trajectory.SerializeToString(deterministic=True)


def decode_trajectory(data: bytes) -> trajectory_pb2.Trajectory:
    """Parse and check a trajectory.

    Raises CodecError: not a Trajectory; tokens and log-probs of unequal length; a token count other than the grids and the stage
    give; candidates or continuations other than the job asked for; a required reward missing, or an optional one on some images only;
    a reward or log-prob not finite; more bytes, cells or pixels than any message may have; a message of another schema.
    """
    trajectory = trajectory_pb2.Trajectory()
    _parse(trajectory, data)
    _require(trajectory, _trajectory_problems(trajectory))
    return trajectory


def job_of(trajectory: trajectory_pb2.Trajectory) -> rollout_pb2.RolloutJob:
    """Return the job that a trajectory answers, whatever its outcome."""
    return trajectory.group.job if trajectory.WhichOneof("outcome") == "group" else trajectory.failure.job


def continuations_of(job: rollout_pb2.RolloutJob) -> int:
    """Return K, images per candidate, 1 except in STAGE_PREFIX."""
    return job.continuations if job.stage == rollout_pb2.STAGE_PREFIX else 1


def optimised_scales(job: rollout_pb2.RolloutJob, scales: int) -> range:
    """Return the indices (from 0) of the scales whose tokens a candidate carries, of ``scales`` in all: the actions trained."""
    if job.stage == rollout_pb2.STAGE_PREFIX:
        return range(job.split_scale)
    return range(job.split_scale if job.stage == rollout_pb2.STAGE_SUFFIX else 0, scales)


def _parse(message: Message, data: bytes) -> None:
    if len(data) > MAX_MESSAGE_BYTES:
        raise CodecError(f"{len(data)} bytes are more than the {MAX_MESSAGE_BYTES} of any {type(message).__name__}")
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise CodecError(f"not a {type(message).__name__}: {error}") from error


def _require(message: Message, problems: Iterable[str]) -> None:
    problem = next(iter(problems), None)
    if problem is not None:
        raise CodecError(problem, message)


def _job_problems(job: rollout_pb2.RolloutJob) -> Iterable[str]:
    if job.schema != SCHEMA:
        yield f"schema must be {SCHEMA}, got {job.schema}"
    for field in ("run_id", "job_id", "prompt"):
        if not getattr(job, field):
            yield f"{field} must not be empty"
    if not 1 <= job.group_size <= MAX_GROUP_SIZE:
        yield f"group_size must be in 1..{MAX_GROUP_SIZE}, got {job.group_size}"
    names = [*job.rewards, *job.optional_rewards]
    if not job.rewards or len(set(names)) != len(names) or not all(names):
        yield f"rewards must be one or more names, all different and other than optional_rewards, got {names}"
    yield from _stage_problems(job)


def _stage_problems(job: rollout_pb2.RolloutJob) -> Iterable[str]:
    if job.stage not in (rollout_pb2.STAGE_FULL, rollout_pb2.STAGE_PREFIX, rollout_pb2.STAGE_SUFFIX):
        yield f"stage must be full, prefix or suffix, got {job.stage}"
    elif job.stage == rollout_pb2.STAGE_FULL and job.split_scale:
        yield f"split_scale must be 0 in STAGE_FULL, got {job.split_scale}"
    elif job.stage != rollout_pb2.STAGE_FULL and not job.split_scale:
        yield "split_scale must be at least 1 in STAGE_PREFIX and STAGE_SUFFIX"
    most = MAX_CONTINUATIONS if job.stage == rollout_pb2.STAGE_PREFIX else 1
    if not 1 <= job.continuations <= most:
        yield f"continuations must be in 1..{most}, got {job.continuations}"


def _trajectory_problems(trajectory: trajectory_pb2.Trajectory) -> Iterable[str]:
    outcome = trajectory.WhichOneof("outcome")
    if outcome is None:
        yield "outcome must be a group or a failure"
    elif outcome == "group":
        yield from _group_problems(trajectory.group)
    elif not trajectory.failure.code:
        yield "failure.code must be set"


def _group_problems(group: trajectory_pb2.Group) -> Iterable[str]:
    yield from (f"group.job.{problem}" for problem in _job_problems(group.job))
    counts = [grid.height * grid.width for grid in group.grids]
    if not counts or not all(counts):
        yield "group.grids must hold one or more grids of positive height and width"
    if sum(counts) > MAX_CELLS:
        yield f"group.grids must have at most {MAX_CELLS} cells in all, got {sum(counts)}"
    if not set(group.absent_rewards) <= set(group.job.optional_rewards):
        yield f"group.absent_rewards must be optional_rewards of the job, got {list(group.absent_rewards)}"
    if group.job.split_scale >= max(len(counts), 1):
        yield f"group.job.split_scale must be below the {len(counts)} scales of grids, got {group.job.split_scale}"
    shared = sum(counts[: group.job.split_scale]) if group.job.stage == rollout_pb2.STAGE_SUFFIX else 0
    if len(group.prefix_tokens) != shared:
        yield f"group.prefix_tokens must hold {shared} tokens, got {len(group.prefix_tokens)}"
    if len(group.candidates) != group.job.group_size:
        yield f"group.candidates must hold {group.job.group_size} candidates, got {len(group.candidates)}"
    if not 1 <= group.image_size <= MAX_IMAGE_SIZE:
        yield f"group.image_size must be in 1..{MAX_IMAGE_SIZE}, got {group.image_size}"
    tokens = sum(counts[scale] for scale in optimised_scales(group.job, len(counts)))
    rewards = {*group.job.rewards, *group.job.optional_rewards} - set(group.absent_rewards)
    for index, candidate in enumerate(group.candidates):
        yield from (f"group.candidates[{index}].{problem}" for problem in _candidate_problems(candidate, group.job, tokens, rewards))


def _candidate_problems(candidate: trajectory_pb2.Candidate, job: rollout_pb2.RolloutJob, tokens: int, rewards: set[str]) -> Iterable[str]:
    if len(candidate.tokens) != len(candidate.log_probs):
        yield f"log_probs must be as many as tokens, got {len(candidate.log_probs)} and {len(candidate.tokens)}"
    if len(candidate.tokens) != tokens:
        yield f"tokens must be {tokens} by the grids and the stage, got {len(candidate.tokens)}"
    if not _finite(candidate.log_probs):
        yield "log_probs must be finite"
    if len(candidate.continuations) != continuations_of(job):
        yield f"continuations must be {continuations_of(job)}, got {len(candidate.continuations)}"
    for index, continuation in enumerate(candidate.continuations):
        if set(continuation.rewards) != rewards:
            yield f"continuations[{index}].rewards must name {sorted(rewards)}, got {sorted(continuation.rewards)}"
        if not _finite(list(continuation.rewards.values())):
            yield f"continuations[{index}].rewards must be finite"


def _finite(values: Sequence[float]) -> bool:
    return all(map(math.isfinite, values))
