"""The parts of a run, built from its recipe.

What may go wrong with a run is told by messages where they say more than a traceback.
"""

from __future__ import annotations

import os
import socket

import torch
from redis.exceptions import RedisError

from varl.evaluation.evaluate import EvaluationError
from varl.launch.private_redis import RedisServerError, redis_url_from_environment
from varl.launch.supervisor import ChildDiedError
from varl.policy.base import TrainablePolicy
from varl.policy.load import load
from varl.trainer.disk.retry import StorageError
from varl.trainer.loop import RolloutFailedError, RunInUseError
from varl.trainer.recipe.changes import RecipeChangedError
from varl.trainer.recipe.config import Recipe
from varl.trainer.recipe.trained import choose_trained
from varl.trajectories.access import RedisAccess
from varl.trajectories.collect import RolloutTimeoutError
from varl.trajectories.queue import RunQueue

PROBLEMS = (
    OSError,
    ValueError,
    RedisError,
    RedisServerError,
    ChildDiedError,
    RolloutTimeoutError,
    RolloutFailedError,
    RunInUseError,
    RecipeChangedError,
    EvaluationError,
    StorageError,
)


def load_policies(recipe: Recipe) -> tuple[TrainablePolicy, TrainablePolicy]:
    """The base model to be trained, and the reference; sets torch's threads as the recipe says.

    The reference is a second copy or, where adapters are trained, the very same policy, whose adapters are then off.

    Raises:
        ValueError: the model's files or ``model.lora`` do not fit.
        OSError: a file is missing or cannot be read.
    """
    if recipe.run.threads:
        torch.set_num_threads(recipe.run.threads)
    trained = _load(recipe)
    reference = trained if recipe.model.lora.rank else _load(recipe)
    choose_trained(trained, recipe.model, recipe.run.seed)
    return trained, reference


def _load(recipe: Recipe) -> TrainablePolicy:
    return load(recipe.model.dir, recipe.run.device, recipe.model.dtype, recipe.model.plugin)


def given_redis(recipe: Recipe) -> str:
    """URL of the Redis that the recipe or the environment names; raises ValueError where neither does."""
    url = recipe.rollout.redis_url or redis_url_from_environment()
    if url is None:
        raise ValueError(
            "rollout.redis_url is empty and REDIS_URL is not set: set one, or let local services be started"
        )
    return url


def open_queue(recipe: Recipe, redis_url: str) -> RunQueue:
    """Open the trainer's side of the run's queue.

    Raises ValueError and OSError where the credentials that the recipe names do not fit.
    """
    given = recipe.rollout
    access = RedisAccess(
        redis_url, given.redis_password_file, given.redis_ca_file, given.redis_cert_file, given.redis_key_file
    )
    with access.connect() as client:
        client.ping()  # a wrong address is said at once; a Redis that goes away later is waited for
    return RunQueue(
        access.connect(patience_s=given.group_timeout_s),
        recipe.run.name,
        f"trainer-{socket.gethostname()}-{os.getpid()}",
    )
