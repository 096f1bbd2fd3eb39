"""The process: load, announce, work, stop."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import grpc
import redis
from grpc_health.v1 import health
from redis.exceptions import RedisError
from safetensors import SafetensorError

from varl.launch.waits import Wait
from varl.policy.base import TrainablePolicy
from varl.policy.load import load
from varl.services.rollout.capacity import batches, divide_device
from varl.services.rollout.generation import Limits
from varl.services.rollout.http_app import build_preview_app
from varl.services.rollout.metrics import Metrics
from varl.services.rollout.model import ModelThread, Weights
from varl.services.rollout.places import Places
from varl.services.rollout.preview import Preview
from varl.services.rollout.scoring import BatchScorer
from varl.services.rollout.service import SERVICE_NAME, Model, RolloutServicer
from varl.services.rollout.settings import RolloutServiceSettings
from varl.services.rollout.worker import Parts, Worker, WorkerSettings
from varl.services.serving.access import BearerInterceptor, Tokens, read_tokens
from varl.services.serving.grpc.client import MAX_MESSAGE_BYTES, RewardClient, RewardUnavailable
from varl.services.serving.grpc.health import Health
from varl.services.serving.grpc.reflection import Reflection
from varl.services.serving.grpc.server import server_options
from varl.services.serving.http.guard import ConnectionLimits, connections_within
from varl.services.serving.http.metrics_app import metrics_app
from varl.services.serving.http.server import HttpServer, ServerFace, listen
from varl.services.serving.logs import configure_logs
from varl.services.serving.memory import giving_back
from varl.trajectories.access import require_usable
from varl.trajectories.queue import RunQueue
from varl.trajectories.redis_retry import is_passing

_log = logging.getLogger("varl.rollout")
REDIS_PAUSE_S = 0.5
MAX_CONNECTIONS = 1024  # of gRPC, and of the metrics
MAX_SMALL_BYTES = 2**20  # of bodies in flight: to the metrics nobody sends one, to the page prompts
START_ERRORS = (
    OSError,
    ValueError,
    RuntimeError,
    SafetensorError,
    RewardUnavailable,
    RedisError,
)  # OSError covers TimeoutError


def run(settings: RolloutServiceSettings) -> int:
    """Work until SIGTERM or SIGINT, then finish the jobs in hand.

    The exit code: 0, or 1 where it could not start or the device failed. Prints one line on stdout, {"event": "ready",
    "grpc_port": …, "metrics_port": …}, with "http_port" where there is one, once jobs are taken. Everything else goes
    to stderr.
    """
    configure_logs(settings.log_level)
    return asyncio.run(Service(settings).serve())


class Service:
    """One rollout process."""

    def __init__(self, settings: RolloutServiceSettings) -> None:
        self._settings = settings
        self._limits = Limits(
            settings.sample_batch, settings.decode_batch, settings.max_prompt_chars, fixed=settings.batch_invariant
        )
        self._name = settings.worker or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        places, default = Places(settings.max_waiting), settings.sampling.params()
        self._servicer = RolloutServicer(default, self._limits, settings.max_images, places)
        self._preview = Preview(default, self._limits, places, settings.tuned_weights)
        self._metrics = Metrics()
        self._health = Health(SERVICE_NAME)
        self._stop = asyncio.Event()

    async def serve(self) -> int:
        """Run the process to its end; the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)
        async with AsyncExitStack() as stack:
            thread = ModelThread(self._settings.threads)
            stack.callback(thread.close)
            try:
                ports = await self._listen(stack)
                parts = await self._start(stack, thread)
            except START_ERRORS as error:
                _log.error("cannot start: %s: %s", type(error).__name__, error)
                return 1
            if self._stop.is_set():
                return 0
            await self._health.set_serving(True)
            sys.stdout.write(json.dumps({"event": "ready", **ports}) + "\n")
            sys.stdout.flush()
            async with giving_back():
                return await self._work(parts)

    async def _work(self, parts: Parts | None) -> int:
        """Take jobs until told to stop; without ``parts`` there are none. The exit code."""
        settings = self._settings
        if parts is None:
            await self._stop.wait()
            return 0
        idle_ms, timeout_s = round(1000 * settings.min_idle_s), settings.score_timeout_s
        work = WorkerSettings(
            self._name, settings.concurrency, idle_ms, self._limits, timeout_s, settings.grace_seconds
        )
        draining = asyncio.create_task(self._drain_on_stop())
        try:
            await Worker(parts, work, self._stop).run()
        except ExceptionGroup as error:  # the device's state is lost; a new process may have more luck
            _log.error("worker failed", exc_info=error)
            return 1
        finally:
            draining.cancel()
        return 0

    async def _drain_on_stop(self) -> None:
        await self._stop.wait()
        await self._drain()

    async def _listen(self, stack: AsyncExitStack) -> dict[str, int]:
        """Open the ports, NOT_SERVING."""
        tokens = read_tokens(self._settings.token_file)
        gate = [BearerInterceptor(tokens, self._metrics.refused.inc)] if tokens else []
        server = grpc.aio.server(
            options=server_options(MAX_MESSAGE_BYTES, connections_within(MAX_CONNECTIONS)), interceptors=gate
        )
        server.add_generic_rpc_handlers((self._servicer.handler,))
        await self._health.add_to(server)
        if self._settings.reflection:
            Reflection((SERVICE_NAME, health.SERVICE_NAME)).add_to(server)
        grpc_port = self._settings.grpc_files().add_port(server, self._settings.host, self._settings.grpc_port)
        await server.start()
        stack.push_async_callback(server.stop, self._settings.grace_seconds)
        http = self._serve_http(tokens)
        if http is not None:
            stack.push_async_callback(http.close)
        stack.push_async_callback(self._drain)
        limits = ConnectionLimits(connections_within(MAX_CONNECTIONS), MAX_SMALL_BYTES)
        listener = listen(self._settings.host, self._settings.metrics_port)
        metrics = HttpServer(metrics_app(self._metrics.render), listener, limits, lambda _: None)
        stack.push_async_callback(metrics.close)
        return {
            "grpc_port": grpc_port,
            "metrics_port": metrics.port,
            **({} if http is None else {"http_port": http.port}),
        }

    def _serve_http(self, tokens: Tokens | None) -> HttpServer | None:
        """The page and its API, where a port is set for them; raises OSError."""
        settings = self._settings
        if settings.http_port is None:
            return None
        return HttpServer(
            build_preview_app(self._preview, settings.model_dir.name),
            listen(settings.host, settings.http_port),
            ConnectionLimits(connections_within(MAX_CONNECTIONS), MAX_SMALL_BYTES),
            lambda _: None,
            refused=self._metrics.refused.inc,
            face=ServerFace(settings.tls_cert_file, settings.tls_key_file, tokens),
            grace_seconds=settings.grace_seconds,
        )

    async def _drain(self) -> None:
        self._servicer.model = self._preview.model = None
        await self._health.shut_down()

    async def _start(self, stack: AsyncExitStack, thread: ModelThread) -> Parts | None:
        """Load the policy while the rewards and Redis come up, unless the process is told to stop meanwhile."""
        starting = asyncio.create_task(self._parts(stack, thread))
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if starting.done():
            return starting.result()
        starting.cancel()
        await asyncio.wait({starting})
        return None

    async def _parts(self, stack: AsyncExitStack, thread: ModelThread) -> Parts | None:
        """What a worker works with; None where no run is named."""
        settings = self._settings
        shown = settings.reward_files().read()
        clients = {
            name: RewardClient(target, settings.score_timeout_s, credentials=shown)
            for name, target in settings.reward.items()
        }
        for client in clients.values():
            await stack.enter_async_context(client)
        policy, queue, _ = await asyncio.gather(
            self._load(thread),
            self._connect(stack),
            self._rewards_ready(list(clients.values())),
        )
        cache = settings.weights_cache or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="varl-weights-")))
        base = settings.model_dir / "policy.safetensors"
        weights = Weights(policy, base, cache, settings.weight_places())
        self._servicer.model = self._preview.model = Model(policy, weights, thread)
        if queue is None:
            return None
        return Parts(policy, weights, thread, BatchScorer(clients, settings.score_batches), queue, self._metrics)

    async def _load(self, thread: ModelThread) -> TrainablePolicy:
        """Load the policy, then see how many sequences fit beside it."""
        settings = self._settings
        await thread.call(divide_device, settings.device, settings.device_share)
        async with Wait(f"the policy of {settings.model_dir} to be loaded").telling():
            policy = await thread.call(load, settings.model_dir, settings.device, settings.dtype, settings.plugin)
            sequences, guided = await thread.call(batches, settings)
        self._limits = self._servicer.limits = self._preview.limits = replace(
            self._limits, sequences=sequences, guided=guided
        )
        return policy

    async def _rewards_ready(self, clients: Sequence[RewardClient]) -> None:
        limit_s = self._settings.ready_timeout_s
        await asyncio.gather(*(client.wait_ready(limit_s) for client in clients))

    async def _connect(self, stack: AsyncExitStack) -> RunQueue | None:
        """The run's jobs, once Redis can be used; None where no run is named.

        Raises what no waiting mends, and RuntimeError where it takes too long.
        """
        if not self._settings.run_id:
            return None
        client = self._settings.redis().connect()
        stack.callback(client.close)
        wait = Wait("Redis", self._settings.ready_timeout_s, _log.warning)
        while True:
            try:
                async with wait.telling():
                    return await asyncio.to_thread(self._queue, client)
            except RedisError as error:
                if not is_passing(error):
                    raise
                if wait.left_s <= 0:
                    raise RuntimeError(f"Redis does not answer: {error}") from error
                wait.tell(error)
            await asyncio.sleep(REDIS_PAUSE_S)

    def _queue(self, client: redis.Redis) -> RunQueue:
        require_usable(client)
        return RunQueue(client, self._settings.run_id, self._name, self._settings.max_deliveries)
