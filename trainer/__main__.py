"""Command line of the trainer: ``varl train recipes/tiny_ocr.toml [--key value …]``, or ``python -m trainer …``.

On several devices ``torchrun --nproc-per-node 8 -m varl.trainer …`` (docs/several_gpus.md).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

from pydantic import ValidationError
from pydantic_settings import SettingsError

from varl.launch.program import faults_of, program
from varl.launch.pulse import pulse
from varl.launch.resources import MissingFilesError
from varl.launch.streams import keep_streams
from varl.launch.supervisor import sigterm_as_exit
from varl.policy.base import layout_of
from varl.trainer.evaluator import evaluator
from varl.trainer.local_services import check_rewards, local_services
from varl.trainer.loop import train
from varl.trainer.parallel.launch import LaunchError, end_with, this_run
from varl.trainer.parallel.ranks import Ranks
from varl.trainer.parallel.state import shared_state
from varl.trainer.recipe.config import BadRecipeError, Recipe, parse_command
from varl.trainer.recipe.dry_run import check_files, dry_run_with_sizes
from varl.trainer.recipe.size.fit import DeviceMemoryError
from varl.trainer.run import trained_state
from varl.trainer.setup import PROBLEMS, given_redis, load_policies, open_queue
from varl.trainer.step.guards import GuardError

logger = logging.getLogger("trainer")


def main(arguments: Sequence[str]) -> int:
    """Train by a recipe, or with --dry-run print the resolved recipe and what would run.

    Returns the exit status: 0 done, 1 failed (the message says how; --resume goes on), 2 what no second attempt mends
    (a bad flag or setting, a recipe that is not there or cannot be read, a file that it names and that is not there, a
    dry run that does not fit the device), 3 stopped by a guard, 130 Ctrl-C. SIGTERM ends it with 143, after a
    checkpoint.
    """
    keep_streams()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    try:
        command = parse_command(arguments)
        recipe = command.settings()
        if command.local_services:
            check_rewards(recipe)
        if command.dry_run:
            sys.stdout.write(dry_run_with_sizes(recipe, command.device_memory, command.ranks))
            return 0
        check_files(recipe)
        with sigterm_as_exit(), pulse(logger.info), ExitStack() as stack:
            ranks = stack.enter_context(this_run(recipe))
            if ranks is not None and not ranks.leads:
                follow(recipe, ranks)
                return 0
            url = (
                stack.enter_context(local_services(recipe, logger.info)).redis_url
                if command.local_services
                else given_redis(recipe)
            )
            run(recipe, url, resume=command.resume == "auto", allow_changes=command.resume_changed, ranks=ranks)
    except ValidationError as error:
        return _fail(faults_of(error), status=2)
    except (SettingsError, MissingFilesError, BadRecipeError, LaunchError, DeviceMemoryError) as error:
        return _fail(str(error), status=2)
    except KeyboardInterrupt:
        return _fail("stopped; --resume goes on from the newest checkpoint", status=130)
    except GuardError as error:
        return _fail(f"{error}; the weights are as before this update", status=3)
    except PROBLEMS as error:
        return _fail(f"{type(error).__name__}: {error}")
    return 0


def run(recipe: Recipe, redis_url: str, resume: bool, allow_changes: bool, ranks: Ranks | None = None) -> None:
    """Load the models, connect to Redis and train; ``ranks``: the processes that share the work, None: this one."""
    trained, reference = load_policies(recipe)
    build = trained_state if ranks is None else partial(shared_state, ranks)
    with open_queue(recipe, redis_url) as queue:
        evaluate = evaluator(recipe, queue, layout_of(trained))
        train(recipe, trained, reference, queue, resume, evaluate, allow_changes, build)


def follow(recipe: Recipe, ranks: Ranks) -> None:
    """Train as one of many processes, as rank 0 says."""
    state = shared_state(ranks, recipe, *load_policies(recipe))
    ranks.follow(state.actions())


def _fail(message: str, status: int = 1) -> int:
    sys.stderr.write(f"{program('varl.trainer')}: {message}\n")
    return status


if __name__ == "__main__":
    end_with(partial(main, sys.argv[1:]))
