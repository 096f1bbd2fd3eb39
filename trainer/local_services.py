"""Everything a run needs, on this machine: Redis, the OCR reward service and a rollout worker, for the length of a ``with`` block."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from trainer.config import Recipe
from trainer.supervisor import Supervisor, postponed, unhurried_exit
from trajectories.server import private_redis, redis_url_from_environment


@dataclass(frozen=True)
class LocalServices:
    """Where the parts listen, as host:port."""

    redis_url: str
    ocr_http: str
    ocr_grpc: str
    rollout_grpc: str
    supervisor: Supervisor


@contextmanager
def local_services(recipe: Recipe, say: Callable[[str], None] = lambda line: None) -> Iterator[LocalServices]:
    """Start the parts that ``recipe`` needs, each once the one before is ready; stop them in the opposite order.

    Redis is the recipe's, else REDIS_URL, else a private server that keeps its data in the run directory's redis/; logs go to its logs/.
    ``say`` is told what comes up.

    Raises:
        trainer.supervisor.ChildDiedError: a service ended, now or (in the main thread) at any time in the block.
        trajectories.server.RedisServerError: there is no Redis to use.
        ValueError: the recipe asks for a reward that is not started here.
    """
    unknown = {reward.name for reward in recipe.rollout.rewards} - {"ocr"}
    if unknown:
        raise ValueError(f"rollout.rewards: only ocr is started locally, not {', '.join(sorted(unknown))}")
    directory, share = recipe.run.dir / recipe.run.name, max(1, len(os.sched_getaffinity(0)) // 2)
    with unhurried_exit() as stack:
        given = recipe.rollout.redis_url or redis_url_from_environment()
        with postponed():
            url = given or stack.enter_context(private_redis(directory / "redis"))
        say("Redis: the given one" if given else "Redis: a private server")
        supervisor = stack.enter_context(Supervisor(directory / "logs"))
        ocr = supervisor.start("ocr", _module("services.ocr", "--http-port", "0", "--grpc-port", "0", "--workers", str(share)))
        ocr_http, ocr_grpc = f"127.0.0.1:{ocr['http_port']}", f"127.0.0.1:{ocr['grpc_port']}"
        say(f"OCR reward service: gRPC {ocr_grpc}, HTTP {ocr_http}")
        rollout = supervisor.start("rollout", _rollout(recipe, ocr_grpc, share), {"VARL_ROLLOUT_REDIS_URL": url})
        rollout_grpc = f"127.0.0.1:{rollout['grpc_port']}"
        say(f"rollout worker: gRPC {rollout_grpc}")
        yield LocalServices(url, ocr_http, ocr_grpc, rollout_grpc, supervisor)


def _rollout(recipe: Recipe, ocr: str, threads: int) -> list[str]:
    run = ["--run-id", recipe.run.name, "--model-dir", str(recipe.model.dir), "--reward", f"ocr={ocr}"]
    compute = ["--device", recipe.run.device, "--threads", str(threads)]
    return _module("services.rollout", *run, *compute, "--grpc-port", "0", "--metrics-port", "0")


def _module(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", name, *arguments]
