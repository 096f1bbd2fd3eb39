"""Waiting for the groups of a batch of jobs.

A failed group is queued again within a bound, then replaced or dropped, never a number.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from varl.launch.waits import Wait
from varl.policy.base import Layout
from varl.trajectories.codec import job_of
from varl.trajectories.deliveries import Delivery
from varl.trajectories.queue import RunQueue
from varl.v1 import rollout_pb2, trajectory_pb2

logger = logging.getLogger("trainer")
POLL_MS = 500
LOOK_FOR_LOST_S = 10.0  # of silence


class RolloutTimeoutError(RuntimeError):
    """No group arrived in time; the message says which are missing and whether anyone took the jobs."""


@dataclass(frozen=True)
class Patience:
    """How long and how often to ask for a group."""

    timeout_s: float
    max_attempts: int


@dataclass(frozen=True)
class Remedies:
    """What is done about groups that fail.

    replace: another job in the place of one that failed for good, given how many have been put there with it (from 1),
    or None: the group is dropped. repair: called before a job is queued again whose worker could not get its weights.
    """

    replace: Callable[[rollout_pb2.RolloutJob, int], rollout_pb2.RolloutJob | None] = lambda job, count: None
    repair: Callable[[rollout_pb2.RolloutJob], None] = lambda job: None


@dataclass
class Collected:
    """What came back for a batch of jobs."""

    groups: list[trajectory_pb2.Group] = field(
        default_factory=list
    )  # by index once complete, whatever the order of arrival
    entry_ids: list[str] = field(
        default_factory=list
    )  # of the groups, to acknowledge when a checkpoint holds their update
    failures: Counter[str] = field(default_factory=Counter)  # by code in small letters, retried ones included
    dropped: list[trajectory_pb2.GroupFailure] = field(default_factory=list)
    replaced: int = 0  # jobs given up for another prompt
    unexpected: int = 0  # trajectories of other jobs: late repeats
    requeued: int = 0  # jobs that Redis had lost


def failure_name(code: trajectory_pb2.FailureCode) -> str:
    """FAILURE_CODE_SCORE_FAILED as score_failed."""
    return trajectory_pb2.FailureCode.Name(code).removeprefix("FAILURE_CODE_").lower()


def collect(
    queue: RunQueue,
    jobs: Sequence[rollout_pb2.RolloutJob],
    layout: Layout,
    patience: Patience,
    progress: Callable[[int, int], None] = lambda done, total: None,
    remedies: Remedies | None = None,
) -> Collected:
    """Submit the jobs, but for those submitted ahead, and wait until each has a group or has failed for good.

    A job fails for good after ``max_attempts`` attempts, or as a dead letter of the workers; it is then on the
    dead-letter stream.

    layout: the trained policy's; a group of another model is a failure (bad_job). progress is told (groups settled,
    groups asked).

    Raises:
        RolloutTimeoutError: nothing was settled for ``timeout_s``.
    """
    collection = _Collection(queue, {job.job_id: job for job in jobs}, layout, patience, remedies or Remedies())
    ahead, arrived = queue.take_ahead(jobs)
    queue.submit([job for job in jobs if job.job_id not in ahead])
    wait, looked = collection.wait(), time.monotonic()
    while collection.pending:
        for delivery in arrived or queue.receive(len(collection.pending), POLL_MS):
            if collection.settle(delivery):
                wait, looked = collection.wait(), time.monotonic()
                progress(len(jobs) - len(collection.pending), len(jobs))
        arrived = []
        if collection.pending and wait.left_s <= 0:
            raise RolloutTimeoutError(_timeout_message(queue, collection.pending, patience.timeout_s))
        wait.tell()
        if time.monotonic() - looked > LOOK_FOR_LOST_S:
            collection.requeue_lost()
            looked = time.monotonic()  # of silence after the look, however long that took
    collection.result.groups.sort(key=lambda group: group.job.group)
    return collection.result


@dataclass
class _Collection:
    """The jobs still wanted, by id, and the results of the others."""

    queue: RunQueue
    pending: dict[str, rollout_pb2.RolloutJob]
    layout: Layout
    patience: Patience
    remedies: Remedies
    result: Collected = field(default_factory=Collected)
    replacements: Counter[int] = field(default_factory=Counter)  # by group

    def wait(self) -> Wait:
        """The wait for the next group, from now on."""
        first = next(iter(self.pending), "")
        return Wait(f"any of {len(self.pending)} groups ({first} …)", self.patience.timeout_s, logger.info)

    def settle(self, delivery: Delivery[trajectory_pb2.Trajectory]) -> bool:
        """Sort one trajectory in; True if it belongs to a pending job."""
        answered = job_of(delivery.message)
        job = self.pending.get(answered.job_id)
        if job is None or job != answered:
            if not self.queue.park(delivery):
                self.result.unexpected += 1
                self.queue.acknowledge([delivery.entry_id])
            return False
        failure = _failure(delivery.message, self.layout)
        if failure is None:
            self.result.groups.append(delivery.message.group)
            self.result.entry_ids.append(delivery.entry_id)
            del self.pending[job.job_id]
            return True
        self._fail(failure, job)
        self.queue.acknowledge([delivery.entry_id])  # a failure is in no update, so no checkpoint has to hold it
        return True

    def requeue_lost(self) -> None:
        """Submit again what a Redis that was killed has forgotten."""
        lost = self.queue.lost(self.pending.values())
        if lost:
            self.result.requeued += len(lost)
            logger.warning("Redis has lost %s: queued again", ", ".join(job.job_id for job in lost))
            self.queue.submit(lost)

    def _fail(self, failure: trajectory_pb2.GroupFailure, job: rollout_pb2.RolloutJob) -> None:
        self.result.failures[failure_name(failure.code)] += 1
        del self.pending[job.job_id]
        dead = failure.code == trajectory_pb2.FAILURE_CODE_DEAD_LETTER
        if dead or job.attempt + 1 >= self.patience.max_attempts:
            self._give_up(failure, job, dead)
            return
        if failure.code == trajectory_pb2.FAILURE_CODE_WEIGHTS_MISSING:
            self.remedies.repair(job)
        again = rollout_pb2.RolloutJob()
        again.CopyFrom(job)
        again.attempt = job.attempt + 1
        self._ask(again)

    def _give_up(self, failure: trajectory_pb2.GroupFailure, job: rollout_pb2.RolloutJob, dead: bool) -> None:
        reason = f"{failure_name(failure.code)}: {failure.detail}"
        if not dead:  # else the worker has buried it
            self.queue.bury(job, f"failed {job.attempt + 1} times, the last time with {reason}")
        self.replacements[job.group] += 1
        other = self.remedies.replace(job, self.replacements[job.group])
        if other is None:
            self.result.dropped.append(failure)
            return
        self.result.replaced += 1
        logger.warning(
            "%s (%r) is given up for %s (%r): %s", job.job_id, job.prompt, other.job_id, other.prompt, reason
        )
        self._ask(other)

    def _ask(self, job: rollout_pb2.RolloutJob) -> None:
        self.pending[job.job_id] = job
        self.queue.submit([job])


def _failure(trajectory: trajectory_pb2.Trajectory, layout: Layout) -> trajectory_pb2.GroupFailure | None:
    if trajectory.WhichOneof("outcome") == "failure":
        return trajectory.failure
    group = trajectory.group
    grids = tuple((grid.height, grid.width) for grid in group.grids)
    if Layout(grids, group.image_height, group.image_width, group.bits_per_site, group.codes) == layout:
        return None
    detail = "grids, image size or codebook: the worker sampled with another model than the trainer's"
    return trajectory_pb2.GroupFailure(
        job=group.job, code=trajectory_pb2.FAILURE_CODE_BAD_JOB, detail=detail, worker=group.worker
    )


def _timeout_message(queue: RunQueue, pending: dict[str, rollout_pb2.RolloutJob], timeout_s: float) -> str:
    job = next(iter(pending.values()))
    return (
        f"no group arrived for {timeout_s:g} s: "
        f"{len(pending)} of run {job.run_id!r} are missing ({', '.join(sorted(pending)[:4])} …), "
        f"{queue.backlog()} of their jobs were not even taken; "
        "is a rollout worker of this run id alive, and are its reward services ready?"
    )
