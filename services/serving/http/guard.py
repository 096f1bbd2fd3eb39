"""What all connections of an HTTP server may take together: places, bytes of bodies, seconds.

uvicorn bounds none of these, and reads a request's head, whatever its size, before any application sees a token.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol

from varl.services.serving.http.problems import problem
from varl.services.serving.ticks import Ticks

_TICK = 0.5  # seconds between two looks at all connections
_SETTLED = 1.0  # seconds after which an upload makes room for others where room is short
_KEPT_FILES = 64  # descriptors that are not for connections: logs, model files, the event loop
Closed = Callable[[str], None]


@dataclass(frozen=True)
class ConnectionLimits:
    """Bounds on one connection, and on all of them together.

    ``connections`` are open at a time, ``body_bytes`` are those of bodies of requests that are not answered yet.
    ``head_bytes`` are those of a request line and its header fields, which must be there ``head_seconds`` after the
    first of them, and the first as long after the connection. A body must be there within ``body_seconds`` and come at
    ``body_rate`` bytes a second after the first ``stall_seconds``; an answer must be read on as often. A
    refused client has ``linger_seconds`` to read why.
    """

    connections: int
    body_bytes: int
    head_bytes: int = 64 * 2**10
    head_seconds: float = 10.0
    body_seconds: float = 300.0
    body_rate: float = 32 * 2**10
    stall_seconds: float = 10.0
    linger_seconds: float = 10.0


class Guarded(Protocol):
    """A connection as its guard sees it."""

    since: float
    held: int

    @property
    def idle(self) -> bool:
        """Whether no request has come in whole."""

    @property
    def uploading(self) -> bool:
        """Whether a body is on its way."""

    def refuse(self, answer: Refusal) -> None:
        """Answer so, unless an answer is on its way, and close."""

    def drop(self) -> None:
        """Close without an answer."""

    def look(self, now: float) -> None:
        """End what takes too long."""


@dataclass(frozen=True)
class Refusal:
    """An answer that no application gives."""

    status: HTTPStatus
    code: str
    detail: str
    retry_after: int | None = None

    def render(self) -> bytes:
        """The whole response, after which the connection ends."""
        headers = {} if self.retry_after is None else {"retry-after": str(self.retry_after)}
        response = problem(self.status, self.code, self.detail, headers=headers)
        fields = [*response.raw_headers, (b"connection", b"close")]
        head = b"".join(b"%s: %s\r\n" % field for field in fields)
        return b"HTTP/1.1 %d %s\r\n%s\r\n%s" % (self.status, self.status.phrase.encode(), head, response.body)


FULL = Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "too_many_connections", "no room for more connections", 1)
CROWDED = Refusal(HTTPStatus.TOO_MANY_REQUESTS, "overloaded", "no room for more bytes of bodies, try again later", 1)


class Guard:
    """Keeps the connections of one server within limits. Belongs to one event loop.

    ``closed`` is told the code of each connection that is ended, for a metric.
    """

    def __init__(self, limits: ConnectionLimits, closed: Closed) -> None:
        self.limits, self.closed = limits, closed
        self.bytes = 0
        self._connections: dict[Guarded, None] = {}
        self._ticks = Ticks(_TICK, self._look)

    def __len__(self) -> int:
        return len(self._connections)

    def enter(self, connection: Guarded) -> None:
        """A new connection. Where there is no place, the one that has been idle longest gives up its own."""
        if len(self._connections) >= self.limits.connections:
            oldest = _oldest(each for each in self._connections if each.idle)
            if oldest is None:
                connection.refuse(FULL)
            else:
                oldest.drop()
                self._connections.pop(oldest, None)
        self._connections[connection] = None
        self._ticks.start()

    def leave(self, connection: Guarded) -> None:
        """A connection ended."""
        self.release(connection)
        self._connections.pop(connection, None)

    def reserve(self, connection: Guarded, size: int, now: float) -> None:
        """Hold bytes of a body. Where there is no room, uploads make it that have taken longest, else this one ends."""
        connection.held += size
        self.bytes += size
        while self.bytes > self.limits.body_bytes:
            slow = _oldest(each for each in self._connections if each.uploading and now - each.since > _SETTLED)
            (slow or connection).refuse(CROWDED)
            if slow is None:
                return

    def release(self, connection: Guarded) -> None:
        """What a connection held is answered, or gone."""
        self.bytes -= connection.held
        connection.held = 0

    def _look(self, now: float, held_up: float) -> bool:
        for connection in tuple(self._connections):
            connection.since += held_up
            connection.look(now)
        return bool(self._connections)


def _oldest(connections: Iterable[Guarded]) -> Guarded | None:
    return min(connections, key=lambda each: each.since, default=None)


def connections_within(most: int) -> int:
    """Connections that each of two servers may hold: ``most``, or fewer where the process may not open as many files.

    Lets the process open as many files as it may first.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * most + _KEPT_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return most if soft == resource.RLIM_INFINITY else max(8, min(most, (soft - _KEPT_FILES) // 2))
