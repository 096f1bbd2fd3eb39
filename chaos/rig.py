"""All processes of one run: Redis, its standby and the OCR service behind proxies, two rollout workers, the trainer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import redis.asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from chaos.home import REDIS_READY, Home, flags, module
from chaos.part import Part
from chaos.proxy import Link, link_to
from varl.launch.ports import reserve_port
from varl.trainer.recipe.config import Recipe, load_recipe

RECIPE = Path(__file__).with_name("recipe.toml")
WORKERS = 2
MIN_IDLE_S = 2.0  # a worker that is silent for longer counts as dead
MAX_DELIVERIES = 6
MAX_PROMPT_CHARS = 5000  # above the OCR service's 4096: such a prompt is drawn, and no reward takes it
BEGINS = r"run \S+ starts at update (\d+)"


@dataclass(frozen=True)
class RunSpec(Home):
    """One run and its home."""

    name: str
    updates: int
    seed: int

    @property
    def flags(self) -> list[str]:
        """What the trainer is given beside the recipe's file."""
        run = {"name": self.name, "dir": self.out / "runs", "updates": self.updates, "seed": self.seed}
        return flags({f"run.{key}": value for key, value in run.items()})

    @property
    def recipe(self) -> Recipe:
        """The recipe as resolved."""
        return load_recipe(RECIPE, self.flags)

    @property
    def directory(self) -> Path:
        """The run directory."""
        return self.out / "runs" / self.name


@dataclass(frozen=True)
class RedisServer:
    """One of the two Redis servers; ``client`` goes around the proxies."""

    part: Part
    port: int
    client: redis.asyncio.Redis


class Rig:
    """The parts of a run, and the ways between them. trainer_redis, worker_redis and ocr_link are proxies.

    Of the two Redis servers one is the primary, to which the proxies lead, and the other its replica.
    """

    def __init__(
        self, spec: RunSpec, ports: list[int], trainer_redis: Link, worker_redis: Link, ocr_link: Link
    ) -> None:
        self.spec, self.recipe = spec, spec.recipe
        self.trainer_redis, self.worker_redis, self.ocr_link = trainer_redis, worker_redis, ocr_link
        redis_port, standby_port, ocr_http, ocr_grpc, *worker_ports = ports
        self.worker_ports = worker_ports[:WORKERS]
        self.primary, self.standby = self._redis("redis", redis_port), self._redis("standby", standby_port)
        self._redis_parts = [self.primary.part, self.standby.part]
        ocr = module("varl.services.ocr", "--workers", "1", "--http-port", str(ocr_http), "--grpc-port", str(ocr_grpc))
        self.ocr = spec.part("ocr", ocr)
        self.workers = [
            self._worker(index, *ports_of)
            for index, ports_of in enumerate(zip(self.worker_ports, worker_ports[WORKERS:], strict=True))
        ]
        self.trainer = spec.part("trainer", self.trainer_command(), BEGINS, final=(0, 2, 3))

    @property
    def parts(self) -> list[Part]:
        """In the order in which they start."""
        return [*self._redis_parts, self.ocr, *self.workers, self.trainer]

    @property
    def redis(self) -> redis.asyncio.Redis:
        """A client of the primary that goes around the proxies."""
        return self.primary.client

    @property
    def redis_part(self) -> Part:
        """The primary's process."""
        return self.primary.part

    def trainer_command(self, *more: str) -> list[str]:
        """The trainer, with ``more`` flags after its own."""
        url = f"redis://127.0.0.1:{self.trainer_redis.port}"
        return module("trainer", str(RECIPE), *self.spec.flags, "--rollout.redis_url", url, "--resume", *more)

    def key(self, stream: str) -> str:
        """Redis key of the run's stream "jobs", "trajectories" or "dead"."""
        return f"varl:{self.spec.name}:{stream}"

    @property
    def links(self) -> list[Link]:
        """Both ways to Redis."""
        return [self.trainer_redis, self.worker_redis]

    async def start(self) -> None:
        """Start everything, each part once those that it needs are ready."""
        self.spec.make()
        for stage in ([*self._redis_parts, self.ocr], self.workers):
            for part in stage:
                part.start()
            await asyncio.gather(*(part.ready(0) for part in stage))
        await self.standby.client.replicaof("127.0.0.1", str(self.primary.port))
        self.trainer.start()

    async def stop(self) -> None:
        """Stop everything, in the opposite order."""
        for server in (self.primary, self.standby):
            await server.client.aclose()
        for part in reversed(self.parts):
            await part.stop()

    def swap_servers(self) -> None:
        """Call the standby the primary from now on; where the proxies lead is another matter."""
        self.primary, self.standby = self.standby, self.primary

    async def progress(self, update: int) -> None:
        """Return once the trainer has begun this update, or a later one."""
        position = 0
        while True:
            position, match = await self.trainer.log.wait(r"update (\d+): waiting for groups", position)
            if int(match[1]) >= update:
                return
            position += 1

    def _redis(self, name: str, port: int) -> RedisServer:
        part = self.spec.part(name, self.spec.redis_command(port, name), REDIS_READY)
        return RedisServer(part, port, redis.asyncio.Redis(port=port, socket_timeout=10))

    def _worker(self, index: int, grpc_port: int, metrics_port: int) -> Part:
        settings = {
            "redis-url": f"redis://127.0.0.1:{self.worker_redis.port}",
            "run-id": self.spec.name,
            "model-dir": self.recipe.model.dir,
            "reward": f"ocr=127.0.0.1:{self.ocr_link.port}",
            "weights-cache": self.spec.out / f"cache-{index}",
            "min-idle-s": MIN_IDLE_S,
            "max-deliveries": MAX_DELIVERIES,
            "max-prompt-chars": MAX_PROMPT_CHARS,
            "grpc-port": grpc_port,
            "metrics-port": metrics_port,
        }
        return self.spec.part(f"rollout-{index}", module("varl.services.rollout", *flags(settings)))


@asynccontextmanager
async def running(spec: RunSpec) -> AsyncIterator[Rig]:
    """A run in progress; everything is stopped at the end of the block."""
    ports = [reserve_port() for _ in range(4 + 2 * WORKERS)]
    async with AsyncExitStack() as stack:
        links = [await stack.enter_async_context(link_to(port)) for port in (ports[0], ports[0], ports[3])]
        rig = Rig(spec, ports, *links)
        stack.push_async_callback(rig.stop)
        await rig.start()
        yield rig


async def serving(port: int) -> None:
    """Return once a gRPC server on this port of the loopback says that it serves."""
    async with grpc.aio.insecure_channel(
        f"127.0.0.1:{port}", options=[("grpc.max_reconnect_backoff_ms", 500)]
    ) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        while True:
            try:
                answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=2.0, wait_for_ready=True)
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
            except grpc.aio.AioRpcError:  # not yet
                pass
            await asyncio.sleep(0.05)
