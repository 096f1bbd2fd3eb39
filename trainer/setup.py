"""The parts of a run, built from its recipe.

What may go wrong with a run is told by messages where they say more than a traceback.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from redis.exceptions import RedisError

from varl.evaluation.evaluate import EvaluationError
from varl.launch.folder_lock import FolderHeldError, folder_lock
from varl.launch.private_redis import RedisServerError, redis_url_from_environment
from varl.launch.supervisor import ChildDiedError
from varl.launch.waits import Wait
from varl.policy.base import TrainablePolicy
from varl.policy.load import load
from varl.trainer.disk.retry import StorageError
from varl.trainer.recipe.changes import RecipeChangedError
from varl.trainer.recipe.config import Recipe
from varl.trainer.recipe.trained import choose_recompute, choose_trained
from varl.trainer.run import RolloutFailedError, RunInUseError
from varl.trajectories.access import RedisAccess, require_usable
from varl.trajectories.collect import RolloutTimeoutError
from varl.trajectories.lease import Lease, RunHeldError, held
from varl.trajectories.queue import RunQueue

TRAINER_LOCK = "trainer.lock"
HASTY_S, SLOW_S = 5.0, 60.0  # for an answer of Redis
PROBLEMS = (
    OSError,
    ValueError,
    RedisError,
    RedisServerError,
    ChildDiedError,
    RolloutTimeoutError,
    RolloutFailedError,
    RunInUseError,
    FolderHeldError,
    RunHeldError,
    RecipeChangedError,
    EvaluationError,
    StorageError,
)


def load_policies(recipe: Recipe) -> tuple[TrainablePolicy, TrainablePolicy]:
    """The base model to be trained, and the reference; sets torch's threads as the recipe says.

    The reference is a second copy or, where adapters are trained, the very same policy, whose adapters are then off.

    Raises:
        ValueError: the model's files, ``model.lora`` or ``optimizer.recompute`` do not fit.
        OSError: a file is missing or cannot be read.
    """
    if recipe.run.threads:
        torch.set_num_threads(recipe.run.threads)
    trained = _load(recipe)
    reference = trained if recipe.model.lora.rank else _load(recipe)
    choose_trained(trained, recipe.model, recipe.run.seed)
    choose_recompute(trained, recipe.optimizer.recompute)
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


@contextmanager
def open_queue(recipe: Recipe, redis_url: str) -> Iterator[RunQueue]:
    """The trainer's side of the run's queue, with the lock of its run directory and its lease in Redis.

    Raises:
        ValueError, OSError: the credentials that the recipe names do not fit, or the Redis is a cluster.
        varl.launch.folder_lock.FolderHeldError, varl.trajectories.lease.RunHeldError: another trainer has the run.
    """
    given, directory, name = recipe.rollout, recipe.run.dir / recipe.run.name, recipe.run.name
    access = RedisAccess(
        redis_url, given.redis_password_file, given.redis_ca_file, given.redis_cert_file, given.redis_key_file
    )
    with folder_lock(directory / TRAINER_LOCK) as folder, access.connect(HASTY_S) as hasty:
        with access.connect(SLOW_S) as first, Wait("Redis", SLOW_S).told_aside():
            require_usable(first)  # a wrong address is said at once; a Redis that goes away later is waited for
        with (
            access.connect(patience_s=given.group_timeout_s, let_in=True) as client,
            held(Lease(client, hasty, name, str(directory.resolve()), folder)) as lease,
        ):
            consumer = f"trainer-{socket.gethostname()}-{os.getpid()}"
            yield RunQueue(client, name, consumer, check_lease=lease.check)
