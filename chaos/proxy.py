"""A TCP proxy on the loopback whose connections can be reset, stalled, refused or led elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

CHUNK = 2**16
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER of no time: closing sends RST instead of FIN


class Link:
    """One way to a server; ``port`` is where clients connect."""

    def __init__(self, upstream_port: int) -> None:
        self._upstream_port = upstream_port
        self._open: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._stalls = self._refusals = 0  # in force; they may overlap
        self.port = 0

    def move_to(self, upstream_port: int) -> None:
        """Lead new connections to another port; those that are open stay, as when an address moves."""
        self._upstream_port = upstream_port

    def reset(self) -> int:
        """Break all connections by RST, on both sides; returns how many there were."""
        broken = len(self._open) // 2
        for writer in self._open:
            _abort(writer)
        self._open = set()
        return broken

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """Let no byte through, in either direction; connections stay, and new ones are taken but lead nowhere yet."""
        self._stalls += 1
        self._flowing.clear()
        try:
            yield
        finally:
            self._stalls -= 1
            if not self._stalls:
                self._flowing.set()

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Break all connections and whatever new ones come."""
        self._refusals += 1
        self.reset()
        try:
            yield
        finally:
            self._refusals -= 1

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection to its end."""
        if self._refusals:
            _abort(writer)
            return
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        except OSError:  # nobody listens behind: what a client would have met without the proxy
            _abort(writer)
            return
        self._open |= {writer, up_writer}
        ways = [
            asyncio.create_task(self._carry(reader, up_writer)),
            asyncio.create_task(self._carry(up_reader, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            for end in (writer, up_writer):
                self._open.discard(end)
                end.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):  # the connection ends, as its other half then does
            while data := await reader.read(CHUNK):
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()


@asynccontextmanager
async def link_to(upstream_port: int) -> AsyncIterator[Link]:
    """A link to a port of the loopback, whether anybody listens there yet or not."""
    link = Link(upstream_port)
    server = await asyncio.start_server(link.serve, "127.0.0.1", 0)
    link.port = server.sockets[0].getsockname()[1]
    try:
        yield link
    finally:
        server.close()
        link.reset()


def _abort(writer: asyncio.StreamWriter) -> None:
    raw: socket.socket | None = writer.get_extra_info("socket")
    if raw is not None and raw.fileno() >= 0:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    writer.transport.abort()
