"""The loop of a run: publish weights, have groups sampled and scored, update, measure, and save now and then.

Where it departs from the papers stands at the top of the package, ``trainer/__init__.py``.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

from varl.policy.base import TrainablePolicy
from varl.trainer.disk.metrics_log import METRICS_FILE, RunLog, read_rows
from varl.trainer.disk.wandb_run import WandbRun
from varl.trainer.progress.bar import TrainingBar
from varl.trainer.progress.time_left import TimeLeft, recorded_parts
from varl.trainer.recipe.config import Recipe
from varl.trainer.run import Build, Evaluate, Run, trained_state
from varl.trainer.step.guards import GuardError
from varl.trajectories.queue import RunQueue


def train(
    recipe: Recipe,
    policy: TrainablePolicy,
    reference: TrainablePolicy,
    queue: RunQueue,
    resume: bool,
    evaluate: Evaluate | None = None,
    allow_changes: bool = False,
    build: Build = trained_state,
    time_left: TimeLeft | None = None,
) -> Path:
    """Run a recipe to its end and return the run directory; raises as the methods of ``Run`` do.

    build: makes what is trained, here or with other processes (``varl.trainer.parallel``).
    time_left: learns what the parts of the run take, and knows of what the caller does after it.
    """
    run = Run(recipe, policy, reference, queue, evaluate, build)
    progress, last = run.start(resume, allow_changes), recipe.run.updates
    time_left = time_left or TimeLeft()
    time_left.record(recorded_parts(recipe, read_rows(run.directory / METRICS_FILE), progress.update))
    due, more = False, [WandbRun(recipe, run.directory)] if recipe.metrics.wandb else []
    with (
        TrainingBar(recipe, progress.update, time_left) as bar,
        RunLog(run.directory, progress.update, run.storage, more) as log,
    ):
        try:
            while progress.update < last:
                number, began = progress.update, time.monotonic()
                with ExitStack() as whole:  # an update and its line of metrics
                    try:
                        progress, metrics = run.update(progress, whole)
                    except GuardError as error:
                        log.write(number, error.metrics)  # the line that says why the run stopped
                        raise
                    log.write(number, metrics)
                run.give_up_if_empty(progress)
                done = time.monotonic()
                due = due or progress.update % recipe.checkpoint.every == 0
                saves = due or progress.update == last
                # Metrics reach the disk before the checkpoint that counts them as written.
                if progress.update == last:
                    log.sync()
                    run.save_last(progress)
                elif due:
                    log.sync()
                    due = not run.checkpoint_manager.save_or_postpone(progress)
                bar.updated(number, metrics, done - began, time.monotonic() - done if saves else None)
        except SystemExit:  # SIGTERM: what was done since the last checkpoint need not be done again
            run.save_before_exit(progress, log)
            raise
        try:
            ending = run.finish(progress)
        except GuardError as error:
            log.write(last, error.metrics)
            raise
        log.write(last, {"weight_version": float(last), **ending})
        bar.finished(ending)
    return run.directory
