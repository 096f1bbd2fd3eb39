"""The job loop: while one group is being scored, the next one is generated."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from redis.exceptions import RedisError

from varl.launch.waits import Wait
from varl.policy.base import Policy
from varl.services.rollout.assembly import SampledGroup, Timings, build_group
from varl.services.rollout.generation import Limits, TokensStep, generate
from varl.services.rollout.metrics import Metrics
from varl.services.rollout.model import ModelThread, Weights
from varl.services.rollout.scoring import BatchScorer, ScoredBatch, ScoringFailure
from varl.trajectories.collect import failure_name
from varl.trajectories.deliveries import Delivery
from varl.trajectories.problems import CodecError
from varl.trajectories.queue import RunQueue
from varl.v1 import rollout_pb2, trajectory_pb2

T = TypeVar("T")
ScoreTask = asyncio.Task[ScoredBatch | ScoringFailure]
JobDelivery = Delivery[rollout_pb2.RolloutJob]
BLOCK_MS = 500  # also how soon a stop is noticed
LONGEST_PAUSE_S = 5.0
IDLE_TOLD_S = 300.0  # from one line of a worker without jobs to the next
_log = logging.getLogger("varl.rollout")


@dataclass(frozen=True)
class Parts:
    """What a worker works with."""

    policy: Policy
    weights: Weights
    model: ModelThread
    scorer: BatchScorer
    queue: RunQueue
    metrics: Metrics


@dataclass(frozen=True)
class WorkerSettings:
    """Settings of a worker.

    name: in every trajectory. concurrency: jobs in hand at a time. min_idle_ms: idle time after which a job counts as
    left by a dead worker. limits: of a batch. score_timeout_s: how long a reward may take over a request. grace_s: how
    long jobs in hand may take once the worker is told to stop; then others get them.
    """

    name: str
    concurrency: int
    min_idle_ms: int
    limits: Limits
    score_timeout_s: float = 120.0
    grace_s: float = 100.0


class Worker:
    """Takes jobs until ``stop`` is set, then finishes those in hand."""

    def __init__(self, parts: Parts, settings: WorkerSettings, stop: asyncio.Event) -> None:
        self._parts, self._settings, self._stop = parts, settings, stop
        self._taking = asyncio.Lock()
        self._left: dict[
            str, float
        ] = {}  # entry id -> when this worker looks again at a job that it has left to others

    async def run(self) -> None:
        """Process jobs. Raises torch.AcceleratorError: the device's state is lost, and only a new process helps."""
        async with asyncio.TaskGroup() as group:
            loops = [group.create_task(self._loop()) for _ in range(self._settings.concurrency)]
            group.create_task(self._end_in_time(loops))
        await self._redis(self._parts.queue.leave)

    async def _end_in_time(self, loops: Sequence[asyncio.Task[None]]) -> None:
        """Give up what is in hand too long after the stop: a reward that is gone as well would hold the worker."""
        await self._stop.wait()
        _, late = await asyncio.wait(loops, timeout=self._settings.grace_s)
        for loop in late:
            _log.warning(
                "a job in hand was not done %g s after the stop; another worker gets it", self._settings.grace_s
            )
            loop.cancel()

    async def _loop(self) -> None:
        wait = self._idle()
        while not self._stop.is_set():
            delivery = await self._take()
            if delivery is None:
                wait.tell()
                continue
            with self._parts.metrics.jobs_in_hand.track_inprogress():
                await self._settle(delivery)
            wait = self._idle()

    def _idle(self) -> Wait:
        return Wait("a job", say=_log.info, then_s=IDLE_TOLD_S)

    async def _take(self) -> JobDelivery | None:
        async with self._taking:  # one blocking read at a time, and jobs reach the model in the order of the queue
            if self._stop.is_set():
                return None
            self._left = {entry_id: until for entry_id, until in self._left.items() if until > time.monotonic()}
            return await self._redis(
                self._parts.queue.take_job, BLOCK_MS, self._settings.min_idle_ms, frozenset(self._left)
            )

    async def _settle(self, delivery: JobDelivery) -> None:
        try:
            async with self._heartbeats(delivery.entry_id):
                trajectory = await self._roll_out(delivery.message)
        except torch.AcceleratorError:
            raise
        except (
            Exception
        ):  # a defect met on one job must not end the others; it is redelivered, and dead-lettered in the end
            _log.exception("job %s failed unexpectedly and stays pending", delivery.message.job_id)
            self._parts.metrics.groups.labels("crashed").inc()
            return
        if _lacks_weights(trajectory) and delivery.deliveries < self._parts.queue.max_deliveries:
            await self._leave_to_others(delivery, trajectory.failure.detail)
        else:
            await self._publish(delivery, trajectory)

    async def _leave_to_others(self, delivery: JobDelivery, detail: str) -> None:
        """Hand a job back whose weights cannot be had here.

        Another worker may have them, and this one may have them later.
        """
        _log.warning("job %s (delivery %d) is left to others: %s", delivery.message.job_id, delivery.deliveries, detail)
        self._parts.metrics.groups.labels("left_to_others").inc()
        self._left[delivery.entry_id] = time.monotonic() + self._settings.min_idle_ms / 1000
        await self._redis(self._parts.queue.release, delivery.entry_id, self._settings.min_idle_ms)

    async def _publish(self, delivery: JobDelivery, trajectory: trajectory_pb2.Trajectory) -> None:
        try:
            published = await self._redis(self._parts.queue.publish, delivery, trajectory)
        except CodecError as error:  # log-probs of a diverged policy
            trajectory = self._failure(
                delivery.message, ScoringFailure(trajectory_pb2.FAILURE_CODE_BAD_JOB, error.detail)
            )
            published = await self._redis(self._parts.queue.publish, delivery, trajectory)
        # False: another worker was first, or the trainer purged the job. None: Redis was unavailable when the worker
        # had to stop.
        outcome = _outcome(trajectory) if published else "superseded" if published is False else "unpublished"
        self._parts.metrics.groups.labels(outcome).inc()
        _log.info(
            "job %s (delivery %d): %s %s",
            delivery.message.job_id,
            delivery.deliveries,
            outcome,
            trajectory.failure.detail,
        )

    async def _roll_out(self, job: rollout_pb2.RolloutJob) -> trajectory_pb2.Trajectory:
        group = await self._group(job)
        return (
            self._failure(job, group) if isinstance(group, ScoringFailure) else trajectory_pb2.Trajectory(group=group)
        )

    def _failure(self, job: rollout_pb2.RolloutJob, failure: ScoringFailure) -> trajectory_pb2.Trajectory:
        message = trajectory_pb2.GroupFailure(
            job=job, code=failure.code, detail=failure.detail, worker=self._settings.name
        )
        return trajectory_pb2.Trajectory(failure=message)

    async def _group(self, job: rollout_pb2.RolloutJob) -> trajectory_pb2.Group | ScoringFailure:
        # A reward nobody serves is known before anything is generated.
        lacking = self._parts.scorer.lacking(job.rewards)
        if lacking:
            return ScoringFailure(
                trajectory_pb2.FAILURE_CODE_REWARD_UNAVAILABLE, f"no service is configured for rewards {lacking}"
            )
        sampled, tasks, clock = SampledGroup(), list[ScoreTask](), _Clock()
        # One job has the model at a time; its images are scored while the next ones are generated, and while the next
        # job has it.
        turn = Wait(f"the turn of job {job.job_id} at the model", say=_log.info, then_s=IDLE_TOLD_S)
        async with AsyncExitStack() as own_turn:
            async with turn.telling():
                await own_turn.enter_async_context(self._parts.model.exclusive())
            failure = await self._generate(job, sampled, tasks, clock)
        async with Wait(f"the scores of job {job.job_id}", self._settings.score_timeout_s, _log.info).telling():
            batches = await asyncio.gather(*tasks)
        # One failed batch loses the group: a failure is never a reward of 0.
        failures = [batch for batch in batches if isinstance(batch, ScoringFailure)]
        if failure is not None or failures:
            return failure or failures[0]
        timings = clock.timings()
        # Assemble tokens, masks and rewards into the message that the trainer reads.
        self._parts.metrics.generate_seconds.observe(timings.generate)
        self._parts.metrics.score_seconds.observe(timings.score)
        scored = [batch for batch in batches if isinstance(batch, ScoredBatch)]
        group = build_group(job, self._parts.policy, sampled, scored, self._settings.name, timings)
        for name in () if isinstance(group, ScoringFailure) else group.absent_rewards:
            self._parts.metrics.absent.labels(name).inc()
        return group

    async def _generate(
        self, job: rollout_pb2.RolloutJob, sampled: SampledGroup, tasks: list[ScoreTask], clock: _Clock
    ) -> ScoringFailure | None:
        # Load the job's weights, unless the model holds them already.
        wait = Wait(f"the weights {job.weight_path or 'of the base'} of job {job.job_id} to be fetched and loaded")
        async with wait.telling():
            detail = await self._parts.model.call(self._parts.weights.use, job.weight_version, job.weight_path)
        if detail is not None:
            return ScoringFailure(trajectory_pb2.FAILURE_CODE_WEIGHTS_MISSING, detail)
        self._parts.metrics.weight_version.set(job.weight_version)
        # Sample scale by scale; every batch of decoded images goes to the rewards at once.
        clock.generating()
        try:
            async for step in self._parts.model.steps(generate(self._parts.policy, job, self._settings.limits)):
                clock.generated()
                if isinstance(step, TokensStep):
                    sampled.add(step)
                else:
                    self._parts.metrics.images.inc(len(step.places))
                    room = Wait(f"a reward to have room for job {job.job_id}", self._settings.score_timeout_s)
                    async with room.telling():
                        tasks.append(await self._parts.scorer.start(job, step))
                    clock.sent()
                if any(task.done() and isinstance(task.result(), ScoringFailure) for task in tasks):
                    break  # the group is lost: spend no more on it
                clock.generating()
        except ValueError as error:
            return ScoringFailure(trajectory_pb2.FAILURE_CODE_BAD_JOB, str(error))
        return None

    @asynccontextmanager
    async def _heartbeats(self, entry_id: str) -> AsyncIterator[None]:
        task = asyncio.create_task(self._beat(entry_id))
        try:
            yield
        finally:
            task.cancel()

    async def _beat(self, entry_id: str) -> None:
        while True:
            await asyncio.sleep(self._settings.min_idle_ms / 3000)
            try:
                await asyncio.to_thread(self._parts.queue.heartbeat, entry_id)
            except RedisError as error:
                _log.warning("heartbeat failed: %s", error)

    async def _redis(self, command: Callable[..., T], *arguments: object) -> T | None:
        """Call Redis, again and again while it is unavailable; None where the worker is told to stop meanwhile."""
        pause, refused, wait = 0.1, False, Wait("Redis", say=_log.warning)
        while True:
            try:
                async with wait.telling():
                    return await asyncio.to_thread(command, *arguments)
            except RedisError as error:
                if not refused:
                    refused = True
                    _log.warning("Redis: %s: %s; trying again", type(error).__name__, error)
                wait.tell(f"{type(error).__name__}: {error}")
                if self._stop.is_set():
                    return None
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)


class _Clock:
    """Sums the time spent in model work, without the waits between its pieces, and notes when scoring began."""

    def __init__(self) -> None:
        self._generate, self._began, self._first_sent = 0.0, 0.0, 0.0

    def generating(self) -> None:
        self._began = time.monotonic()

    def generated(self) -> None:
        self._generate += time.monotonic() - self._began

    def sent(self) -> None:
        self._first_sent = self._first_sent or time.monotonic()

    def timings(self) -> Timings:
        return Timings(self._generate, time.monotonic() - self._first_sent)


def _lacks_weights(trajectory: trajectory_pb2.Trajectory) -> bool:
    return trajectory.failure.code == trajectory_pb2.FAILURE_CODE_WEIGHTS_MISSING


def _outcome(trajectory: trajectory_pb2.Trajectory) -> str:
    if trajectory.WhichOneof("outcome") == "group":
        return "ok"
    return failure_name(trajectory.failure.code)
