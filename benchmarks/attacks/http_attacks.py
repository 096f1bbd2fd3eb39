"""Attackers over HTTP: each a coroutine that goes on until it is cancelled."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import Callable, Coroutine, Iterable

from benchmarks.serving.http_load import post
from benchmarks.serving.processes import Server

Attack = Callable[[Server], Coroutine[None, None, None]]
_PAUSE = 0.05  # seconds, where the server ends a connection at once


async def sent(server: Server, pieces: Iterable[bytes], silent: bool = False) -> None:
    """One connection: send the pieces, read what is answered; ``silent``: keep it open until the server ends it."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.http_port)
    except OSError:
        await asyncio.sleep(_PAUSE)
        return
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        await (reader.read() if silent else reader.read(1))
    except OSError:
        pass
    finally:
        writer.close()
    await asyncio.sleep(_PAUSE)


async def _again(server: Server, build: Callable[[], Iterable[bytes]], clients: int, silent: bool = False) -> None:
    async def client() -> None:
        while True:
            await sent(server, build(), silent)

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())


def again(build: Callable[[], Iterable[bytes]], clients: int, silent: bool = False) -> Attack:
    """So many clients, each of which sends the same over and over."""
    return lambda server: _again(server, build, clients, silent)


def body_of(data: dict[str, object]) -> bytes:
    return post("/v1/score", json.dumps(data).encode())


def picture(image: bytes) -> bytes:
    """A request of one picture that says a word."""
    sample = {"id": "0", "prompt": "a 'sign'", "image": b64encode(image).decode()}
    return body_of({"samples": [sample]})


_LINE = b"x-name: " + b"y" * 56 + b"\r\n"
_HEAD = b"GET /livez HTTP/1.1\r\n"
_UNSENT = b"POST /v1/score HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: 31457280\r\n\r\n"
_FAULTS = post("/v1/score", b'{"samples":[' + b"{}," * 100_000 + b"{}]}")
_KEYS = post("/v1/score", b'{"samples":[],' + b",".join(b'"k%d":0' % n for n in range(100_000)) + b"}")

HEADS = again(lambda: (_HEAD, *[_LINE * 1024] * 640), 4)  # 40 MB of lines
VALUE = again(lambda: (_HEAD, b"x: ", *[b"y" * 65_536] * 640), 4)
SILENT = again(tuple, 400, silent=True)
UPLOADS = again(lambda: (_UNSENT, *[b" " * 2**20] * 29), 40, silent=True)
FAULTS = again(lambda: (_FAULTS,), 4)
KEYS = again(lambda: (_KEYS,), 4)
