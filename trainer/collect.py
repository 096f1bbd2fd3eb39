"""Waiting for the groups of a batch of jobs: a failed group is queued again within a bound, then dropped; it never becomes a number."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from varl.v1 import rollout_pb2, trajectory_pb2

from policy.base import Grid
from trajectories.codec import job_of
from trajectories.queue import Delivery, RunQueue

POLL_MS = 500


class RolloutTimeoutError(RuntimeError):
    """No group arrived in time; the message says which are missing and whether anyone took the jobs."""


@dataclass(frozen=True)
class Patience:
    """How long and how often to ask for a group."""

    timeout_s: float
    max_attempts: int


@dataclass
class Collected:
    """What came back for a batch of jobs."""

    groups: list[trajectory_pb2.Group] = field(default_factory=list)  # by index once complete, whatever the order of arrival
    entry_ids: list[str] = field(default_factory=list)  # of the groups, to acknowledge when a checkpoint holds their update
    failures: Counter[str] = field(default_factory=Counter)  # by code in small letters, retried ones included
    dropped: list[trajectory_pb2.GroupFailure] = field(default_factory=list)
    unexpected: int = 0  # trajectories of other jobs: late repeats


def failure_name(code: trajectory_pb2.FailureCode) -> str:
    """FAILURE_CODE_SCORE_FAILED as score_failed."""
    return trajectory_pb2.FailureCode.Name(code).removeprefix("FAILURE_CODE_").lower()


def collect(
    queue: RunQueue,
    jobs: Sequence[rollout_pb2.RolloutJob],
    grids: Sequence[Grid],
    patience: Patience,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Collected:
    """Submit the jobs and wait until each has a group or has failed ``max_attempts`` times.

    grids: those of the trained policy; a group of another model is a failure (bad_job). progress is told (groups settled, groups asked).

    Raises:
        RolloutTimeoutError: nothing was settled for ``timeout_s``.
    """
    pending = {job.job_id: job for job in jobs}
    result = Collected()
    queue.submit(jobs)
    last = time.monotonic()
    while pending:
        for delivery in queue.receive(len(pending), POLL_MS):
            if _settle(queue, delivery, pending, result, grids, patience.max_attempts):
                last = time.monotonic()
                progress(len(jobs) - len(pending), len(jobs))
        if pending and time.monotonic() - last > patience.timeout_s:
            raise RolloutTimeoutError(_timeout_message(queue, pending, patience.timeout_s))
    result.groups.sort(key=lambda group: group.job.group)
    return result


def _settle(
    queue: RunQueue,
    delivery: Delivery[trajectory_pb2.Trajectory],
    pending: dict[str, rollout_pb2.RolloutJob],
    result: Collected,
    grids: Sequence[Grid],
    max_attempts: int,
) -> bool:
    """Sort one trajectory in; True if it belongs to a pending job."""
    job = pending.get(job_of(delivery.message).job_id)
    if job is None or job != job_of(delivery.message):
        result.unexpected += 1
        queue.acknowledge([delivery.entry_id])
        return False
    failure = _failure(delivery.message, grids)
    if failure is None:
        result.groups.append(delivery.message.group)
        result.entry_ids.append(delivery.entry_id)
        del pending[job.job_id]
        return True
    _retry_or_drop(queue, failure, job, pending, result, max_attempts)
    queue.acknowledge([delivery.entry_id])  # a failure is in no update, so no checkpoint has to hold it
    return True


def _retry_or_drop(
    queue: RunQueue,
    failure: trajectory_pb2.GroupFailure,
    job: rollout_pb2.RolloutJob,
    pending: dict[str, rollout_pb2.RolloutJob],
    result: Collected,
    max_attempts: int,
) -> None:
    result.failures[failure_name(failure.code)] += 1
    if job.attempt + 1 >= max_attempts:
        result.dropped.append(failure)
        del pending[job.job_id]
        return
    again = rollout_pb2.RolloutJob()
    again.CopyFrom(job)
    again.attempt = job.attempt + 1
    pending[job.job_id] = again
    queue.submit([again])


def _failure(trajectory: trajectory_pb2.Trajectory, grids: Sequence[Grid]) -> trajectory_pb2.GroupFailure | None:
    if trajectory.WhichOneof("outcome") == "failure":
        return trajectory.failure
    group = trajectory.group
    if [(grid.height, grid.width) for grid in group.grids] == list(grids):
        return None
    detail = "grids: the worker drew with another model than the trainer's"
    return trajectory_pb2.GroupFailure(job=group.job, code=trajectory_pb2.FAILURE_CODE_BAD_JOB, detail=detail, worker=group.worker)


def _timeout_message(queue: RunQueue, pending: dict[str, rollout_pb2.RolloutJob], timeout_s: float) -> str:
    job = next(iter(pending.values()))
    return (
        f"no group arrived for {timeout_s:g} s: {len(pending)} of run {job.run_id!r} are missing ({', '.join(sorted(pending)[:4])} …), "
        f"{queue.backlog()} of their jobs were not even taken; is a rollout worker of this run id alive, and are its reward services ready?"
    )
