"""An HTTP server with limits on its connections, its application, and raw bytes to and from it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from starlette.types import Receive, Scope, Send

from varl.services.serving.access import Tokens
from varl.services.serving.http.guard import ConnectionLimits
from varl.services.serving.http.server import HttpServer, ServerFace, listen

LIMITS = ConnectionLimits(connections=8, body_bytes=2**20)
HASTY = replace(LIMITS, head_seconds=0.3, stall_seconds=0.3, linger_seconds=0.3)
GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


@dataclass
class Rig:
    port: int
    outcomes: Counter[str]
    bodies: list[int]
    release: asyncio.Event

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def send(self, data: bytes) -> tuple[int, bytes]:
        """Status and body of the answer on a new connection; 0 where there is none."""
        reader, writer = await self.open()
        with_answer = asyncio.create_task(answer(reader))
        try:
            writer.write(data)
            await writer.drain()
        except ConnectionError:
            pass
        try:
            return await with_answer
        finally:
            writer.close()


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return 0, b""
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    return int(head[9:12]), await reader.readexactly(length)


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What still comes until the other side closes."""
    try:
        return await reader.read()
    except ConnectionError:
        return b""


@asynccontextmanager
async def serving(limits: ConnectionLimits = LIMITS, tokens: Tokens | None = None) -> AsyncIterator[Rig]:
    rig = Rig(0, Counter(), [], asyncio.Event())

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        size = 0
        while scope["path"] != "/unread":
            message = await receive()
            size += len(message.get("body", b""))
            if message["type"] == "http.disconnect":
                rig.outcomes["gone"] += 1
                return
            if not message.get("more_body"):
                break
        rig.bodies.append(size)
        if scope["path"] == "/wait":
            await rig.release.wait()
        body = b"x" * (64 * 2**20 if scope["path"] == "/long" else 2)
        fields = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send({"type": "http.response.body", "body": body})

    face = ServerFace(tokens=tokens)
    server = HttpServer(app, listen("127.0.0.1", 0), limits, lambda code: rig.outcomes.update([code]), face=face)
    rig.port = server.port
    try:
        yield rig
    finally:
        await server.close()


def post(length: int, path: str = "/", body: bytes = b"") -> bytes:
    return b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s" % (path.encode(), length, body)


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
