"""A run and its state: what one update does, what the start and the end of a run do."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from redis.exceptions import RedisError

from varl.evaluation.sample_grids import save_grid
from varl.launch.supervisor import postponed
from varl.policy.base import TrainablePolicy, layout_of
from varl.trainer.checkpoints.checkpoint import Progress, TrainedState
from varl.trainer.checkpoints.manager import CheckpointManager
from varl.trainer.disk.atomic import write_durably
from varl.trainer.disk.metrics_log import METRICS_FILE, RunLog
from varl.trainer.disk.retry import Storage, StorageError
from varl.trainer.objectives.vmr import Stage, trained_scales
from varl.trainer.recipe.changes import RecipeChangedError, differences, inputs, recipe_changes
from varl.trainer.recipe.config import Recipe
from varl.trainer.recipe.describe import to_toml
from varl.trainer.recipe.prompts import recipe_prompts
from varl.trainer.rollouts.jobs import PublishedWeights, replacement_job, sample_jobs, training_jobs
from varl.trainer.rollouts.prefetch import Prefetcher
from varl.trainer.rollouts.publish import Publisher, keep_final
from varl.trainer.step.batch import GroupBatch, to_batch
from varl.trainer.step.ema import WeightAverage
from varl.trainer.step.metrics import reward_metrics, rollout_metrics
from varl.trainer.step.update import UpdateOutcome, Updater
from varl.trajectories.collect import Collected, Patience, Remedies, collect, failure_name
from varl.trajectories.queue import RunQueue
from varl.v1 import rollout_pb2, trajectory_pb2

logger = logging.getLogger("trainer")
Evaluate = Callable[[PublishedWeights], dict[str, float]]
Build = Callable[[Recipe, TrainablePolicy, TrainablePolicy], TrainedState]


def trained_state(recipe: Recipe, policy: TrainablePolicy, reference: TrainablePolicy) -> TrainedState:
    """What a run trains in one process."""
    updater = Updater(policy, reference, recipe.objective, recipe.optimizer, recipe.guards)
    decay = recipe.optimizer.ema_decay
    return TrainedState(updater, WeightAverage(policy.module, decay) if decay else None)


class RunInUseError(RuntimeError):
    """The run directory holds another run."""


class RolloutFailedError(RuntimeError):
    """Update after update, every group was dropped; the message carries the last failure."""


class Run:
    """One run and its state; ``train`` drives it."""

    def __init__(
        self,
        recipe: Recipe,
        policy: TrainablePolicy,
        reference: TrainablePolicy,
        queue: RunQueue,
        evaluate: Evaluate | None,
        build: Build = trained_state,
    ) -> None:
        if recipe.objective.stages == "vmr":
            trained_scales(Stage.PREFIX, recipe.objective.split_scale, len(policy.grids))
        self._recipe, self._queue, self._evaluate = recipe, queue, evaluate
        self.directory = recipe.run.dir / recipe.run.name
        self._layout = layout_of(policy)
        self._inputs = inputs(recipe, reference.module)  # while this process still has all of the base
        state = build(recipe, policy, reference)
        self._updater, self._average = state.updater, state.average
        self._prompts = recipe_prompts(recipe, recipe.prompts.train)
        self._shown = recipe_prompts(recipe, recipe.prompts.held_out)[: recipe.metrics.sample_prompts]
        self._patience = Patience(recipe.rollout.group_timeout_s, recipe.rollout.max_attempts)
        staleness, saved = recipe.rollout.max_staleness, recipe.checkpoint
        keep = max(saved.keep_weights, staleness + 2)
        self.storage = Storage(saved.disk_patience_s)
        self._publisher = Publisher(
            self.directory / "weights", self._updater, self._average, keep, saved.weights_url, self.storage
        )
        self._prefetcher = Prefetcher(queue, self._publisher, self._training_jobs, staleness, recipe.run.updates)
        folder, files = self.directory / "checkpoints", self._prefetcher.files
        self.checkpoint_manager = CheckpointManager(folder, saved, state, queue, self._notes, files, self.storage)
        self._last_dropped: trajectory_pb2.GroupFailure | None = None

    def start(self, resume: bool, allow_changes: bool = False) -> Progress:
        """Begin, or go on from the newest checkpoint.

        Whatever the queue holds is dropped, for all of it is asked for again.

        Raises:
            RunInUseError: the directory holds a run and ``resume`` is False.
            RecipeChangedError: it holds a run of another recipe, model or prompts, and ``allow_changes`` is False.
        """
        if not resume and (self.checkpoint_manager.exists() or (self.directory / METRICS_FILE).exists()):
            raise RunInUseError(f"{self.directory} holds a run: pass --resume to go on with it, or another --run.name")
        config = self.directory / "config.toml"
        changes = recipe_changes(config, self._recipe) if resume and config.exists() else []
        self._refuse(changes, allow_changes)
        found = self.checkpoint_manager.restore()
        progress = found.progress if found else Progress(0, 0)
        changes = differences(found.notes["inputs"], self._inputs) if found else []
        self._refuse([f"content of {change}" for change in changes], allow_changes)
        self.directory.mkdir(parents=True, exist_ok=True)
        write_durably(config, to_toml(self._recipe))
        # What the checkpoint holds needs no second look, and what came after it is drawn again, from the same seeds.
        dropped = self._queue.purge(0)
        self._prefetcher.resume(progress.update, found.path if found else None)
        logger.info(
            "run %s starts at update %d; dropped from the queue: %d", self._recipe.run.name, progress.update, dropped
        )
        return progress

    def update(self, progress: Progress, whole: ExitStack) -> tuple[Progress, dict[str, float]]:
        """One update with its rollout.

        From the arrival of its groups until ``whole`` is closed SIGTERM waits, so that progress and weights agree.

        Raises:
            RolloutTimeoutError: workers went silent.
        """
        begin, number = time.monotonic(), progress.update
        # Look at the weights as they stand, where an evaluation or a sample grid is due; the best checkpoint is known
        # by it.
        metrics = {"weight_version": float(number), **self._watch(number)}
        self.checkpoint_manager.judge(progress, metrics)
        # Publish the weights and queue this update's jobs, unless an earlier update has queued them already.
        jobs = self._prefetcher.jobs_of(number)
        start = time.monotonic()
        logger.info("update %d: waiting for groups", number)
        collected = collect(
            self._queue, jobs, self._layout, self._patience, remedies=Remedies(self._replacement, self._repair)
        )
        whole.enter_context(postponed((signal.SIGTERM,)))
        # Acknowledged with the next checkpoint, not before: a trainer that dies now gets these groups again.
        self.checkpoint_manager.use(collected.entry_ids)
        # A group that came too late is not trained on: its weights are too old.
        fresh = [
            group
            for group in collected.groups
            if number - group.job.weight_version <= self._recipe.rollout.max_staleness
        ]
        batches = [self._batch(group, number) for group in fresh]
        received = time.monotonic()
        logger.info("update %d: updating on %d groups", number, len(batches))
        # One optimiser step, or none where a guard objects.
        outcome, measured = self._updater.update(
            batches, number, self._is_due(number, self._recipe.metrics.diagnostics_every)
        )
        logger.info("update %d: %s", number, outcome.value)
        self._report(number, outcome, collected)
        if batches:  # what was dropped before is not why nothing arrives
            self._last_dropped = None
        if outcome is UpdateOutcome.STEPPED and self._average is not None:
            self._average.update()
        # What it was made of, and what went wrong on the way.
        metrics |= (
            reward_metrics(batches)
            | measured
            | rollout_metrics(fresh, number)
            | _failure_metrics(collected, len(fresh), outcome)
        )
        undecodable = self._queue.undecodable
        metrics |= _positive(
            {"checkpoint/failures": self.checkpoint_manager.failures, "trajectories/undecodable": undecodable.total()}
        )
        metrics |= _positive({f"trajectories/undecodable/{reason}": count for reason, count in undecodable.items()})
        metrics |= _positive(
            {"disk/refusals": self.storage.refusals, "groups/stale": len(collected.groups) - len(fresh)}
        )
        end = time.monotonic()
        metrics |= {"timing/rollout": received - start, "timing/update": end - received, "timing/total": end - begin}
        return Progress(number + 1, 0 if batches else progress.empty_updates + 1), metrics

    def finish(self, progress: Progress) -> dict[str, float]:
        """Evaluate the trained weights once more and leave them as weights/final.safetensors.

        If averages are kept, those are left instead.
        """
        metrics = self._watch(progress.update, last=True)
        self.checkpoint_manager.judge(progress, metrics)
        weights = self._publisher.publish_average(progress.update)
        self.storage.keep_trying("final weights", lambda: keep_final(weights))
        return metrics

    def save_last(self, progress: Progress) -> None:
        """Write the checkpoint of the run's end, which no later one can make up for."""
        self.storage.keep_trying(f"checkpoint {progress.update}", lambda: self.checkpoint_manager.save(progress))

    def save_before_exit(self, progress: Progress, log: RunLog) -> None:
        """Write a checkpoint of a run that was told to stop between two updates."""
        logger.info("told to stop: saving update %d", progress.update)
        try:
            log.sync()
            self.checkpoint_manager.save_newer(progress)
        except (OSError, StorageError, RedisError, RuntimeError) as error:  # RuntimeError: another rank is dead
            logger.error("checkpoint %d: could not be written: %s", progress.update, error)

    def give_up_if_empty(self, progress: Progress) -> None:
        """Raise RolloutFailedError where too many updates in a row were left without a group."""
        failure = self._last_dropped
        if failure is not None and progress.empty_updates >= self._recipe.rollout.max_empty_updates:
            raise RolloutFailedError(
                f"every group of {progress.empty_updates} updates in a row failed; "
                f"the last one, {failure.job.job_id} at worker "
                f"{failure.worker!r}: {failure_name(failure.code)}: {failure.detail}"
            )

    def _watch(self, number: int, last: bool = False) -> dict[str, float]:
        """Sample grid and evaluation of the weights before an update, where they are due."""
        samples, every, metrics = self._recipe.metrics.samples_every, self._recipe.evaluation.every, dict[str, float]()
        grid = samples and (last or self._is_due(number, samples))
        evaluation = self._evaluate if every and (last or self._is_due(number, every)) else None
        if not grid and evaluation is None:
            return metrics
        weights = self._publisher.publish_average(number)
        if grid:
            start = time.monotonic()
            jobs = sample_jobs(self._recipe, number, self._shown, weights)
            collected = collect(self._queue, jobs, self._layout, self._patience)
            self._queue.acknowledge(collected.entry_ids)
            self.storage.keep_trying(
                f"samples {number}",
                lambda: save_grid(self.directory / "samples", number, self._shown, collected.groups),
            )
            metrics["timing/samples"] = time.monotonic() - start
        if evaluation is not None:
            start = time.monotonic()
            metrics |= evaluation(weights)
            metrics["timing/evaluation"] = time.monotonic() - start
        return metrics

    def _notes(self, progress: Progress) -> dict[str, Any]:
        cursor = progress.update * self._recipe.rollout.prompts_per_update
        return {"inputs": self._inputs, "prompt_cursor": cursor, "grad_norms": self._updater.norms}

    def _refuse(self, changes: list[str], allow_changes: bool) -> None:
        if changes and not allow_changes:
            raise RecipeChangedError(
                f"{self.directory} holds a run by another recipe; "
                "--resume-changed goes on all the same. It differs in:\n  " + "\n  ".join(changes)
            )
        for change in changes:
            logger.warning("going on with a changed recipe: %s", change)

    def _training_jobs(self, update: int, weights: PublishedWeights) -> list[rollout_pb2.RolloutJob]:
        return training_jobs(self._recipe, update, self._prompts, weights)

    def _replacement(self, failed: rollout_pb2.RolloutJob, count: int) -> rollout_pb2.RolloutJob | None:
        if count > self._recipe.rollout.max_replacements:
            return None
        return replacement_job(self._recipe, self._prompts, failed, count)

    def _repair(self, job: rollout_pb2.RolloutJob) -> None:
        """Write the weights again that a worker could not read.

        Those of this update from memory, older ones from their file.
        """
        logger.warning(
            "weights %d are published again: no worker could read them for %s", job.weight_version, job.job_id
        )
        if job.weight_version == job.update:
            self._publisher.publish(job.weight_version)
        else:
            self._publisher.find(job.weight_version)

    def _batch(self, group: trajectory_pb2.Group, number: int) -> GroupBatch:
        factors = {reward.name: reward.weight for reward in self._recipe.rollout.rewards}
        return to_batch(group, factors, self._recipe.objective, number - group.job.weight_version)

    def _is_due(self, number: int, every: int) -> bool:
        return bool(every) and number % every == 0

    def _report(self, number: int, outcome: UpdateOutcome, collected: Collected) -> None:
        for failure in collected.dropped:
            self._last_dropped = failure
            logger.warning(
                "update %d: dropped %s: %s: %s", number, failure.job.job_id, failure_name(failure.code), failure.detail
            )
        if outcome is not UpdateOutcome.STEPPED:
            logger.warning("update %d: weights left as they were: %s", number, outcome.value)


def _failure_metrics(collected: Collected, used: int, outcome: UpdateOutcome) -> dict[str, float]:
    counts = {f"failures/{name}": float(count) for name, count in sorted(collected.failures.items())}
    counts |= {"groups/used": float(used), "groups/dropped": float(len(collected.dropped))}
    counts |= _positive({f"groups/{name}": getattr(collected, name) for name in ("replaced", "unexpected", "requeued")})
    if outcome is not UpdateOutcome.STEPPED:
        counts[f"skipped/{outcome.value}"] = 1.0
    return counts


def _positive(counts: dict[str, int]) -> dict[str, float]:
    """Counts of what should not happen, where it did."""
    return {name: float(count) for name, count in counts.items() if count}
