"""Real reward services over gRPC behind a real gateway's HTTP API, on one event loop.

The services can be stopped and started again.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import uvicorn

from tests.support.compat_rig import ToyScorer, base64_of, grey
from varl.launch.ports import reserve_port
from varl.services.gateway.gateway import Gateway
from varl.services.gateway.http_app import build_gateway_app
from varl.services.gateway.settings import GatewaySettings
from varl.services.serving.grpc.health import Health
from varl.services.serving.grpc.server import SERVICE_NAME, build_server
from varl.services.serving.scoring import ScorerSample
from varl.services.serving.service import ScoringService
from varl.services.serving.settings import ServingSettings


class GatedScorer(ToyScorer):
    """Answers once ``gate`` is open."""

    def __init__(self, reward: str) -> None:
        super().__init__(reward)
        self.gate = threading.Event()
        self.gate.set()

    def _forward(self, samples: Sequence[ScorerSample]) -> list[float]:
        self.gate.wait(60)
        return super()._forward(samples)


class Toy:
    """A reward service on a port of its own."""

    def __init__(self, reward: str, port: int, **changes: Any) -> None:  # noqa: ANN401
        self.scorer = GatedScorer(reward)
        self.settings = ServingSettings(**changes)
        self.port, self.health = port, Health(SERVICE_NAME)

    async def start(self) -> None:
        self.service = ScoringService(self.settings, self.scorer)
        self._server = build_server(self.service)
        await self.health.add_to(self._server)
        self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()
        await self.service.start()
        await self.health.set_serving(True)

    async def stop(self) -> None:
        self.scorer.gate.set()
        await self._server.stop(None)
        await self.service.close()


@asynccontextmanager
async def toy(reward: str, **changes: Any) -> AsyncIterator[Toy]:  # noqa: ANN401
    """A service that is up."""
    service = Toy(reward, reserve_port(), **changes)
    await service.start()
    yield service
    await service.stop()


class Rig:
    """A gateway, its URL and an HTTP client for it."""

    def __init__(self, gateway: Gateway, url: str, http: httpx.AsyncClient) -> None:
        self.gateway, self.url, self.http = gateway, url, http

    async def score(self, *samples: dict[str, Any], **choice: Any) -> httpx.Response:  # noqa: ANN401
        return await self.http.post("/v1/score", json={"samples": samples or [sample("a")], **choice})

    async def until(self, reward: str, state: str) -> None:
        await until(lambda: self.gateway.states()[reward] == state)


async def until(condition: Callable[[], bool]) -> None:
    """Poll; the test's own timeout ends a wait that never ends."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


@asynccontextmanager
async def gateway(ports: Mapping[str, int], **changes: Any) -> AsyncIterator[Rig]:  # noqa: ANN401
    """A gateway that has started over services on these ports, at least one of which is up."""
    async with AsyncExitStack() as stack:
        built = Gateway(GatewaySettings(reward={name: f"127.0.0.1:{port}" for name, port in ports.items()}, **changes))
        stack.push_async_callback(built.close)
        await built.start()
        url = await stack.enter_async_context(serving(built))
        yield Rig(built, url, await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=240)))


@asynccontextmanager
async def serving(built: Gateway) -> AsyncIterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(build_gateway_app(built), log_config=None, lifespan="off", timeout_graceful_shutdown=5)
    )
    task = asyncio.create_task(server.serve(sockets=[listener]))
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    await task


def sample(name: str, prompt: str = "p", level: int = 255) -> dict[str, Any]:
    return {"id": name, "prompt": prompt, "image": base64_of(grey(level))}
