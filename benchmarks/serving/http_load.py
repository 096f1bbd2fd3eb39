"""HTTP requests with as little as possible above the socket, so that the load generator itself is never measured."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple


class Answer(NamedTuple):
    """Status and body."""

    status: int
    body: bytes


def post(path: str, body: bytes, content_type: str = "application/json", token: str = "") -> bytes:
    """A whole request as it goes over the wire."""
    fields = {"host": "127.0.0.1", "content-type": content_type, "content-length": str(len(body))}
    if token:
        fields["authorization"] = f"Bearer {token}"
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "\r\n"]
    return "\r\n".join(lines).encode() + body


def get(path: str) -> bytes:
    """The same without a body."""
    return f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode()


class Connection:
    """One request at a time to one port, on a kept connection where the server keeps it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, request: bytes) -> Answer:
        """The answer to a whole request."""
        reader, writer = self._streams = self._streams or await asyncio.open_connection(
            "127.0.0.1", self._port, limit=2**20
        )
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        answer = Answer(int(head[9:12]), await reader.readexactly(length))
        if b"connection: close" in head:
            self.close()
        return answer

    def close(self) -> None:
        """Close the connection; another request would open a new one."""
        if self._streams is not None:
            self._streams[1].close()
        self._streams = None


async def once(port: int, request: bytes) -> Answer:
    """One request on a connection of its own."""
    connection = Connection(port)
    answer = await connection.send(request)
    connection.close()
    return answer


async def closed_loop(port: int, requests: Sequence[bytes], count: int, clients: int) -> None:
    """``count`` requests, turn about from ``requests``, each client with one in flight; every answer must be a 200."""
    numbers = iter(range(count))

    async def client() -> None:
        connection = Connection(port)
        for number in numbers:
            answer = await connection.send(requests[number % len(requests)])
            if answer.status != 200:
                raise SystemExit(f"the server answered {answer.status}: {answer.body[:300]!r}")
        connection.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
