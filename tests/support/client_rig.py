"""A real HTTP server that answers as a reward service or a gateway would, after what a script says.

It also puts both clients behind one call.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.datastructures import UploadFile

from clients.varl_client import AsyncRewardClient, RewardClient, Scores

MODEL = {"engine": "rig", "name": "bytes of the file", "revision": "1"}
Reply = Callable[[dict[str, Any], Mapping[str, bytes]], Response]


def json_reply(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(json.dumps(body), status, headers, "application/json")


def problem(status: int, code: str, retry_after: str | None = None) -> Reply:
    """A refusal of the whole request."""
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return lambda *_: json_reply({"code": code, "detail": "on purpose", "status": status}, status, headers)


def sizes(head: Mapping[str, Any], files: Mapping[str, bytes]) -> dict[str, Any]:
    """The answer of one reward: an image's score is the size of its file."""
    results = [
        {"id": sample["id"], "value": len(files[sample["id"]]), "components": {}, "words": []}
        for sample in head["samples"]
    ]
    return {"reward": "size", "model": MODEL, "results": results}


@dataclass
class Rig:
    """What to answer next, what to answer when that is used up, and what was asked."""

    script: list[Reply] = field(default_factory=list)
    reply: Reply = lambda head, files: json_reply(sizes(head, files))
    info: Mapping[str, Any] = field(
        default_factory=lambda: {"reward": "size", "max_samples": 256, "max_image_bytes": 10_000}
    )
    asked: list[dict[str, Any]] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    gate: asyncio.Barrier | None = None

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/v1/info")
        async def info() -> Mapping[str, Any]:
            return self.info

        @app.post("/v1/score")
        async def score(request: Request) -> Response:
            form = await request.form(max_files=1000)
            head = json.loads(str(form["request"]))
            files = {name: await part.read() for name, part in form.items() if isinstance(part, UploadFile)}
            self.asked.append(head)
            self.tokens.append(request.headers.get("authorization"))
            if self.gate is not None:
                await self.gate.wait()
            return self.script.pop(0)(head, files) if self.script else self.reply(head, files)

        return app


def listen() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def url_of(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def serving(app: FastAPI, listener: socket.socket | None = None) -> Iterator[str]:
    """Serve an app from another thread; its URL."""
    listener = listener or listen()
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield url_of(listener)
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def sync_scores(
    url: str,
    images: Sequence[bytes],
    call: Mapping[str, Any] | None = None,
    **options: Any,  # noqa: ANN401
) -> dict[str, Scores]:
    with RewardClient(url, **options) as client:
        return client.score(images, **{"prompts": ["p"] * len(images), **(call or {})})


def async_scores(
    url: str,
    images: Sequence[bytes],
    call: Mapping[str, Any] | None = None,
    **options: Any,  # noqa: ANN401
) -> dict[str, Scores]:
    async def run() -> dict[str, Scores]:
        async with AsyncRewardClient(url, **options) as client:
            return await client.score(images, **{"prompts": ["p"] * len(images), **(call or {})})

    return asyncio.run(run())
