"""Everything a run needs, on this machine.

Redis, the reward services and a rollout worker, for the length of a ``with`` block.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from varl.launch.cores import usable_cores
from varl.launch.folder_lock import folder_lock
from varl.launch.private_redis import private_redis, redis_url_from_environment
from varl.launch.rewards import SYNTHETIC_NOTE, reward_command
from varl.launch.supervisor import Supervisor, postponed, unhurried_exit
from varl.launch.waits import DAY_S
from varl.services.reward.place import check_place
from varl.trainer.recipe.config import BadRecipeError, Recipe
from varl.trainer.recipe.sections import RewardSettings
from varl.trajectories.queue import RunQueue
from varl.trajectories.stream import connect

SERVICES_LOCK = "services.lock"
LEAST_SCORE_S = 120.0
PORTS = ("--grpc-port", "0", "--metrics-port", "0")
LOCAL_GRACE_S = "10"  # seconds, within which a supervisor that stops lets its children end
_log = logging.getLogger("varl.rewards")


@dataclass(frozen=True)
class LocalReward:
    """Where a reward service listens, as host:port."""

    http: str
    grpc: str


@dataclass(frozen=True)
class LocalServices:
    """Where the parts listen, as host:port; the rewards that were started here by name."""

    redis_url: str
    rewards: Mapping[str, LocalReward]
    rollout_grpc: str
    supervisor: Supervisor


@contextmanager
def local_services(recipe: Recipe, say: Callable[[str], None] = lambda line: None) -> Iterator[LocalServices]:
    """Start the parts that ``recipe`` names, each once the one before is ready; stop them in the opposite order.

    A reward with an address is used where it is; one with ``serve`` is started from there; ocr and hpsv3 are known by
    name.

    Redis is the recipe's, else REDIS_URL, else a private server that keeps its data in the run directory's redis/; logs
    go to its logs/. ``say`` is told what comes up.

    Raises:
        varl.launch.supervisor.ChildDiedError: a service ended, now or (in the main thread) at any time in the block.
        varl.launch.folder_lock.FolderHeldError: another process has services for this run directory.
        varl.launch.private_redis.RedisServerError: there is no Redis to use.
        varl.trainer.recipe.config.BadRecipeError: as ``check_rewards``.
    """
    directory, share = recipe.run.dir / recipe.run.name, max(1, usable_cores() // 2)
    commands = _rewards(recipe, share)
    if any(reward.is_synthetic for reward in recipe.rollout.rewards):
        _log.warning(SYNTHETIC_NOTE)
    with unhurried_exit() as stack:
        stack.enter_context(folder_lock(directory / SERVICES_LOCK))
        given = recipe.rollout.redis_url or redis_url_from_environment()
        with postponed():
            url = given or stack.enter_context(private_redis(directory / "redis"))
        say("Redis: the given one" if given else "Redis: a private server")
        if not given:  # nobody else uses it, so jobs in hand are those of a worker that was killed
            RunQueue(connect(url), recipe.run.name, "local-services").release_all()
        supervisor = stack.enter_context(Supervisor(directory / "logs"))
        rewards = {name: _start_reward(supervisor, name, command, say) for name, command in commands.items()}
        given_rewards = {reward.name: reward.address for reward in recipe.rollout.rewards if reward.address}
        grpc = given_rewards | {name: reward.grpc for name, reward in rewards.items()}
        rollout = supervisor.start("rollout", _rollout(recipe, grpc, share), {"VARL_ROLLOUT_REDIS_URL": url})
        rollout_grpc = f"127.0.0.1:{rollout['grpc_port']}"
        say(f"rollout worker: gRPC {rollout_grpc}")
        yield LocalServices(url, rewards, rollout_grpc, supervisor)


def check_rewards(recipe: Recipe) -> None:
    """Raise BadRecipeError where a reward is neither known here nor found by its ``serve``; nothing is started."""
    _rewards(recipe, share=1)


def _rewards(recipe: Recipe, share: int) -> dict[str, list[str]]:
    """Commands of the reward services that are to be started, by name; raises BadRecipeError."""
    return {
        reward.name: _command(f"rollout.rewards.{index}", reward, recipe.run.device, share)
        for index, reward in enumerate(recipe.rollout.rewards)
        if not reward.address
    }


def _command(setting: str, reward: RewardSettings, device: str, share: int) -> list[str]:
    try:
        if reward.serve:
            check_place(reward.serve)
            return reward_command(reward.serve, "--device", device, *reward.arguments)
        workers = ("--workers", str(share)) if reward.name == "ocr" else ()
        return reward_command(reward.name, *workers, *reward.arguments)
    except ValueError as error:
        hint = "" if reward.serve else "; say by serve or address where it is"
        raise BadRecipeError(f"{setting}.{'serve' if reward.serve else 'name'}: {error}{hint}") from error


def _start_reward(supervisor: Supervisor, name: str, command: list[str], say: Callable[[str], None]) -> LocalReward:
    ports = supervisor.start(name, command)
    reward = LocalReward(http=f"127.0.0.1:{ports['http_port']}", grpc=f"127.0.0.1:{ports['grpc_port']}")
    say(f"{name} reward service: gRPC {reward.grpc}, HTTP {reward.http}")
    return reward


def _rollout(recipe: Recipe, rewards: Mapping[str, str], threads: int) -> list[str]:
    # A reward that dies ends the run by itself; one that is slow, as on a busy machine, is waited for like a group.
    patience = ["--score-timeout-s", str(max(LEAST_SCORE_S, min(recipe.rollout.group_timeout_s, DAY_S)))]
    run = ["--run-id", recipe.run.name, "--model-dir", str(recipe.model.dir), *patience]
    run += [flag for name, address in rewards.items() for flag in ("--reward", f"{name}={address}")]
    compute = ["--device", recipe.run.device, "--dtype", recipe.model.dtype, "--threads", str(threads)]
    model = ["--plugin", recipe.model.plugin] if recipe.model.plugin else []
    store = recipe.checkpoint.weights_url
    elsewhere = "://" in store and not store.startswith("file://")
    model += ["--weights-prefix", "/", "--weights-prefix", store.rstrip("/")] if elsewhere else []
    return _module("varl.services.rollout", *run, *model, *compute, *PORTS, "--grace-seconds", LOCAL_GRACE_S)


def _module(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", name, *arguments]
