"""One process, one event loop: HTTP, gRPC, start, signals, graceful stop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import socket
import sys
from collections.abc import Iterator

import uvicorn

from services.serving.grpc_face import build_server
from services.serving.health import Health
from services.serving.http_face import build_app
from services.serving.scoring import Scorer, StartError
from services.serving.service import ScoringService, State
from services.serving.settings import ServingSettings

_log = logging.getLogger("varl.serving")


class _Uvicorn(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:  # the runner handles signals, for both faces at once
        yield


def run(settings: ServingSettings, scorer: Scorer) -> int:
    """Serve a scorer until SIGTERM or SIGINT; the process's exit code: 0, or 1 where it could not start or a face ended by itself.

    Prints one line on stdout, {"event": "ready", "http_port": …, "grpc_port": …}, once requests are taken. Everything else goes to stderr.
    """
    logging.basicConfig(level=settings.log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    return asyncio.run(_serve(settings, scorer))


async def _serve(settings: ServingSettings, scorer: Scorer) -> int:
    stop = _stop_event()
    service = ScoringService(settings, scorer)
    health = Health()
    grpc_server = build_server(service)
    await health.add_to(grpc_server)
    try:
        listener = socket.create_server((settings.host, settings.http_port), family=_family(settings.host), backlog=2048)
        grpc_port = grpc_server.add_insecure_port(_address(settings.host, settings.grpc_port))
    except (OSError, RuntimeError) as error:
        _log.error("cannot listen on %s, ports %d and %d: %s", settings.host, settings.http_port, settings.grpc_port, error)
        return 1
    await grpc_server.start()
    http_server = _Uvicorn(_http_config(service))
    http = asyncio.create_task(http_server.serve(sockets=[listener]))
    try:
        return await _live(service, health, stop, http, {"http_port": listener.getsockname()[1], "grpc_port": grpc_port})
    finally:
        service.state = State.DRAINING
        await health.shut_down()
        http_server.should_exit = True
        await asyncio.gather(grpc_server.stop(settings.grace_seconds), http)
        await service.close()


async def _live(
    service: ScoringService,
    health: Health,
    stop: asyncio.Event,
    http: asyncio.Task[None],
    ports: dict[str, int],
) -> int:
    """Load, announce, wait for the end; the exit code."""
    starting = asyncio.create_task(service.start())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({starting, stopping, http}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        return 1 if http.done() else 0
    try:
        starting.result()
    except StartError as error:
        _log.error("cannot start: %s", error)
        return 1
    await health.set_serving(True)
    sys.stdout.write(json.dumps({"event": "ready", **ports}) + "\n")
    sys.stdout.flush()
    await asyncio.wait({stopping, http}, return_when=asyncio.FIRST_COMPLETED)
    return 1 if http.done() else 0


def _http_config(service: ScoringService) -> uvicorn.Config:
    return uvicorn.Config(
        build_app(service),
        log_config=None,
        access_log=False,
        lifespan="off",
        loop="asyncio",
        timeout_keep_alive=65,  # above the idle time of common proxies, so that they close first
        timeout_graceful_shutdown=round(service.settings.grace_seconds),
    )


def _stop_event() -> asyncio.Event:
    """Set by SIGTERM or SIGINT; later signals change nothing, the grace period bounds the wait."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
