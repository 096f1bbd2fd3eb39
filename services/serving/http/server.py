"""An HTTP server on a socket that is bound already, and the limits on its connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import uvicorn
from starlette.types import ASGIApp

from varl.services.serving.access import BearerGate, Refused, Tokens
from varl.services.serving.http.connection import connection_of
from varl.services.serving.http.guard import Closed, ConnectionLimits, Guard


class HttpMetrics(Protocol):
    """What a server counts."""

    def request(self, protocol: str, outcome: str) -> None:
        """A request that no application saw, by the code of its rejection."""

    def connection_ended(self, reason: str) -> None:
        """A connection that took too much."""


@dataclass(frozen=True)
class ServerFace:
    """How a server shows itself: its certificate and key (None: no TLS), and the tokens that open it (None: open)."""

    cert: Path | None = None
    key: Path | None = None
    tokens: Tokens | None = None


class HttpServer:
    """Takes requests from the moment it is made. Belongs to one event loop."""

    def __init__(
        self,
        app: ASGIApp,
        listener: socket.socket,
        limits: ConnectionLimits,
        ended: Closed,
        *,
        refused: Refused = lambda: None,
        face: ServerFace | None = None,
        grace_seconds: float = 0.0,
    ) -> None:
        """``ended`` is told why each connection that takes too much is ended, ``refused`` of each without a token."""
        face = face or ServerFace()
        config = uvicorn.Config(
            BearerGate(app, face.tokens, refused) if face.tokens else app,
            http=connection_of(Guard(limits, ended)),
            ws="none",
            ssl_certfile=face.cert,
            ssl_keyfile=face.key,
            log_config=None,
            access_log=False,
            proxy_headers=False,  # nobody asks for a client's address
            lifespan="off",
            loop="asyncio",
            timeout_keep_alive=65,  # above the idle time of common proxies, so that they close first
            timeout_graceful_shutdown=round(grace_seconds),
        )
        self._server = _Uvicorn(config, limits.head_seconds)
        self.port: int = listener.getsockname()[1]
        self.task: asyncio.Task[None] = asyncio.create_task(self._server.serve(sockets=[listener]))

    async def close(self) -> None:
        """Take nothing more and wait, up to the grace period, for what is in flight."""
        self._server.should_exit = True
        await self.task


class _Uvicorn(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, handshake_seconds: float) -> None:
        super().__init__(config)
        self._handshake_seconds = handshake_seconds

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:  # they are for the whole process, see stop_event
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen as uvicorn does, which knows no deadline for TLS handshakes: a silent client would have a minute."""
        loop, config = asyncio.get_running_loop(), self.config
        connect = partial(
            config.http_protocol_class,
            config=config,  # type: ignore[call-arg]
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        seconds = self._handshake_seconds if config.ssl else None
        self.servers = [
            await loop.create_server(connect, sock=each, ssl=config.ssl, ssl_handshake_timeout=seconds)
            for each in sockets or []
        ]
        self.started = True


def listen(host: str, port: int) -> socket.socket:
    """The socket of an HTTP server; raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=2048)
    # asyncio sees to this only for sockets that name their protocol. Without it the body of an answer, sent after its
    # head, waits for the client to acknowledge the head: 40 ms with every request.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
