"""What every HTTP process does from its port to its end: listen, start, announce, stop gracefully."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any

import uvloop
from fastapi import FastAPI

from varl.services.serving.access import Tokens
from varl.services.serving.http.guard import ConnectionLimits, connections_within
from varl.services.serving.http.server import HttpMetrics, HttpServer, ServerFace
from varl.services.serving.logs import configure_logs
from varl.services.serving.memory import giving_back
from varl.services.serving.settings import HttpSettings
from varl.services.serving.status import RejectionCode
from varl.services.serving.tracing import configure_tracing

_log = logging.getLogger("varl.serving")


def http_server(
    app: FastAPI, listener: socket.socket, settings: HttpSettings, tokens: Tokens | None, metrics: HttpMetrics
) -> HttpServer:
    """The server of an app with the limits, the certificate and the grace period of the settings."""
    return HttpServer(
        app,
        listener,
        ConnectionLimits(connections_within(settings.max_connections), settings.max_in_flight_bytes),
        metrics.connection_ended,
        refused=partial(metrics.request, "http", RejectionCode.UNAUTHENTICATED),
        face=ServerFace(settings.tls_cert_file, settings.tls_key_file, tokens),
        grace_seconds=settings.grace_seconds,
    )


def run_process(settings: HttpSettings, name: str, serve: Callable[[], Coroutine[None, None, int]]) -> int:
    """Run ``serve`` to its end, with logs and traces as the settings say; the exit code."""
    configure_logs(settings.log_level)
    _yield_rarely()
    try:
        flush = configure_tracing(settings.otlp_endpoint, name)
    except RuntimeError as error:
        _log.error("cannot start: %s", error)
        return 1
    try:
        return uvloop.run(serve())
    finally:
        flush()


def _yield_rarely() -> None:
    """Let a thread that wakes up wait for the one that runs to pause, on cores that this process has for itself alone.

    gRPC's threads wake some six times for a request and would each time push the event loop or the model out of the
    core's caches. Only Linux can be told so.
    """
    if hasattr(os, "SCHED_BATCH"):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def stop_event() -> asyncio.Event:
    """Set by SIGTERM or SIGINT; later signals change nothing, the grace period bounds the wait."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def live(
    start: Coroutine[None, None, None], serving: Callable[[], Awaitable[None]], ends: Mapping[asyncio.Task[Any], int]
) -> int:
    """Start, say so by ``serving``, wait for the first task of ``ends``; its exit code.

    Raises what ``start`` raises.
    """
    starting = asyncio.create_task(start)
    await asyncio.wait({starting, *ends}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.wait({starting})
    else:
        starting.result()
        gc.collect()
        gc.freeze()  # startup objects live to the end: collecting over them took a tenth of the loop's time
        await serving()
        async with giving_back():
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    return max(code for task, code in ends.items() if task.done())


def announce(**ports: int) -> None:
    """Print the ready line, the only line on stdout."""
    sys.stdout.write(json.dumps({"event": "ready", **ports}) + "\n")
    sys.stdout.flush()
