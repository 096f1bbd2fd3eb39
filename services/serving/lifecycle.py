"""What every HTTP process does from its port to its end: listen, start, announce, stop gracefully."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from typing import Any

import uvicorn
import uvloop
from fastapi import FastAPI

from varl.services.serving.access import BearerGate, Refused, Tokens
from varl.services.serving.logs import configure_logs
from varl.services.serving.settings import HttpSettings
from varl.services.serving.tracing import configure_tracing

_log = logging.getLogger("varl.serving")


class HttpServer:
    """An app on a socket that is bound already; takes requests from the moment it is made.

    Belongs to one event loop.
    """

    def __init__(
        self, app: FastAPI, listener: socket.socket, settings: HttpSettings, tokens: Tokens | None, refused: Refused
    ) -> None:
        """``tokens`` None: everybody may ask; else ``refused`` is told of each request that is rejected."""
        config = uvicorn.Config(
            BearerGate(app, tokens, refused) if tokens else app,
            ssl_certfile=settings.tls_cert_file,
            ssl_keyfile=settings.tls_key_file,
            log_config=None,
            access_log=False,
            proxy_headers=False,  # nobody asks for a client's address
            lifespan="off",
            loop="asyncio",
            timeout_keep_alive=65,  # above the idle time of common proxies, so that they close first
            timeout_graceful_shutdown=round(settings.grace_seconds),
        )
        self._server = _Uvicorn(config)
        self.port: int = listener.getsockname()[1]
        self.task: asyncio.Task[None] = asyncio.create_task(self._server.serve(sockets=[listener]))

    async def close(self) -> None:
        """Take nothing more and wait, up to the grace period, for what is in flight."""
        self._server.should_exit = True
        await self.task


class _Uvicorn(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:  # they are for the whole process, see stop_event
        yield


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


def listen(settings: HttpSettings) -> socket.socket:
    """The socket of the HTTP API; raises OSError."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.create_server((settings.host, settings.http_port), family=family, backlog=2048)
    # asyncio sees to this only for sockets that name their protocol. Without it the body of an answer, sent after its
    # head, waits for the client to acknowledge the head: 40 ms with every request.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


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
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    return max(code for task, code in ends.items() if task.done())


def announce(**ports: int) -> None:
    """Print the ready line, the only line on stdout."""
    sys.stdout.write(json.dumps({"event": "ready", **ports}) + "\n")
    sys.stdout.flush()
