"""Command line of the trainer: ``python -m trainer recipes/tiny_ocr.toml [--key value …]``."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Sequence

import torch
from pydantic import ValidationError
from redis.exceptions import RedisError

import policy.nextflow
from trainer.collect import RolloutTimeoutError
from trainer.config import Recipe, parse_command
from trainer.evaluation import EvaluationError
from trainer.held_out import evaluator
from trainer.loop import RolloutFailedError, RunInUseError, train
from trainer.recipe_text import describe, to_toml
from trajectories.queue import RunQueue, connect
from trajectories.server import redis_url_from_environment

PROBLEMS = (OSError, ValueError, RedisError, RolloutTimeoutError, RolloutFailedError, RunInUseError, EvaluationError)


def main(arguments: Sequence[str]) -> int:
    """Train by a recipe, or with --dry-run print the resolved recipe and what would run; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    try:
        command = parse_command(arguments)
        recipe = command.settings()
        if command.dry_run:
            sys.stdout.write("\n".join([to_toml(recipe), *(f"# {line}" for line in describe(recipe).splitlines()), ""]))
            return 0
        run(recipe, resume=command.resume == "auto")
    except ValidationError as error:
        return _fail("\n".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()))
    except KeyboardInterrupt:
        return _fail("stopped; --resume auto goes on from the newest checkpoint", status=130)
    except PROBLEMS as error:
        return _fail(f"{type(error).__name__}: {error}")
    return 0


def run(recipe: Recipe, resume: bool) -> None:
    """Load the model twice (trained and reference), connect to Redis and train."""
    url = recipe.rollout.redis_url or redis_url_from_environment()
    if url is None:
        raise ValueError("rollout.redis_url is empty and REDIS_URL is not set")
    if recipe.run.threads:
        torch.set_num_threads(recipe.run.threads)
    trained, reference = (policy.nextflow.load(recipe.model.dir, recipe.run.device) for _ in range(2))
    queue = RunQueue(connect(url), recipe.run.name, f"trainer-{socket.gethostname()}-{os.getpid()}")
    train(recipe, trained, reference, queue, resume, evaluator(recipe, queue, trained.grids))


def _fail(message: str, status: int = 1) -> int:
    sys.stderr.write(f"python -m trainer: {message}\n")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
