"""One process, one event loop: HTTP, gRPC, start, signals, graceful stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from fastapi import APIRouter

from varl.services.serving.access import BearerInterceptor, read_tokens
from varl.services.serving.grpc.health import Health
from varl.services.serving.grpc.server import SERVICE_NAME, build_server
from varl.services.serving.http.app import build_app
from varl.services.serving.http.server import listen
from varl.services.serving.lifecycle import announce, http_server, live, run_process, stop_event
from varl.services.serving.scoring import Scorer, StartError
from varl.services.serving.service import ScoringService, State
from varl.services.serving.settings import ServingSettings
from varl.services.serving.status import RejectionCode

_log = logging.getLogger("varl.serving")
Routes = Callable[[ScoringService], APIRouter]


def run(settings: ServingSettings, scorer: Scorer, routes: Routes | None = None) -> int:
    """Serve a scorer until SIGTERM or SIGINT.

    The process's exit code: 0, or 1 where it could not start or a server ended by itself. ``routes`` are what this
    reward offers over HTTP beside the rest. Prints one line on stdout, {"event": "ready", "http_port": …, "grpc_port":
    …}, once requests are taken. Everything else goes to stderr.
    """
    return run_process(settings, f"varl-{scorer.reward}", partial(_serve, settings, scorer, routes))


async def _serve(settings: ServingSettings, scorer: Scorer, routes: Routes | None) -> int:
    try:
        tokens = read_tokens(settings.token_file)
    except (OSError, ValueError) as error:
        _log.error("cannot start: token_file: %s", error)
        return 1
    stopping = asyncio.create_task(stop_event().wait())
    service = ScoringService(settings, scorer)
    health = Health(SERVICE_NAME)
    refused = partial(service.metrics.request, "grpc", RejectionCode.UNAUTHENTICATED)
    try:
        grpc_server = build_server(service, [BearerInterceptor(tokens, refused)] if tokens else [])
        await health.add_to(grpc_server)
        listener = listen(settings.host, settings.http_port)
        grpc_port = settings.grpc_files().add_port(grpc_server, settings.host, settings.grpc_port)
    except (OSError, RuntimeError, ValueError) as error:
        _log.error(
            "cannot listen on %s, ports %d and %d: %s", settings.host, settings.http_port, settings.grpc_port, error
        )
        return 1
    await grpc_server.start()
    http = http_server(build_app(service, routes), listener, settings, tokens, service.metrics)
    fatal = asyncio.create_task(service.fatal.wait())

    async def serving() -> None:
        await health.set_serving(True)
        announce(http_port=http.port, grpc_port=grpc_port)

    try:
        return await live(service.start(), serving, {stopping: 0, http.task: 1, fatal: 1})
    except StartError as error:
        _log.error("cannot start: %s", error)
        return 1
    finally:
        fatal.cancel()
        service.state = State.DRAINING
        await health.shut_down()
        await asyncio.gather(grpc_server.stop(settings.grace_seconds), http.close())
        await service.close()
