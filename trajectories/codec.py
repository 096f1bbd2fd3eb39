"""Bytes of a job or a trajectory, checked in both directions.

What passes here can be trained on without another look.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from google.protobuf.message import DecodeError, Message

from varl.trajectories.group_checks import group_problems
from varl.trajectories.job_checks import job_problems
from varl.trajectories.problems import CodecError, Problem, Reason
from varl.v1 import rollout_pb2, trajectory_pb2

MAX_MESSAGE_BYTES = 64 * 2**20


def encode_job(job: rollout_pb2.RolloutJob) -> bytes:
    """Return the bytes of a valid job; equal jobs give equal bytes. Raises CodecError naming the field."""
    _require(job, job_problems(job))
    return job.SerializeToString(deterministic=True)


def decode_job(data: bytes) -> rollout_pb2.RolloutJob:
    """Parse and check a job.

    Raises CodecError: not a RolloutJob, or a field out of range (the detail names it).
    """
    job = rollout_pb2.RolloutJob()
    _parse(job, data)
    _require(job, job_problems(job))
    return job


def encode_trajectory(trajectory: trajectory_pb2.Trajectory) -> bytes:
    """Return the bytes of a valid trajectory. Raises CodecError as decode_trajectory does."""
    _require(trajectory, _trajectory_problems(trajectory))
    return trajectory.SerializeToString(deterministic=True)


def decode_trajectory(data: bytes) -> trajectory_pb2.Trajectory:
    """Parse and check a trajectory.

    Raises CodecError, whose ``reason`` says which kind of fault: not a Trajectory; a message of another schema; tokens
    or log-probs other than the grids and the stage give; tokens beyond the codebook; candidates or continuations other
    than the job has; a required reward missing, or an optional one on some images only; a number that is not finite; a
    polygon without corners; an image that is no PNG of the group's size; more bytes, cells, regions or pixels than any
    message may have.
    """
    trajectory = trajectory_pb2.Trajectory()
    _parse(trajectory, data)
    _require(trajectory, _trajectory_problems(trajectory))
    return trajectory


def job_of(trajectory: trajectory_pb2.Trajectory) -> rollout_pb2.RolloutJob:
    """Return the job that a trajectory answers, whatever its outcome."""
    return trajectory.group.job if trajectory.WhichOneof("outcome") == "group" else trajectory.failure.job


def _parse(message: Message, data: bytes) -> None:
    if len(data) > MAX_MESSAGE_BYTES:
        detail = f"{len(data)} bytes are more than the {MAX_MESSAGE_BYTES} of any {type(message).__name__}"
        raise CodecError(Problem(Reason.TOO_LARGE, detail))
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise CodecError(Problem(Reason.NOT_A_MESSAGE, f"not a {type(message).__name__}: {error}")) from error


def _require(message: Message, problems: Iterable[Problem]) -> None:
    problem = next(iter(problems), None)
    if problem is not None:
        raise CodecError(problem, message)


def _trajectory_problems(trajectory: trajectory_pb2.Trajectory) -> Iterator[Problem]:
    outcome = trajectory.WhichOneof("outcome")
    if outcome is None:
        yield Problem(Reason.OUTCOME, "outcome must be a group or a failure")
    elif outcome == "group":
        yield from group_problems(trajectory.group)
    elif not trajectory.failure.code:
        yield Problem(Reason.OUTCOME, "failure.code must be set")
